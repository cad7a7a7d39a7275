"""How far sweeps and runs are, and whether somebody is at them."""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from haps_search.config.run import Experiment
from haps_search.records.jsonl import read_records
from haps_search.sweep.hold import fetched
from haps_search.sweep.layout import lock_file
from haps_search.sweep.lock import holder, last_holder
from haps_search.sweep.progress import Progress, TrialView, fraction_done, planned_trials, single_runs, sweeps
from haps_search.verbs.find import folder_of, runs_folder, sweep_journal
from haps_search.verbs.frames import frame, page

if TYPE_CHECKING:
    from pandas import DataFrame

State = Literal["ended", "running", "left"]


@dataclass(frozen=True)
class Status:
    """A sweep or a single run. `running`: a process holds it. `left`: nobody does, and it has not ended; `reason` says
    in words how it ended, who is at it, or what became of who was."""

    name: str
    kind: Literal["sweep", "run"]
    state: State
    reason: str
    trials: tuple[TrialView, ...]
    done: float

    @property
    def frame(self) -> DataFrame:
        """A row per trial begun."""
        rows = [
            {
                "trial": v.number,
                "label": v.label,
                "state": v.state,
                "step": v.step,
                "steps": v.steps,
                "reward": v.reward,
            }
            | {"validation": v.validation, "entropy": v.entropy, "note": v.error or v.alarm}
            for v in self.trials
        ]
        return frame(rows, "trial")

    def _repr_html_(self) -> str:
        return page(f"{self.kind} {self.name}: {self.state}, {self.done:.0%} of its steps", {"trials": self.frame})


def status(name: str | None = None, runs: str | Path = "runs") -> list[Status]:
    """One sweep or run, or all of a runs folder by name. Raises ConfigError with near names where there is none."""
    there = runs_folder(runs)
    begun = sweeps(there)
    if name is None:
        found = [*(_sweep(there, each) for each in begun), *(_run(there / each) for each in single_runs(there))]
        return sorted(found, key=lambda s: s.name)
    folder = folder_of(there, name)
    return [_sweep(there, name) if name in begun else _run(folder)]


def _sweep(runs: Path, name: str) -> Status:
    journal = sweep_journal(runs, name)
    study, ended = journal.study(), journal.ended()
    views = tuple(Progress(journal, study).trials())
    done = 1.0 if ended else fraction_done(views, study, planned_trials(study))
    state, reason = _ended(ended.reason) if ended else _held(journal.folder)
    return Status(name, "sweep", state, reason, views, done)


def _run(folder: Path) -> Status:
    fetched(folder)
    steps = Experiment.model_validate_json((folder / "experiment.json").read_text()).total_steps
    records, result = list(read_records(folder / "metrics.jsonl")), folder / "result.json"
    step = records[-1].step if records else 0
    metrics: dict[str, Any] = {name: value for record in records for name, value in record.metrics.items()}
    there = result.exists()
    state, reason = _ended(str(json.loads(result.read_text())["reason"])) if there else _held(folder)
    view = TrialView(
        0, folder.name, "finished" if state == "ended" else "running", step, steps, metrics.get("reward"),
        metrics.get("validation_reward"), metrics.get("route_entropy"), "", {}, None,
    )  # fmt: skip
    return Status(folder.name, "run", state, reason, (view,), 1.0 if state == "ended" else step / steps)


def _ended(reason: str) -> tuple[State, str]:
    return "ended", reason


def _held(folder: Path) -> tuple[State, str]:
    lock = lock_file(folder)
    held = holder(lock)
    if held is not None:
        return "running", f"process {held.get('pid')} on {held.get('host')} since {held.get('since')}"
    last = last_holder(lock)
    if not last:
        return "left", "nobody was at it yet"
    where = "" if last.get("host") == socket.gethostname() else f" on {last.get('host')}"
    how = "left as it was asked to" if last.get("leaving") else "is gone without a word (killed, or its machine lost)"
    return "left", f"process {last.get('pid')}{where}, at it since {last.get('since')}, {how}"
