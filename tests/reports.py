"""Folders of sweeps and runs to report on, written without training anything."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sweeps import DESCRIBED, a_trial, write

from haps_search.config.load import dump as dumped
from haps_search.config.load import fingerprint, parse_study
from haps_search.config.sweep import Study
from haps_search.report.source import Source, read_sweep
from haps_search.sweep.events import SweepEnded, SweepStarted, TrialRecord
from haps_search.sweep.journal import Journal
from haps_search.sweep.layout import trial_folder

RATE, RANK, LOW, HIDDEN = (
    *("learning.learning_rate.high", "routing.lora.rank", "routing.low_level.type", "routing.low_level.hidden"),
)  # fmt: skip
SPACE: dict[str, Any] = {
    RATE: {"type": "log", "low": 1e-4, "high": 1e-2},
    RANK: {"type": "int", "low": 2, "high": 16, "step": 2},
    HIDDEN: {"type": "choice", "values": [[8], [8, 8], [16]], "when": {LOW: "generated"}},
    LOW: {"type": "choice", "values": ["none", "generated"]},
}
TWO = [{"metric": "validation_reward"}, {"metric": "validation_cost", "mode": "min"}]


def study_of(**changes: Any) -> Study:
    """A study of the tiny experiment; `changes` are its own fields."""
    return parse_study({**DESCRIBED, **changes})


def steps_of(rewards: Sequence[float], **others: float) -> list[Mapping[str, float]]:
    """Metrics of steps 1, 2, ...: the reward, shares of the two candidates, and whatever is given."""
    return [
        {"reward": r, "route_entropy": 0.6 - 0.01 * i, "share/adder": r, "share/sorter": 1 - r, **others}
        for i, r in enumerate(rewards)
    ]


def log(folder: Path, steps: Sequence[Mapping[str, float]]) -> None:
    """A run's metrics.jsonl."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"step": n, "time": 0.0, "metrics": dict(m)}) for n, m in enumerate(steps, start=1)]
    (folder / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines))


def a_sweep(
    folder: Path, study: Study, trials: Sequence[TrialRecord], steps: Mapping[int, Sequence[Mapping[str, float]]],
    ended: str = "",
) -> Journal:  # fmt: skip
    """A sweep's folder as a driver leaves it; without `ended` it still runs."""
    folder.mkdir(parents=True)
    journal = Journal(folder)
    journal.append(SweepStarted(dumped(study), fingerprint(study), "9.9", 1767225600.0))
    write(journal, *trials)
    for number, metrics in steps.items():
        log(trial_folder(folder, number), metrics)
    if ended:
        journal.append(SweepEnded(ended, 1767229200.0))
    return journal


def searched(folder: Path, name: str = "tiny", count: int = 6, ended: str = "all trials ended") -> Source:
    """Two objectives, a conditional parameter, one failed trial, one stopped, one with an alarm, one confirming."""
    study = study_of(space=SPACE, sweep={"objectives": TWO, "trials": max(count, 1)})
    trials = [_searched(n) for n in range(count)]
    error = "Diverged: <b>loss</b> is nan & gone"
    trials.append(a_trial(count, state="failed", error=error, parameters={RATE: 0.01, RANK: 4, LOW: "none"}))
    if count:
        again = {"validation_reward": 0.5, "validation_cost": 1.0}
        label, parameters = f"trial {count - 1}", trials[count - 1].parameters
        trials.append(a_trial(count + 1, None, kind="confirm", label=label, parameters=parameters, metrics=again))
    rewards = [0.1 * (i + 1) for i in range(5)]
    steps = {t.number: steps_of(rewards, route_collapse=float(t.number == 1)) for t in trials}
    return read_sweep(a_sweep(folder / name, study, trials, steps, ended))


def _searched(number: int) -> TrialRecord:
    parameters: dict[str, Any] = {RATE: 10 ** (-4 + number / 4), RANK: 2 + 2 * (number % 8), LOW: "none"}
    if number % 2:
        parameters |= {LOW: "generated", HIDDEN: [[8], [8, 8], [16]][number % 3]}
    metrics = {"validation_reward": 0.3 + 0.1 * number, "validation_cost": 1.0 + (number - 2) ** 2}
    return a_trial(number, parameters=parameters, metrics=metrics, state="stopped" if number == 2 else "finished")
