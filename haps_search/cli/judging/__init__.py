"""haps evaluate on a replay: which checkpoints are judged, beside what, and how it is shown."""
