"""The pool's frozen LLMs: where they come from, how they sample, and how they score what was said."""
