"""Fixed features of texts: what a router reads where it has no backbone of its own to train."""
