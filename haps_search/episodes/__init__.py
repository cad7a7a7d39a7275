"""Dialogues of role turns, many at once."""
