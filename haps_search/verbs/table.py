"""The final table of a search: every row on the same questions, with the engine that is handed in."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from haps_search.config.opponents import Learning
from haps_search.config.run import Experiment
from haps_search.config.sweep import Study
from haps_search.engines.cluster.ray_engine import RayEngine
from haps_search.errors import CandidateError
from haps_search.evaluation.comparison import Row, comparison, score_frozen
from haps_search.evaluation.labels import (
    ARCHITECTURE_ONLY,
    BEST_PER_TASK,
    FEW_SHOT,
    JOINT,
    MAJORITY,
    STATIC,
)
from haps_search.evaluation.untrained import (
    WithExamples,
    best_per_task,
    majority_answers,
    per_task,
    score_majority,
    takes_examples,
)
from haps_search.records.remote import pushed
from haps_search.records.run_folder import identity
from haps_search.records.sealed import replace_text
from haps_search.search.engine import finished
from haps_search.search.loop import validated
from haps_search.search.validation import Scored, score_assignment
from haps_search.sweep.events import TrialRecord
from haps_search.sweep.journal import Journal
from haps_search.sweep.opponents import LABELS, Search, opponents, rows_own
from haps_search.sweep.settings import experiment_of
from haps_search.tasks.build import build_task
from haps_search.tasks.held_out import Held, choosing, reported
from haps_search.tasks.task import Task, task_of
from haps_search.types import Assignment
from haps_search.verbs.events import Report, Said
from haps_search.verbs.measure import cheap_references, keep_texts, score_with
from haps_search.verbs.measured_rows import MeasuredRows

if TYPE_CHECKING:
    from haps_search.engines.local import LocalEngine

LEVELS = {"static": STATIC, "none": ARCHITECTURE_ONLY}
"""What a router is called by its low level; the others are joint."""
CHOICES = "choices.json"
"""What the rows that train nothing were chosen to be, on the questions that choose."""


class Host(Protocol):
    """Who has the candidates: the session on Ray, or this process."""

    async def engine(self, experiment: Experiment) -> RayEngine | LocalEngine: ...


class OwnProcess:
    """Candidates are loaded here."""

    async def engine(self, experiment: Experiment) -> LocalEngine:
        from haps_search.engines.local import LocalEngine  # torch, which drivers of a cluster do not need

        return LocalEngine.build(experiment, build_task(experiment.task))


@dataclass(frozen=True)
class Entry:
    """A row that learnt: its trials, one or a seed each, and the search that found their setting."""

    label: str
    trials: tuple[TrialRecord, ...]
    search: Search


@dataclass(frozen=True)
class Shown:
    """The candidate and the number of examples that did best in few-shot prompting."""

    candidate: str
    examples: int
    reward: float

    @property
    def label(self) -> str:
        return f"{FEW_SHOT}, {self.candidate}, {self.examples} example{'s' if self.examples > 1 else ''}"


@dataclass(frozen=True)
class Choices:
    """What was chosen on the questions that choose: per task an assignment, "" over all; and what is shown first."""

    best_per_task: Mapping[str, Assignment]
    few_shot: Shown | None


@dataclass(frozen=True)
class Measured:
    """Rewards of every row on the same questions: N each, or S seeds by N. `joint` is the best trial's label."""

    split: Held
    questions: tuple[str, ...]
    tasks: tuple[str, ...]
    joint: str
    frozen: Mapping[Assignment, Sequence[float]] = field(default_factory=dict)
    untrained: Mapping[str, Sequence[float]] = field(default_factory=dict)
    routers: Mapping[str, Sequence[Sequence[float]]] = field(default_factory=dict)
    seeds: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def rows(self) -> list[Row]:
        """Without costs."""
        return comparison(self.frozen, self.routers, self.joint, self.untrained, self.tasks, self.seeds)


def best_label(study: Study, best: TrialRecord) -> str:
    """What the best trial's row is called: by what its router decides."""
    level = experiment_of(study, best).routing.low_level.type
    return f"{LEVELS.get(level, JOINT)} (best trial)"


