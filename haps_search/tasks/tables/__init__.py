"""Outcome tables that others measured: files in, an OutcomeTable out."""
