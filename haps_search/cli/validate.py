"""haps validate FILE: what the file would do, or all that is wrong with it."""

from __future__ import annotations

import typer

from haps_search.cli.options import File, Set


def validate(file: File, set_: Set = None) -> None:
    """Check a study and print what it would run; nothing is started."""
    from haps_search.config.load import load_study
    from haps_search.verbs import validate as verb

    typer.echo(verb.validate(load_study(file, set_ or ())))
