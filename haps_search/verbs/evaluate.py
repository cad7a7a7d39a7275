"""What a sweep's table says on a split, and what a run's best checkpoint is worth there."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from haps_search.config.base import NAME
from haps_search.errors import ConfigError
from haps_search.evaluation.intervals import Interval, difference_interval, mean_interval
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

    from haps_search.evaluation.comparison import Row
    from haps_search.verbs.judge import Judged
    from haps_search.verbs.logged import JudgedByLog


@dataclass(frozen=True)
class Evaluation:
    """Mean greedy rewards of the checkpoint of a step: on validation, on the test split, and their difference."""

    folder: Path
    step: int
    seed: int
    measured: Mapping[str, Interval]

    @property
    def frame(self) -> DataFrame:
        """A row per measured split: reward with its 95 % interval and the number of questions."""
        found = [{"": k, **interval("reward", v), "questions": v.count} for k, v in self.measured.items()]
        return frame(found, "")

    def _repr_html_(self) -> str:
        return page(f"{self.folder.name}, checkpoint of step {self.step}", {"reward": self.frame})


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
) -> Evaluation | TableOnSplit | Judged | JudgedByLog:
    """Measure every row of a sweep's table at once, paired; or the best checkpoint of a single run or trial, on the
    test split beside validation. The test split is read once, unless `again`, and a reading is written down.
    Candidates are loaded in this process, or on the cluster of a `profile`.

    A sweep or run on an outcome table is judged beside all references instead; or on another `table` with the same
    models; or by what it would have earned on a log with one outcome per question (`logged`).

    Raises:
        ConfigError: no such run, a test split that was read before, or a table for a run that asks its candidates.
        CheckpointError: a run without a checkpoint. DataError: malformed rows, or a log that cannot say it.
    """
    found = find_run(runs, run)
    if found.experiment.task.type != "replay" and (table or logged) is not None:
        raise ConfigError(f"{found.folder} asks its candidates, and only a replay is judged on a table or a log")
    if logged is not None:
        from haps_search.verbs.logged import judge_log

        return judge_log(run, logged, runs)
    if found.experiment.task.type == "replay":
        from haps_search.verbs.judge import judge_replay

        return judge_replay(run, split, again, runs, report, None if table is None else Path(table))
    journal = _searched(runs, run)
    if journal is None:
        return _measured(found, split, again, report, profile)
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


def _measured(found: FoundRun, split: Held, again: bool, report: Report, profile: str | None) -> Evaluation:
    from haps_search.search.engine import finished
    from haps_search.search.validation import score_router
    from haps_search.verbs.hosting import hosted

    if split == "test":
        sweep = sweep_of(found.folder)  # all its trials share the test questions
        where = sweep if Journal(sweep).started() is not None else found.folder
        _note(where, f"{found.folder.name} of {where.name}", again, report)
    rewards = {}
    with hosted(found.folder, found.experiment, profile, report) as loaded:
        for each in dict.fromkeys(("validation", split)):
            questions = reported(loaded.task, found.experiment, each)
            report(Said(f"playing {len(questions)} {each} questions"))
            scored = finished(score_router(loaded.engine, loaded.task, questions, found.experiment.run.sampling))
            rewards[each] = scored.rewards
        step = loaded.step
    measured: dict[str, Interval] = {each: mean_interval(values) for each, values in rewards.items()}
    if split == "test":
        measured["test minus validation"] = difference_interval(rewards["test"], rewards["validation"])
    keep_measured(found.folder / f"evaluation-{split}.json", step, measured)
    return Evaluation(found.folder, step, found.experiment.run.seed, measured)


def keep_measured(file: Path, step: int, measured: Mapping[str, Interval]) -> None:
    """Write what the checkpoint of a step is worth, to the object store too where there is one. Raises PoolError."""
    content = {label: [i.mean, i.low, i.high, i.count] for label, i in measured.items()}
    replace_text(file, json.dumps({"step": step} | content, indent=1))
    pushed(file)
