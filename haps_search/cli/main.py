"""The entry point: verbs, and errors as one message instead of a traceback."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

import typer

from haps_search import __version__
from haps_search.cli import (
    ask,
    check_reward,
    collect,
    compare,
    confirm,
    evaluate,
    export,
    inspect,
    log_verb,
    plan,
    report_verb,
    resume,
    route,
    status,
    stop,
    submit,
    sweep,
    train,
    validate,
    warmup,
)
from haps_search.errors import ConfigError, HapsError

INTERRUPTED = 130
app = typer.Typer(
    help="Search which LLM answers a question, and with which generated LoRA weights.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
VERBS: tuple[Callable[..., None], ...] = (
    validate.validate,
    check_reward.check_reward,
    plan.plan,
    sweep.sweep,
    resume.resume,
    submit.submit,
    status.status,
    log_verb.logs,
    stop.stop,
    report_verb.report,
    train.train,
    evaluate.evaluate,
    confirm.confirm,
    compare.compare,
    ask.ask,
    route.route,
    export.export,
    inspect.inspect,
    collect.collect,
    warmup.warmup,
)
for verb in VERBS:
    app.command()(verb)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"haps-search {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    pass


def main() -> None:
    """Exit status 2 for a configuration that cannot run, 1 for what went wrong while running."""
    # A user's own reward function lies where the command is given; a console script does not look there.
    sys.path.append(os.getcwd())
    try:
        app()
    except HapsError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2 if isinstance(error, ConfigError) else 1)
    except SystemExit as leaving:
        if leaving.code == INTERRUPTED:  # typer's word for Ctrl-C
            typer.echo("interrupted; what was done is kept", err=True)
        raise


if __name__ == "__main__":
    main()
