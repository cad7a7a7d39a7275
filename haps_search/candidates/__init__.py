"""The pool's frozen LLMs: where they come from, how they speak, and the gradients they return."""
