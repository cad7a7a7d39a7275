"""What the rows of tables are called: results are stored, compared and read again by these names."""

RANDOM = "random"
ORACLE = "per-query oracle"
JOINT = "joint"
STATIC = "static adapter"
ARCHITECTURE_ONLY = "architecture-only"
PLAIN_LORA = "plain LoRA"
MAJORITY = "majority answer per task"
BEST_PER_TASK = "best per task"
INDEPENDENT = "independent answerers"
FEW_SHOT = "few-shot"
IN_HINDSIGHT = (ORACLE, INDEPENDENT)
"""Rows that choose with the answers in sight: no router can be held against them."""
