"""haps validate FILE: what the file would do, or all that is wrong with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from haps_search.cli.options import File, Set

if TYPE_CHECKING:
    from haps_search.config.sweep import Study


def validate(file: File, set_: Set = None) -> None:
    """Check a study and print what it would run; nothing is started."""
    from haps_search.config.load import load_study
    from haps_search.sweep.progress import planned_trials
    from haps_search.sweep.space import describe

    study = load_study(file, set_ or ())
    experiment, sweep = study.experiment, study.sweep
    run, trials = experiment.run, planned_trials(study) if study.arms else sweep.trials
    typer.echo(f"{study.name}: valid")
    if study.description:
        typer.echo(f"  {study.description.strip()}")
    typer.echo(f"  task        {experiment.task.type}")
    typer.echo(f"  candidates  {', '.join(f'{c.name} ({c.source.type})' for c in experiment.candidates)}")
    typer.echo(
        f"  run         {run.steps} steps x {run.questions_per_step} questions x {run.episodes_per_question} episodes"
    )
    typer.echo(
        f"  sweep       {trials} trials, {sweep.concurrency} at a time, {sweep.sampler.type} sampler, "
        f"scheduler {sweep.scheduler.type}, {', '.join(f'{o.mode} {o.metric}' for o in sweep.objectives)}"
    )
    for name, arm in study.arms.items():
        typer.echo(f"    {name}: {', '.join(f'{path}={value}' for path, value in arm.items()) or 'as the file stands'}")
    if study.arms:
        typer.echo(f"    {len(study.arms)} arms x seeds {', '.join(map(str, sweep.seeds))}")
    for line in describe(study.space):
        typer.echo(f"    {line}")
    for where, code in _code(study):
        typer.echo(f"  runs code   {where}: {code}")
    if study.expected:
        typer.echo(f"  expected    {study.expected.strip()}")


def _code(study: Study) -> list[tuple[str, str]]:
    """The user's Python that a study names, where it stands; that of arms and choices too."""
    from haps_search.config.base import hooks

    found = list(hooks(study.experiment.model_dump(mode="json"), "experiment"))
    for name, arm in study.arms.items():
        for path, value in arm.items():
            found += [(f"arms.{name}: {where}", code) for where, code in hooks(value, path)]
    for path, distribution in study.space.items():
        found += [(f"space: {where}", code) for where, code in hooks(getattr(distribution, "values", ()), path)]
    return list(dict.fromkeys(found))
