"""Studies and trial records that need no model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from haps_search.config.load import parse_study
from haps_search.config.sweep import Study
from haps_search.sweep.events import AttemptStarted, TrialEnded, TrialRecord, TrialSuggested
from haps_search.sweep.journal import Journal

DESCRIBED: dict[str, Any] = {
    "name": "tiny",
    "experiment": {
        "task": {"type": "skills"},
        "candidates": [{"name": n, "source": {"type": "zoo", "name": n}} for n in ("adder", "sorter")],
        "run": {"steps": 20, "seed": 11},
    },
    "tracking": {"mlflow": False},
}


def a_study(space: Mapping[str, Any] | None = None, experiment: Mapping[str, Any] | None = None, **sweep: Any) -> Study:
    described = {**DESCRIBED, "experiment": {**DESCRIBED["experiment"], **(experiment or {})}}
    return parse_study({**described, "space": dict(space or {}), "sweep": sweep})


def a_trial(number: int, reward: float | None = None, **changes: Any) -> TrialRecord:
    """A search trial that finished with this validation reward; any field can be changed."""
    metrics = {} if reward is None else {"validation_reward": reward}
    fields: dict[str, Any] = {
        "number": number, "parameters": {}, "seed": 11, "kind": "search", "label": "", "state": "finished",
        "metrics": metrics, "attempts": 1,
    }  # fmt: skip
    return TrialRecord(**{**fields, **changes})


def write(journal: Journal, *trials: TrialRecord) -> None:
    """The events that make these records."""
    for t in trials:
        journal.append(TrialSuggested(t.number, t.parameters, t.seed, t.kind, t.label, t.of))
        if t.attempts:
            journal.append(AttemptStarted(t.number, t.attempts))
        if t.state in ("finished", "stopped", "failed"):
            journal.append(TrialEnded(t.number, t.state, t.metrics, t.error))
