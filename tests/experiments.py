"""Small experiments over the tiny random candidates."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from haps_search.config.run import Experiment


def tiny_experiment(tiny_lms: Mapping[str, Path], **changes: Any) -> Experiment:
    """Float64, two candidates, the third LM as backbone; `changes` are dotted paths with __ for dots."""
    described: dict[str, Any] = {
        "task": {"type": "skills"},
        "candidates": [
            {"name": n, "source": {"type": "path", "path": str(tiny_lms[n])}, "dtype": "float64", "device": "cpu"}
            for n in ("llama", "qwen2")
        ],
        "routing": {
            "prompt": "question",
            "backbone": {
                "source": {"type": "path", "path": str(tiny_lms["mistral"])}, "dtype": "float64", "device": "cpu",
            },
            "low_level": {"type": "generated", "hidden": [16], "init": "xavier"},
            "lora": {"rank": 3, "scaling": 0.5},
        },
        "run": {
            "steps": 6, "questions_per_step": 4, "episodes_per_question": 4,
            "sampling": {"max_new_tokens": 5}, "validation": {"every": 3, "questions": 6}, "checkpoint_every": 2,
        },
        "engine": {"type": "local", "threads": 1},
    }  # fmt: skip
    for path, value in changes.items():
        *parents, last = path.split("__")
        at = described
        for parent in parents:
            at = at.setdefault(parent, {})
        at[last] = value
    return Experiment.model_validate(described)
