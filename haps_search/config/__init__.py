"""What a user writes: frozen pydantic models, unknown keys refused, no heavy import."""
