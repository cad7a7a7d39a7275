"""What a run's best checkpoint is worth on a whole split."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from haps_search.errors import ConfigError
from haps_search.evaluation.intervals import Interval, difference_interval, mean_interval
from haps_search.records.remote import pushed
from haps_search.records.sealed import replace_text
from haps_search.tasks.held_out import Held, reported
from haps_search.verbs.events import Report, Said, silent
from haps_search.verbs.find import FoundRun, find_run
from haps_search.verbs.frames import frame, interval, page

if TYPE_CHECKING:
    from pandas import DataFrame

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


def evaluate(
    run: str,
    split: Held = "validation",
    again: bool = False,
    runs: str | Path = "runs",
    report: Report = silent,
    *,
    table: str | Path | None = None,
    logged: str | Path | None = None,
) -> Evaluation | Judged | JudgedByLog:
    """Measure the best checkpoint of a run, on the test split beside validation.

    A sweep or run on an outcome table is judged beside all references instead, and its test split is read once unless
    `again`; or on another `table` with the same models; or by what it would have earned on a log with one outcome per
    question (`logged`).

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
    return _measured(found, split, report)


def _measured(found: FoundRun, split: Held, report: Report) -> Evaluation:
    from haps_search.engines.local import load_run
    from haps_search.search.engine import finished
    from haps_search.search.validation import score_router

    loaded = load_run(found.folder, found.experiment)
    rewards = {}
    for each in dict.fromkeys(("validation", split)):
        questions = reported(loaded.task, found.experiment, each)
        report(Said(f"playing {len(questions)} {each} questions"))
        scored = finished(score_router(loaded.engine, loaded.task, questions, found.experiment.run.sampling))
        rewards[each] = scored.rewards
    measured: dict[str, Interval] = {each: mean_interval(values) for each, values in rewards.items()}
    if split == "test":
        measured["test minus validation"] = difference_interval(rewards["test"], rewards["validation"])
    keep_measured(found.folder / f"evaluation-{split}.json", loaded.step, measured)
    return Evaluation(found.folder, loaded.step, found.experiment.run.seed, measured)


def keep_measured(file: Path, step: int, measured: Mapping[str, Interval]) -> None:
    """Write what the checkpoint of a step is worth, to the object store too where there is one. Raises PoolError."""
    content = {label: [i.mean, i.low, i.high, i.count] for label, i in measured.items()}
    replace_text(file, json.dumps({"step": step} | content, indent=1))
    pushed(file)
