"""Adapters that did not learn the questions they play: a run on each half of the training questions, for the other."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from haps_search.config.engines import LocalEngineConfig
from haps_search.config.routing import NoLowLevel
from haps_search.config.run import Experiment
from haps_search.config.sweep import Study
from haps_search.episodes.play import Sample
from haps_search.errors import ConfigError, Unfinished
from haps_search.records.run_folder import RunFolder
from haps_search.types import Adapter, Question, Split
from haps_search.verbs.events import Report, Said
from haps_search.verbs.find import named_folder
from haps_search.verbs.train import train

Adapt = Callable[[Sequence[Question]], Awaitable[Mapping[tuple[int, str], Adapter]]]
"""Questions -> the adapter of every candidate for each of them."""


def half_experiment(experiment: Experiment, half: int) -> Experiment:
    """The run on one half: the experiment, or its first stage alone, from a fresh router.

    Raises:
        ConfigError: there are no adapters, or they begin with what learnt all questions.
    """
    first = experiment.played()[0]
    if isinstance(first.routing.low_level, NoLowLevel):
        raise ConfigError("routing.low_level: none, so there are no adapters to cross-fit; leave --adapters out")
    if first.run.warm_start_low:
        raise ConfigError(
            f"run.warm_start_low: run {first.run.warm_start} has learnt the questions that its adapters would play; "
            "say false, and let each half learn anew"
        )
    # What warmed the high level may have learnt all of them too, and says nothing of adapters.
    run = first.run.model_copy(update={"half": half, "warm_start": None})
    return first.model_copy(update={"run": run})


def check(experiment: Experiment, split: Split) -> None:
    """Raises ConfigError where nothing can be cross-fitted."""
    if split != "train":
        raise ConfigError(f"--adapters cross-fit: halves are of training questions, got --split {split}")
    half_experiment(experiment, 0)


def trained(study: Study, half: int, runs: str | Path, name: str, report: Report) -> tuple[Path, Experiment]:
    """The folder of the run on a half, from its last checkpoint to its end. Raises as `train`."""
    experiment = half_experiment(study.experiment, half)
    folder = named_folder(runs, name)
    if not (folder / "result.json").exists() or RunFolder(folder, experiment).result() is None:
        report(Said(f"adapters on half {half + 1} of the training questions: run {folder}"))
        try:
            train(study.model_copy(update={"experiment": experiment, "space": {}, "arms": {}}), name, runs, report)
        except Unfinished as error:
            error.args = (str(error).replace("haps train", "haps collect"),)
            raise
    return folder, experiment


@contextmanager
def players(folder: Path, experiment: Experiment, report: Report) -> Iterator[tuple[Sample, Adapt]]:
    """The candidates and adapters of a run at its best step. Raises as `hosted`."""
    from haps_search.verbs.hosting import hosted  # Ray, which no table without adapters needs here

    engine = experiment.engine
    profile = None if isinstance(engine, LocalEngineConfig) else engine.profile
    with hosted(folder, experiment, profile, report) as loaded:

        async def adapt(questions: Sequence[Question]) -> Mapping[tuple[int, str], Adapter]:
            return (await loaded.engine.route(questions, 0, 0, everyone=True)).adapters

        yield loaded.engine.sample, adapt
