"""LoRA deltas: where they go (spec), what they are (delta), how they act (injection), how they leave (export)."""
