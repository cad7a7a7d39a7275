"""LoRA adapters: where they go (spec), what they are (adapter), how they act (injection), how they leave (export)."""
