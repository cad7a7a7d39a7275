"""What a sweep's table says on a split, and what a run's best checkpoint is worth there."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from haps_search.config.base import NAME
from haps_search.errors import ConfigError
from haps_search.evaluation.intervals import Interval, difference_interval, mean_interval, paired_interval
from haps_search.records.readings import note_reading
from haps_search.records.remote import pushed
from haps_search.records.sealed import replace_text
from haps_search.sweep.inputs import all_at_hand
from haps_search.sweep.journal import Journal
from haps_search.sweep.layout import sweep_of
from haps_search.sweep.ranking import best_first
from haps_search.tasks.held_out import Held, reported
from haps_search.verbs.events import Report, Said, silent
from haps_search.verbs.find import FoundRun, find_run, runs_folder
from haps_search.verbs.frames import comparison_frame, frame, interval, page
from haps_search.version import __version__

if TYPE_CHECKING:
    from pandas import DataFrame

    from haps_search.engines.local import LoadedRun
    from haps_search.evaluation.comparison import Row
    from haps_search.search.gated import Gate
    from haps_search.search.validation import Scored
    from haps_search.types import Question
    from haps_search.verbs.judge import Judged
    from haps_search.verbs.logged import JudgedByLog


@dataclass(frozen=True)
class Evaluation:
    """Mean greedy rewards of the checkpoint of a step: on validation, on the test split, and their difference."""

    folder: Path
    step: int
    seed: int
    measured: Mapping[str, Interval]
    gated: Mapping[str, GatedSplit] = field(default_factory=dict)

    @property
    def frame(self) -> DataFrame:
        """A row per measured split: reward with its 95 % interval and the number of questions."""
        found = [{"": k, **interval("reward", v), "questions": v.count} for k, v in self.measured.items()]
        return frame(found, "")

    def _repr_html_(self) -> str:
        return page(f"{self.folder.name}, checkpoint of step {self.step}", {"reward": self.frame})


@dataclass(frozen=True)
class GatedSplit:
    """A split under a gate: the share escalated to the fallback, the reward and what the gate adds to it, and a
    question's mean cost without the gate and with it, by the candidates' prices."""

    share: float
    reward: Interval
    gain: Interval
    cost_without: float
    cost: float


@dataclass(frozen=True)
class TableOnSplit:
    """Every row of a sweep's final table on the same questions of a split, the best trial's last; the file keeps all
    rewards."""

    name: str
    split: Held
    rows: tuple[Row, ...]
    file: Path

    @property
    def frame(self) -> DataFrame:
        """A row per line: mean reward, the best trial's paired gain over it, both with 95 % intervals, and costs."""
        return comparison_frame(self.rows)

    def _repr_html_(self) -> str:
        return page(f"{self.name}, {self.split} split", {"rows": self.frame})


def evaluate(
    run: str,
    split: Held = "validation",
    again: bool = False,
    runs: str | Path = "runs",
    report: Report = silent,
    *,
    table: str | Path | None = None,
    logged: str | Path | None = None,
    profile: str | None = None,
    gate: Gate | None = None,
) -> Evaluation | TableOnSplit | Judged | JudgedByLog:
    """Measure every row of a sweep's table at once, paired; or the best checkpoint of a single run or trial, on the
    test split beside validation. The test split is read once, unless `again`, and a reading is written down.
    Candidates are loaded in this process, or on the cluster of a `profile`.

    A sweep or run on an outcome table is judged beside all references instead; or on another `table` with the same
    models; or by what it would have earned on a log with one outcome per question (`logged`). A single run or trial is
    measured under a `gate` too, as `haps serve` has it.

    Raises:
        ConfigError: no such run, a test split that was read before, or a table for a run that asks its candidates.
        CheckpointError: a run without a checkpoint. DataError: malformed rows, or a log that cannot say it.
    """
    found = find_run(runs, run)
    journal = _searched(runs, run)
    if gate is not None:
        _check_gate(gate, found, journal)
    if found.experiment.task.type != "replay" and (table or logged) is not None:
        raise ConfigError(f"{found.folder} asks its candidates, and only a replay is judged on a table or a log")
    if logged is not None:
        from haps_search.verbs.logged import judge_log

        return judge_log(run, logged, runs)
    if found.experiment.task.type == "replay":
        from haps_search.verbs.judge import judge_replay

        return judge_replay(run, split, again, runs, report, None if table is None else Path(table))
    if journal is None:
        return _measured(found, split, again, report, profile, gate)
    return _table(journal, split, again, report, profile)


