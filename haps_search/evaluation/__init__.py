"""Honest numbers: intervals, comparisons, references."""
