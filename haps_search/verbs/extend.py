"""Going on with a sweep beyond what it was begun with: more trials, more steps of each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from haps_search.config.load import dump, parse_study
from haps_search.config.sweep import Study
from haps_search.errors import ConfigError
from haps_search.sweep.events import TrialRecord
from haps_search.sweep.journal import Journal, open_sweep
from haps_search.sweep.settings import experiment_of
from haps_search.verbs.events import Report, silent
from haps_search.verbs.find import sweep_journal
from haps_search.verbs.sweep import SweepResult, resume


def extend(
    name: str,
    runs: str | Path = "runs",
    *,
    trials: int | None = None,
    steps: int | None = None,
    concurrency: int | None = None,
    max_hours: float | None = None,
    report: Report = silent,
) -> SweepResult:
    """Go on with a sweep to so many search trials, or runs of so many steps, both in all: runs that had ended go on
    from their checkpoints.

    Raises:
        ConfigError: no such sweep, nothing asked for, or what `write_down` refuses. As `resume` otherwise.
    """
    write_down(sweep_journal(runs, name), trials, steps)
    return resume(name, runs, concurrency=concurrency, max_hours=max_hours, report=report)


def write_down(journal: Journal, trials: int | None = None, steps: int | None = None) -> Study:
    """Write down that a sweep goes on to so many search trials and to runs of so many steps, both in all; returns its
    study, which `resume` then drives.

    One event of the journal opens the finished trials again; a kill before it leaves the sweep as it was, one after
    it is mended by `resume`. Trials that were stopped, failed or ran out of patience stay as they are.

    Raises:
        ConfigError: nothing is asked for, fewer than there are, or steps that a trial's learning rate does not allow.
    """
    study, records = journal.study(), journal.trials()
    problems = [*_of_trials(study, trials), *_of_steps(study, records, steps)]
    if trials is None and steps is None:
        problems = ["say how far: --trials N, --steps N, or both"]
    if problems:
        raise ConfigError(problems, f"sweep {journal.folder.name}")
    values = dump(study)
    if trials is not None:
        values["sweep"]["trials"] = trials
    if steps is not None:
        values["experiment"]["run"]["steps"] = steps
    longer = parse_study(values, f"sweep {journal.folder.name}")
    open_sweep(journal.folder, longer, resume=True, extend=True).close()
    return longer


def _of_trials(study: Study, trials: int | None) -> Iterator[str]:
    if trials is None:
        return
    if study.arms:
        yield "--trials: it compares arms; add seeds or arms to its file and `haps sweep` it again"
    elif trials <= study.sweep.trials:
        yield f"--trials: has {study.sweep.trials}, got {trials}; they are counted in all"


def _of_steps(study: Study, records: Sequence[TrialRecord], steps: int | None) -> Iterator[str]:
    if steps is None:
        return
    own = study.experiment.run.steps
    if study.experiment.stages or "stages" in study.space or any("stages" in arm for arm in study.arms.values()):
        yield "--steps: its runs have stages with steps of their own; begin a sweep with more (`--like` this one)"
    if steps <= own:
        yield f"--steps: runs have {own}, got {steps}; they are counted in all"
    if "run.steps" in study.space or any("run.steps" in arm for arm in study.arms.values()):
        yield "--steps: the study itself gives runs their number of steps (run.steps)"
    ended: dict[str, list[int]] = {}
    schedule: str
    for record in records:
        schedule = experiment_of(study, record).learning.schedule.type
        if schedule != "constant" and record.state != "failed":
            ended.setdefault(schedule, []).append(record.number)
    for schedule, numbers in ended.items():
        yield (
            f"--steps: the learning rate of {_listed(numbers)} falls as a {schedule} that ends at step {own}, so its "
            "steps would have been others in a longer run; begin a sweep with more steps (learning.schedule: "
            "{type: constant} can be extended), `--like` this one where it searched the same"
        )


def _listed(numbers: Sequence[int]) -> str:
    shown = ", ".join(map(str, numbers[:5]))
    return f"trial {shown}" if len(numbers) == 1 else f"trials {shown}{', ...' if len(numbers) > 5 else ''}"
