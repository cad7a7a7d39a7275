"""Where a run's candidates are while its best checkpoint is used: in this process, or on a cluster's pool."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from haps_search.config.candidates import BALANCED
from haps_search.config.engines import ClusterProfile
from haps_search.config.load import load_profile
from haps_search.config.routing import BackboneConfig
from haps_search.config.run import Experiment
from haps_search.engines.cluster.session import Session, name_here, session
from haps_search.engines.local import LoadedRun, best_of, load_run
from haps_search.engines.placement import placement
from haps_search.engines.placement.placement import PROMPT_TOKENS, gigabytes, needs_of
from haps_search.errors import CandidateError, ConfigError
from haps_search.search.engine import finished
from haps_search.tasks.build import build_task
from haps_search.verbs.events import Report, Said, saying, silent
from haps_search.verbs.logs import logging_to
from haps_search.verbs.table import Host, OwnProcess


@contextmanager
def hosted(
    folder: Path, experiment: Experiment, profile: str | None = None, report: Report = silent
) -> Iterator[LoadedRun]:
    """A run at its best checkpoint. Under a profile (a name or file) its candidates are workers there and its router
    an actor, until the context ends.

    Raises:
        CheckpointError: the run has none yet. CandidateError: a candidate does not load.
        ConfigError: it does not fit into this process, or not on that profile, with the numbers.
    """
    if profile is None:
        _require_room(experiment)
        yield load_run(folder, experiment)
        return
    if experiment.task.type == "replay":
        raise ConfigError("--profile: a router of a table asks no candidates, and is used in this process")
    with _on_pool(folder, experiment, load_profile(profile), report) as loaded:
        yield loaded


@contextmanager
def rows_hosted(
    folder: Path, experiment: Experiment, profile: str | None = None, report: Report = silent
) -> Iterator[Host]:
    """Who has the candidates of a study, for all rows of its table. Raises as `hosted`."""
    if profile is None:
        _require_room(experiment)
        yield OwnProcess()
        return
    with _pool(folder, experiment, load_profile(profile), report) as live:
        yield live


@contextmanager
def _on_pool(folder: Path, experiment: Experiment, profile: ClusterProfile, report: Report) -> Iterator[LoadedRun]:
    best = best_of(folder, experiment)
    with _pool(folder, experiment, profile, report) as live:
        engine = finished(live.engine(experiment))
        try:
            finished(engine.restore(best.snapshot))
            yield LoadedRun(experiment, build_task(experiment.task), engine, best.step)
        finally:
            finished(engine.close())


@contextmanager
def _pool(folder: Path, experiment: Experiment, profile: ClusterProfile, report: Report) -> Iterator[Session]:
    for line in _remarks(experiment, profile):
        report(Said(line))
    logs = folder.resolve() / "logs"
    name = name_here(f"use-{os.getpid()}")
    with logging_to(logs / "use.log"), session(name, experiment.candidates, profile, logs) as live:
        live.wait_for_candidates(saying(report))
        yield live


def _remarks(experiment: Experiment, profile: ClusterProfile) -> tuple[str, ...]:
    """Raises ConfigError for what cannot fit on the profile's nodes."""
    try:
        made = placement.plan(experiment, 1, profile, needs_of(experiment, PROMPT_TOKENS))
    except CandidateError as error:
        return (f"placement is not checked: {str(error).splitlines()[0]}",)
    if made.problems:
        raise ConfigError(made.problems, f"does not fit profile {profile.name}")
    return made.remarks


def _require_room(experiment: Experiment) -> None:
    """Raises ConfigError where the weights of all candidates and the router are more than this machine has."""
    if experiment.task.type == "replay":
        return
    try:
        needs = needs_of(experiment, PROMPT_TOKENS)
    except CandidateError:
        return  # loading says what is wrong
    needed = needs.router.weights + sum(each.weights for each in needs.candidates.values())
    where, there = _memory(experiment)
    if needed > there:
        raise ConfigError(
            f"the weights of {len(needs.candidates)} candidates and the router need {gigabytes(needed)} GB in one "
            f"process, and {where} has {gigabytes(there)}: name a profile of a cluster that has room (--profile)"
        )


def _memory(experiment: Experiment) -> tuple[str, int]:
    """What models get here: where they go by themselves that is the first GPU, or all where one says balanced."""
    import torch

    backbone = experiment.routing.backbone
    devices = [c.device for c in experiment.candidates]
    devices += [backbone.device] if isinstance(backbone, BackboneConfig) else []
    if torch.cuda.is_available() and any(device != "cpu" for device in devices):
        count = torch.cuda.device_count() if BALANCED in devices else 1
        sizes = [torch.cuda.get_device_properties(i).total_memory for i in range(count)]
        return f"{count} GPU{'s' if count > 1 else ''}", sum(sizes)
    return "this machine", os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
