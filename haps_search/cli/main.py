"""The entry point: verbs, and errors as one message instead of a traceback."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

import typer

from haps_search.cli import (
    ask,
    check_reward,
    collect,
    compare,
    confirm,
    dashboard,
    evaluate,
    explain,
    export,
    extend,
    inspect,
    logs,
    mlflow,
    plan,
    report,
    resume,
    route,
    second_chance,
    serve,
    status,
    stop,
    submit,
    sweep,
    train,
    validate,
    warmup,
)
from haps_search.errors import ConfigError, HapsError, Unfinished
from haps_search.version import __version__

INTERRUPTED = 130
app = typer.Typer(
    help="Search which LLM answers a question, and with which generated LoRA weights.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
GROUPS: dict[str, dict[Callable[..., None], str]] = {
    "Search": {
        validate.validate: "check a study and print what it would run",
        explain.explain: "what a key of a study means, and what may stand there",
        check_reward.check_reward: "what a reward reads and pays, on real texts",
        sweep.sweep: "search a study's space, or take a sweep up again",
        resume.resume: "go on with a sweep that was interrupted",
        confirm.confirm: "the best settings again, on fresh seeds",
        second_chance.retry: "another chance for trials that failed",
        second_chance.skip: "go on without trials that do not end",
        extend.extend: "more trials, or more steps, of a sweep",
        train.train: "one run at the study's own values",
        status.status: "how far sweeps and runs are, and who is at them",
        logs.logs: "what a sweep's driver logged",
        stop.stop: "let a sweep or run save and leave",
    },
    "Judge": {
        evaluate.evaluate: "a run's best checkpoint on a whole split",
        compare.compare: "a study's arms side by side",
        report.report: "one HTML page of a sweep or run",
        dashboard.dashboard: "Optuna's dashboard on a sweep, live",
        mlflow.mlflow: "MLflow's pages on a sweep, or its store upgraded",
    },
    "Use": {
        ask.ask: "route one question and answer it",
        route.route: "whom to ask, for a file of questions",
        serve.serve: "the run behind an OpenAI-compatible address",
        export.export: "adapters as PEFT folders, merged, or for vLLM",
    },
    "Data": {
        inspect.inspect: "is this pool of models worth routing?",
        collect.collect: "every assignment on every question, as a table",
        warmup.warmup: "let the high level learn from a table",
    },
    "Cluster": {
        plan.plan: "who would sit where, and whether it fits",
        submit.submit: "a sweep as a job of a Ray cluster",
    },
}
"""Panel of `haps --help` -> its verbs, and each in one line."""
VERBS = [verb for verbs in GROUPS.values() for verb in verbs]
for group, lines in GROUPS.items():
    for verb, line in lines.items():
        app.command(rich_help_panel=group, short_help=line)(verb)


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
    """Exit status 2 for a configuration that cannot run, 1 for what went wrong while running, 75 where work is left and
    saved, so that the same again goes on; 0 where all is done, or `haps stop` ended it."""
    # A user's own reward function lies where the command is given; a console script does not look there.
    sys.path.append(os.getcwd())
    try:
        app()
    except Unfinished as left:
        typer.echo(f"unfinished: {left}", err=True)
        sys.exit(left.status)
    except HapsError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2 if isinstance(error, ConfigError) else 1)
    except SystemExit as leaving:
        if leaving.code == INTERRUPTED:  # typer's word for Ctrl-C
            typer.echo("interrupted; what was done is kept", err=True)
        raise


if __name__ == "__main__":
    main()
