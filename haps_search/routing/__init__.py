"""The hierarchical router: one reading of the question, two decisions."""
