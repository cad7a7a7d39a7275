"""`dtype: auto` of candidates on CPUs, decided once for all their workers, by this machine's speed and the memory of
those they will sit on."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from haps_search.config.candidates import CandidateConfig, GgufSource, HubSource, PathSource, ZooSource
from haps_search.config.engines import ClusterProfile, Nodes, Resources
from haps_search.config.run import Experiment
from haps_search.engines.placement import placement
from haps_search.engines.placement.placement import GB, PROMPT_TOKENS, needs_of


@dataclass(frozen=True, slots=True)
class Settled:
    """The experiment with the dtypes that were chosen, and a line for each."""

    experiment: Experiment
    said: tuple[str, ...]


def settled(experiment: Experiment, trials: int, profile: ClusterProfile) -> Settled:
    """Every `auto` of a candidate on CPUs as the checkpoint's own dtype, or as float32 where that is faster on this
    CPU and fits the profile's machines; on GPUs the workers take the checkpoint's.

    Raises CandidateError: no such model.
    """
    chosen: dict[str, str] = {}
    said = []
    machines = profile.model_copy(update={"nodes": _machines(profile)})
    for candidate in _open(experiment.candidates, profile):
        own, faster, times = _speeds(candidate)
        chosen[candidate.name] = faster
        fits = faster == own or _fits(_with(experiment, chosen), _with(experiment, {**chosen, candidate.name: own}),
                                      trials, machines)  # fmt: skip
        chosen[candidate.name] = faster if fits else own
        said.append(f"candidate {candidate.name}: dtype auto is {_reason(own, faster, times, fits)}")
    return Settled(_with(experiment, chosen), tuple(said))


def here() -> ClusterProfile:
    """A profile of this machine alone, for what runs in one process."""
    import torch

    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return ClusterProfile(name="here", candidate=Resources(gpus=min(gpus, 1)), nodes=(_this_machine(),))


def _open(candidates: Sequence[CandidateConfig], profile: ClusterProfile) -> list[CandidateConfig]:
    return [
        c
        for c in candidates
        if c.dtype == "auto"
        and isinstance(c.source, ZooSource | HubSource | PathSource | GgufSource)
        and (c.device == "cpu" or (c.device == "auto" and not profile.resources_of(c.name).gpus))
    ]


def _speeds(candidate: CandidateConfig) -> tuple[str, str, float]:
    """The checkpoint's dtype, that which is faster here, and how many times float32 is faster than the former."""
    from haps_search.candidates.precision import on_cpu, slowdown  # torch
    from haps_search.candidates.sources import meta_lm

    assert isinstance(candidate.source, ZooSource | HubSource | PathSource | GgufSource)
    own = meta_lm(candidate.name, candidate.source, "auto", candidate.trust_remote_code).dtype
    return _name(own), _name(on_cpu(own)), slowdown(own)


def _name(dtype: object) -> str:
    return str(dtype).removeprefix("torch.")


def _fits(tried: Experiment, before: Experiment, trials: int, profile: ClusterProfile) -> bool:
    """Whether nothing stands in the way that did not before."""
    problems = [
        len(placement.plan(each, trials, profile, needs_of(each, PROMPT_TOKENS)).problems) for each in (tried, before)
    ]
    return problems[0] <= problems[1]


def _with(experiment: Experiment, dtypes: dict[str, str]) -> Experiment:
    candidates = tuple(
        c.model_copy(update={"dtype": dtypes[c.name]}) if c.name in dtypes else c for c in experiment.candidates
    )
    return experiment.model_copy(update={"candidates": candidates})


def _reason(own: str, faster: str, times: float, fits: bool) -> str:
    if not fits:
        return f"{own}, the checkpoint's: float32 is {times:.1f} times as fast on this CPU and does not fit the memory"
    return f"{faster}, on this CPU {times:.1f} times as fast as the checkpoint's {own}" if faster != own else own


def _machines(profile: ClusterProfile) -> tuple[Nodes, ...]:
    """Those that are declared; for a Ray that is started here, this one."""
    declared = profile.machines()
    if profile.nodes or profile.address is not None:
        return declared
    return (_this_machine().model_copy(update={"cpus": declared[0].cpus if declared else 1.0}),)


def _this_machine() -> Nodes:
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / GB
    return Nodes(cpus=float(os.cpu_count() or 1), memory_gb=memory)
