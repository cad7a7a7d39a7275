"""How far a sweep is, read from its journal and its runs' own records. What displays show is computed here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from haps_search.config.sweep import Study
from haps_search.records.jsonl import decode_metrics
from haps_search.records.remote import remote_of
from haps_search.records.run_folder import doing_in
from haps_search.sweep.events import State, TrialRecord
from haps_search.sweep.following import Followed
from haps_search.sweep.journal import Journal
from haps_search.sweep.layout import trial_folder
from haps_search.sweep.settings import experiment_of


@dataclass(frozen=True, slots=True)
class TrialView:
    """One line of a display. Metrics are None until there are some."""

    number: int
    label: str
    state: State
    step: int
    steps: int
    reward: float | None
    validation: float | None
    entropy: float | None
    alarm: str
    parameters: Mapping[str, object]
    error: str | None
    doing: str = ""
    """What it does before its first step, and how much of it is done."""


class Progress:
    """Follows the files of a sweep; each `trials()` reads only what is new."""

    def __init__(self, journal: Journal, study: Study) -> None:
        self._journal, self._study = journal, study
        self._followed = Followed(journal.folder)
        self._latest: dict[int, tuple[int, dict[str, float]]] = {}
        self._steps: dict[int, int] = {}

    def trials(self) -> list[TrialView]:
        return [self._view(record) for record in self._journal.trials()]

    def _view(self, record: TrialRecord) -> TrialView:
        step, metrics = self._follow(record)
        return TrialView(
            record.number,
            record.label,
            record.state,
            step,
            self._total(record),
            metrics.get("reward"),
            record.metrics.get("validation_reward", metrics.get("validation_reward")),
            metrics.get("route_entropy"),
            _alarm(metrics),
            record.parameters,
            record.error or (f"again after: {record.broke}" if record.broke and not record.ended else None),
            doing_in(trial_folder(self._journal.folder, record.number))
            if record.state == "running" and not step
            else "",
        )

    def _total(self, record: TrialRecord) -> int:
        if record.number not in self._steps:
            self._steps[record.number] = experiment_of(self._study, record).total_steps
        return self._steps[record.number]

    def _follow(self, record: TrialRecord) -> tuple[int, dict[str, float]]:
        lines, anew = self._followed.new(record)
        step, metrics = (0, {}) if anew else self._latest.get(record.number, (0, {}))
        for line in lines:
            step, metrics = line["step"], metrics | decode_metrics(line["metrics"])
        self._latest[record.number] = step, metrics
        return step, metrics


def fraction_done(views: Sequence[TrialView], study: Study, planned: int) -> float:
    """Steps done over steps planned; a trial that ended counts whole, one not yet suggested by the default."""
    default = study.experiment.total_steps
    done = sum(v.steps if v.state in ("finished", "stopped", "failed") else v.step for v in views)
    total = sum(v.steps for v in views) + default * max(planned - len(views), 0)
    return done / total if total else 1.0


def planned_trials(study: Study) -> int:
    """Every arm on every seed, or search trials and those of the opponents; a replay has no adapters to compare."""
    if study.arms:
        return len(study.arms) * len(study.sweep.seeds)
    searched = study.sweep.trials * study.sweep.seeds_per_trial
    if not study.sweep.comparison or study.experiment.task.type == "replay":
        return searched
    opponents = study.sweep.opponents.learning.values()
    return searched + sum(o.trials or study.sweep.trials for o in opponents) * study.sweep.seeds_per_trial


def sweeps(runs: Path) -> list[str]:
    """Names of the sweeps under a runs folder."""
    remote = remote_of(runs.resolve())
    if remote is None:
        return sorted(p.parent.name for p in runs.glob("*/journal.jsonl"))
    return [name for name in remote.objects.folders() if remote.objects.stamps(f"{name}/journal.jsonl")]


def single_runs(runs: Path) -> list[str]:
    """Names of the runs under a runs folder that belong to no sweep."""
    remote = remote_of(runs.resolve())
    if remote is None:
        return sorted(p.parent.name for p in runs.glob("*/experiment.json"))
    return [name for name in remote.objects.folders() if remote.objects.stamps(f"{name}/experiment.json")]


def _alarm(metrics: Mapping[str, float]) -> str:
    raised = [name for name in ("route_collapse", "answer_collapse") if metrics.get(name)]
    return ", ".join(name.replace("_", " ") for name in raised)
