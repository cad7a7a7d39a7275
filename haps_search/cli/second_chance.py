"""haps retry NAME, haps skip NAME: what a person decides about single trials."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from haps_search.cli.options import Runs

Name = Annotated[str, typer.Argument(help="The sweep's name.")]


def retry(
    name: Name,
    trials: Annotated[list[int] | None, typer.Argument(help="Numbers of failed trials; default: all of them.")] = None,
    runs: Runs = Path("runs"),
) -> None:
    """Give failed trials another chance; `haps resume` then goes on with them."""
    from haps_search.verbs.second_chance import retry as verb

    _say(name, verb(name, trials or (), runs), "tries")


def skip(
    name: Name,
    trials: Annotated[list[int], typer.Argument(help="Numbers of trials that have not ended.")],
    runs: Runs = Path("runs"),
) -> None:
    """Count trials as failed, so that the sweep goes on without them."""
    from haps_search.verbs.second_chance import skip as verb

    _say(name, verb(name, trials, runs), "goes on without")


def _say(name: str, numbers: tuple[int, ...], what: str) -> None:
    listed = ", ".join(f"{number:03d}" for number in numbers)
    typer.echo(f"`haps resume {name}` {what} {listed}")
