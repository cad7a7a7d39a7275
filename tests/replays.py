"""Outcome tables written to files, and experiments over them, of which the right answer is known."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from haps_search.config.run import Experiment

MODELS = ("adder", "reverser", "sorter")
WORDS = {"adder": "add {} and {}", "reverser": "turn {} {} around", "sorter": "put {} {} in order"}


def row(id: str, text: str, scores: Mapping[str, float | None], **fields: Any) -> dict[str, Any]:
    return {"id": id, "task": "all", "split": "train", "query": text, "scores": dict(scores), **fields}


def write_table(file: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def skilled(file: Path, count: int = 400, seed: int = 0, costs: Sequence[float] = ()) -> Path:
    """The words of a question say which model earns 1; the others earn 0. `costs` are per model, the same each time."""
    draw, rows = random.Random(seed), []
    for i in range(count):
        able = MODELS[i % 3]
        text = WORDS[able].format(*("".join(draw.choices("abcdefghij", k=4)) for _ in range(2)))
        paid = {"cost": dict(zip(MODELS, costs, strict=True))} if costs else {}
        rows.append(row(f"q{i}", text, {m: float(m == able) for m in MODELS}, **paid))
    return write_table(file, rows)


def replay_experiment(file: Path, models: Sequence[str] = MODELS, **changes: Any) -> Experiment:
    """Small, seconds long; `changes` are dotted paths with __ for dots."""
    described: dict[str, Any] = {
        "task": {"type": "replay", "table": {"file": str(file), "missing": "keep"}},
        "candidates": [{"name": name, "source": {"type": "table"}} for name in models],
        "routing": {
            "prompt": "question",
            "backbone": {"type": "features", "features": [{"type": "tfidf", "buckets": 1024, "dimensions": 16}]},
            "low_level": {"type": "none"},
        },
        "learning": {
            "signal": "outcomes", "outcome_loss": {"type": "expected_reward"}, "learning_rate": {"high": 0.03},
            "entropy_bonus": 0.001,
        },
        "run": {
            "steps": 60, "questions_per_step": 64, "validation": {"every": 20, "questions": 500},
            "checkpoint_every": 10,
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
