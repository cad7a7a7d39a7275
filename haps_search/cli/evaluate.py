"""haps evaluate RUN: a run's best checkpoint on a whole split."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from haps_search.cli.options import RunPath, Runs

if TYPE_CHECKING:
    from haps_search.evaluation.intervals import Interval


class MeasuredSplit(StrEnum):
    """The splits that a router was not trained on."""

    validation = "validation"
    test = "test"


def evaluate(
    run: RunPath,
    split: Annotated[
        MeasuredSplit, typer.Option(help="The test split is read by this command only.")
    ] = MeasuredSplit.validation,
    again: Annotated[bool, typer.Option("--again", help="Replay: read a test split that was read before.")] = False,
    table: Annotated[
        Path | None, typer.Option(help="Replay: judge on another table with the same models, or on a YAML of one.")
    ] = None,
    logged: Annotated[
        Path | None,
        typer.Option(help="Replay: what the router would have earned on a log with one outcome per question."),
    ] = None,
    runs: Runs = Path("runs"),
) -> None:
    """Measure the best checkpoint of a run; on the test split, beside validation and their difference. A sweep or run
    on an outcome table is judged beside all references, and its test split is read once."""
    from haps_search.cli.find import find_run

    found = find_run(runs, run)
    if logged is not None and found.experiment.task.type == "replay":
        from haps_search.cli.judging.logged import judge_log

        judge_log(runs, run, logged)
        return
    if found.experiment.task.type == "replay":
        from haps_search.cli.judging.verb import judge_replay

        judge_replay(runs, run, split.value, again, table)
        return

    if table is not None or logged is not None:
        from haps_search.errors import ConfigError

        raise ConfigError(f"{found.folder} asks its candidates, and only a replay is judged on a table or a log")

    import asyncio

    from haps_search.engines.local import load_run
    from haps_search.evaluation.intervals import difference_interval, mean_interval
    from haps_search.search.validation import score_router

    loaded = load_run(found.folder, found.experiment)
    wanted = list(dict.fromkeys(["validation", split.value]))
    rewards = {}
    for each in wanted:
        questions = loaded.task.questions(each)  # type: ignore[arg-type]
        scored = asyncio.run(score_router(loaded.engine, loaded.task, questions, found.experiment.run.sampling))
        rewards[each] = scored.rewards
    measured: dict[str, Interval] = {each: mean_interval(values) for each, values in rewards.items()}
    if split is MeasuredSplit.test:
        measured["test minus validation"] = difference_interval(rewards["test"], rewards["validation"])
    typer.echo(f"{found.folder}, checkpoint of step {loaded.step}, seed {found.experiment.run.seed}")
    for label, interval in measured.items():
        typer.echo(f"  {label:<22} {interval}  ({interval.count} questions, 95 % interval)")
    keep_measured(found.folder / f"evaluation-{split.value}.json", loaded.step, measured)


def keep_measured(file: Path, step: int, measured: Mapping[str, Interval]) -> None:
    """Write what the checkpoint of a step is worth, to the object store too where there is one. Raises PoolError."""
    import json

    from haps_search.records.remote import pushed
    from haps_search.records.sealed import replace_text

    content = {label: [i.mean, i.low, i.high, i.count] for label, i in measured.items()}
    replace_text(file, json.dumps({"step": step} | content, indent=1))
    pushed(file)