def _searched(runs: str | Path, name: str) -> Journal | None:
    """The sweep of that name that searched a space; None for a run, a trial, or a sweep of arms."""
    if not re.fullmatch(NAME, name):
        return None
    journal = Journal(runs_folder(runs).resolve() / name)
    return None if journal.started() is None or journal.study().arms else journal


def _table(journal: Journal, split: Held, again: bool, report: Report, profile: str | None) -> TableOnSplit:
    from haps_search.verbs.hosting import rows_hosted
    from haps_search.verbs.table import measured_rows

    folder = journal.folder
    study = all_at_hand(journal.study(), folder)
    best = best_first(study, journal.trials())[0]
    if split == "test":
        _note(folder, f"{folder.name}, all rows of its table", again, report)
    with rows_hosted(folder, study.experiment, profile, report) as live:
        rows, found = measured_rows(live, journal, study, best, split, report, fresh=split == "test")
    file = folder / f"table-{split}.json"
    content = {
        "code_version": __version__,
        "split": split,
        "rows": [asdict(row) for row in rows],
        "questions": found.questions,
        "tasks": found.tasks,
        "seeds": found.seeds,
        "rewards": {
            **{f"always {', '.join(z)}": rewards for z, rewards in found.frozen.items()},
            **found.untrained,
            **found.routers,
        },
    }
    replace_text(file, json.dumps(content, indent=1))
    pushed(file)
    return TableOnSplit(folder.name, split, tuple(rows), file)


def _note(folder: Path, what: str, again: bool, report: Report) -> None:
    earlier = note_reading(folder, what, again)
    for first in earlier[:1]:
        report(Said(f"the test split was read {len(earlier)} times before, first on {first.when}"))


def _check_gate(gate: Gate, found: FoundRun, journal: Journal | None) -> None:
    if journal is not None:
        raise ConfigError("--min-confidence: a gate is measured of one run or trial: name it, as in NAME/000")
    if found.experiment.task.type == "replay":
        raise ConfigError("--min-confidence: a run on a table asks nobody; its table says what a model earns and costs")
    names = [c.name for c in found.experiment.candidates]
    if gate.fallback not in names:
        raise ConfigError(f"--fallback: got {gate.fallback}, the candidates are {', '.join(names)}")


def _measured(
    found: FoundRun, split: Held, again: bool, report: Report, profile: str | None, gate: Gate | None
) -> Evaluation:
    from haps_search.search.engine import finished
    from haps_search.search.validation import score_router
    from haps_search.verbs.hosting import hosted

    if split == "test":
        sweep = sweep_of(found.folder)  # all its trials share the test questions
        where = sweep if Journal(sweep).started() is not None else found.folder
        _note(where, f"{found.folder.name} of {where.name}", again, report)
    rewards = {}
    gated: dict[str, GatedSplit] = {}
    with hosted(found.folder, found.experiment, profile, report) as loaded:
        for each in dict.fromkeys(("validation", split)):
            questions = reported(loaded.task, found.experiment, each)
            report(Said(f"playing {len(questions)} {each} questions"))
            scored = finished(score_router(loaded.engine, loaded.task, questions, found.experiment.run.sampling))
            rewards[each] = scored.rewards
            if gate is not None:
                gated[each] = _gated(loaded, questions, gate, scored)
        step = loaded.step
    measured: dict[str, Interval] = {each: mean_interval(values) for each, values in rewards.items()}
    if split == "test":
        measured["test minus validation"] = difference_interval(rewards["test"], rewards["validation"])
    keep_measured(found.folder / f"evaluation-{split}.json", step, measured)
    return Evaluation(found.folder, step, found.experiment.run.seed, measured, gated)


def _gated(loaded: LoadedRun, questions: Sequence[Question], gate: Gate, plain: Scored) -> GatedSplit:
    """The same questions under the gate, paired with what they earned without it."""
    from haps_search.learning.utility import prices
    from haps_search.search.engine import finished
    from haps_search.search.gated import costs, score_gated

    experiment = loaded.experiment
    found = finished(score_gated(loaded.engine, loaded.task, questions, experiment.run.sampling, gate))
    price, rewards = prices(experiment.candidates), found.scored.rewards
    paired = paired_interval(rewards, plain.rewards)
    without, under = (fmean(costs(each, price)) for each in (plain, found.scored))
    return GatedSplit(found.share, mean_interval(rewards), paired, without, under)


def keep_measured(file: Path, step: int, measured: Mapping[str, Interval]) -> None:
    """Write what the checkpoint of a step is worth, to the object store too where there is one. Raises PoolError."""
    content = {label: [i.mean, i.low, i.high, i.count] for label, i in measured.items()}
    replace_text(file, json.dumps({"step": step} | content, indent=1))
    pushed(file)
