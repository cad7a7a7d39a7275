"""What the rows of tables are called: results are stored, compared and read again by these names."""

RANDOM = "random"
ORACLE = "per-query oracle"
JOINT = "joint"
STATIC = "static adapter"
ARCHITECTURE_ONLY = "architecture-only"