def entries(study: Study, best: TrialRecord, trials: Sequence[TrialRecord], fresh: bool = False) -> list[Entry]:
    """The rows that learnt, the best trial's last: each opponent's best, those without a result left out.

    `fresh` takes runs on fresh seeds (`haps confirm`) in the place of those that the search saw, where there are any.
    """
    found = []
    for search in opponents(study, best).values():
        first = next(iter(search.ranked(trials)), None)
        if first is not None:
            found.append(Entry(search.label, _runs(first, search.label, trials, fresh), search))
    own = Entry(best_label(study, best), _runs(best, f"trial {best.number}", trials, fresh), Search(study))
    return [*found, own]


def _runs(searched: TrialRecord, label: str, trials: Sequence[TrialRecord], fresh: bool) -> tuple[TrialRecord, ...]:
    confirmed = [
        t for t in trials
        if t.kind == "confirm" and t.label == label and t.state in ("finished", "stopped")
        and dict(t.parameters) == dict(searched.parameters)
    ]  # fmt: skip
    return tuple(confirmed) if fresh and confirmed else (searched,)


def measured(host: Host, folder: Path, study: Study, rows: Sequence[Entry], split: Held, report: Report) -> Measured:
    """Every row on the questions of a split that are reported on. Raises CheckpointError, CandidateError, PoolError."""
    return finished(_measured(host, folder, study, rows, split, report))


async def _measured(
    host: Host, folder: Path, study: Study, rows: Sequence[Entry], split: Held, report: Report
) -> Measured:
    best = experiment_of(study, rows[-1].trials[0])
    task, label = build_task(best.task), rows[-1].label
    questions = reported(task, best, split)
    identities, tasks = tuple(q.id for q in questions), tuple(map(task_of, questions))
    engine = await host.engine(best)
    try:
        untrained: dict[str, Sequence[float]] = {}
        frozen: dict[Assignment, Scored] = {}
        texts: dict[str, Scored] = {}
        if best.task.type == "replay":  # its single models stand among the references
            untrained |= cheap_references(best) if study.sweep.comparison else {}
        elif study.sweep.comparison:
            report(Said(f"playing {len(questions)} {split} questions with the frozen candidates"))
            names = [c.name for c in best.candidates]
            kept, asked_by = MeasuredRows(folder, split).row, identity(best)["task"]
            frozen = await score_frozen(engine, task, questions, names, best.run.sampling, kept, asked_by)
            choices = await _choices(engine, task, study, best, folder, split, report)
            rewards = {z: s.rewards for z, s in frozen.items()}
            texts |= {f"frozen {', '.join(z)}": s for z, s in frozen.items()}
            texts |= await _without_training(engine, task, best, split, choices)
            untrained |= {name: s.rewards for name, s in texts.items() if not name.startswith("frozen ")}
            untrained[BEST_PER_TASK] = per_task(choices.best_per_task, questions, rewards)
        scored: dict[str, list[Scored]] = {}
        for row in rows:
            report(Said(f"playing them with {row.label}"))
            scored[row.label] = await score_with(engine, folder, study, row.trials, split)
    finally:
        await engine.close()
    name = "examples.jsonl" if split == "validation" else f"examples-{split}.jsonl"
    keep_texts(folder / name, texts | {name: each[0] for name, each in scored.items()})
    return Measured(
        split,
        identities,
        tasks,
        label,
        {z: s.rewards for z, s in frozen.items()},
        untrained,
        {name: [one.rewards for one in each] for name, each in scored.items()},
        {row.label: tuple(t.seed for t in row.trials) for row in rows},
    )


async def _without_training(
    engine: RayEngine | LocalEngine, task: Task, best: Experiment, split: Held, choices: Choices
) -> dict[str, Scored]:
    learnt, questions = task.questions("train"), reported(task, best, split)
    found = {MAJORITY: score_majority(task, majority_answers(task, learnt), questions)}
    shown = choices.few_shot
    if shown is not None:
        prompted = WithExamples(task, learnt, shown.examples)
        who = (shown.candidate,)
        found[shown.label] = await score_assignment(engine, prompted, questions, who, best.run.sampling)
    return found


