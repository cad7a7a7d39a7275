"""The `haps` command: one file per verb. Nothing heavy is imported before the arguments are read."""
