"""A made-up journal of the embedded study, and what each sampler suggested after it."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from haps_search.config.load import dump, parse_study, read_study
from haps_search.config.sweep import Study
from haps_search.sweep.events import TrialRecord

FILE = Path(__file__).parent / "assets" / "suggestions.json"
SKILLS = Path(__file__).parents[1] / "search_spaces" / "skills.yaml"
LOW, HIGH = "learning.learning_rate.low", "learning.learning_rate.high"
RANK, HIDDEN = "routing.lora.rank", "routing.low_level.hidden"
NUMBERS = (12, 13, 14)


def embedded(**sweep: Any) -> Study:
    """The shipped study with parts of its sweep changed; cmaes searches its learning rates only."""
    values = dump(read_study(SKILLS))
    values["sweep"] |= sweep
    if sweep.get("sampler", {}).get("type") == "cmaes":
        values["space"] = {name: values["space"][name] for name in (LOW, HIGH)}
    return parse_study(values)


def journal() -> list[TrialRecord]:
    """Twelve trials: finished, stopped by the scheduler, one failed, one running."""
    trials = []
    for n in range(12):
        low, high = 1e-4 * 10 ** ((7 * n % 12) / 12), 3e-4 * (20 / 3) ** ((5 * n % 12) / 12)
        parameters = {LOW: low, HIGH: high, RANK: (2, 4, 8)[n % 3], HIDDEN: ([128, 128], [256, 256])[n // 2 % 2]}
        halted = n % 3 == 1
        # What was stopped looks better than it is, so that it matters what it is told as.
        final = (1.6 if halted else 1.0) - abs(math.log10(low) + 3.4) / 2 - abs(math.log10(high) + 3.0) / 3
        steps = range(25, 101 if halted else 201, 25)
        reports = tuple((s, {"validation_reward": final * (1 - 0.8 * math.exp(-s / 60))}) for s in steps)
        state: Any = "stopped" if halted else "finished"
        trials.append(TrialRecord(n, parameters, 0, "search", "", state, reports, reports[-1][1], attempts=1))
    trials[5] = replace(trials[5], state="failed", metrics={}, error="Diverged: nan")
    trials[11] = replace(trials[11], state="running", metrics={}, reports=trials[11].reports[:2])
    return trials


def recorded() -> dict[str, Any]:
    return dict(json.loads(FILE.read_text()))