async def _choices(
    engine: RayEngine | LocalEngine,
    task: Task,
    study: Study,
    best: Experiment,
    folder: Path,
    split: Held,
    report: Report,
) -> Choices:
    """Chosen at a sweep's end, and kept for later readings."""
    kept = stored_choices(folder / CHOICES) if split == "test" else None
    if kept is not None:
        return kept
    asked = choosing(task, best)
    report(Said(f"choosing the best per task and few-shot prompts on {len(asked)} validation questions"))
    names = [c.name for c in best.candidates]
    rows, asked_by = MeasuredRows(folder, "validation"), identity(best)["task"]
    frozen = await score_frozen(engine, task, asked, names, best.run.sampling, rows.row, asked_by)
    per = best_per_task(asked, {z: s.rewards for z, s in frozen.items()})
    found = Choices(per, await _shown(engine, task, study, best, folder, report))
    content = {
        "best_per_task": {name: list(z) for name, z in found.best_per_task.items()},
        "few_shot": None if found.few_shot is None else vars(found.few_shot),
    }
    replace_text(folder / CHOICES, json.dumps(content, indent=1))
    pushed(folder / CHOICES)
    return found


async def _shown(
    engine: RayEngine | LocalEngine, task: Task, study: Study, best: Experiment, folder: Path, report: Report
) -> Shown | None:
    """The best of all candidates and numbers of examples; None where no candidate takes any."""
    config, names = study.sweep.opponents.few_shot, takes_examples(task, best)
    tried, asked, rows = [], validated(task, best), MeasuredRows(folder, "validation")
    for count in config.examples if config is not None and names else ():
        prompted = WithExamples(task, task.questions("train"), count)
        for name in names:
            try:
                played = partial(score_assignment, engine, prompted, asked, (name,), best.run.sampling)
                scored = await rows.row({"few_shot": [name, count], "run": identity(best)}, asked, played)
            except CandidateError as error:
                report(Said(f"few-shot: {count} examples are too many for {name}: {error}"))
                continue
            tried.append(Shown(name, count, scored.mean))
    return max(tried, key=lambda shown: shown.reward, default=None)


def stored_choices(file: Path) -> Choices | None:
    """None where the file is not there or not whole."""
    try:
        found = json.loads(file.read_text())
        shown = found["few_shot"]
        per = {name: tuple(z) for name, z in found["best_per_task"].items()}
        return Choices(per, None if shown is None else Shown(**shown)) if "" in per else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def measured_rows(
    host: Host, journal: Journal, study: Study, best: TrialRecord, split: Held, report: Report, fresh: bool = False
) -> tuple[list[Row], Measured]:
    """The table with its costs. Raises as `measured`."""
    from haps_search.verbs.costs import row_cost  # transformers, whose models' shapes say what a row costs

    trials = journal.trials()
    learnt = entries(study, best, trials, fresh)
    for line in _unmeasured(study, best, learnt):
        report(Said(line))
    found = measured(host, journal.folder, study, learnt, split, report)
    costs = {row.label: row_cost(journal.folder, study, row.search, row.trials[0], trials) for row in learnt}
    return [replace(row, cost=costs.get(row.label)) for row in found.rows()], found


def _unmeasured(study: Study, best: TrialRecord, rows: Sequence[Entry]) -> list[str]:
    """Opponents that have no row, so that nobody takes their absence for a victory."""
    there, asked = {row.label for row in rows}, opponents(study, best)
    if not study.sweep.comparison or study.experiment.task.type == "replay":
        return []
    said = [
        f"{LABELS[name]} has no row: these settings refuse it" for name in _wanted(study, best) if name not in asked
    ]
    return said + [
        f"{search.label} has no row: none of its trials ended with a result"
        for search in asked.values()
        if search.label not in there
    ]


def _wanted(study: Study, best: TrialRecord) -> list[Learning]:
    """The opponents that the best trial is not itself."""
    own = rows_own(study, best)
    return [name for name in study.sweep.opponents.learning if name != own]
