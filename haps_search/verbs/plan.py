"""Who would sit where on a cluster, and whether it fits: arithmetic over shapes, nothing is started."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from haps_search.config.engines import ClusterProfile, Nodes, RayEngineConfig
from haps_search.config.load import load_profile, parse_nodes
from haps_search.config.sweep import Study
from haps_search.engines.placement import placement
from haps_search.engines.placement.placement import PROMPT_TOKENS, Plan, Row, gigabytes, needs_of
from haps_search.engines.placement.precision import settled
from haps_search.errors import CandidateError, ConfigError
from haps_search.verbs.frames import frame, page

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True)
class Planned:
    """A plan for a study on a profile, counted with prompts of so many tokens."""

    study: Study
    profile: ClusterProfile
    plan: Plan
    prompt_tokens: int

    @property
    def frame(self) -> DataFrame:
        """A row per process: node, GPUs, and its memory in bytes."""
        rows = [
            {
                "who": row.seat.who,
                "node": row.seat.node,
                "gpus": ", ".join(map(str, row.seat.gpus)),
                "weights": row.need.weights,
                "optimiser": row.need.optimiser,
                "adapters": row.need.adapters,
                "kept": row.need.kept,
                "working": row.need.working,
                "needs": row.need.total,
                "there": row.there,
            }
            for row in self.plan.rows
        ]
        return frame(rows, "who")

    def check(self) -> None:
        """Raises ConfigError where it cannot run, with the numbers."""
        if self.plan.problems:
            raise ConfigError(self.plan.problems, f"does not fit profile {self.profile.name}")

    def _repr_html_(self) -> str:
        said = "".join(f"<p>{line}</p>" for line in (*self.plan.problems, *self.plan.remarks))
        return page(f"{self.study.name} on profile {self.profile.name}", {"bytes": self.frame}) + said


def plan(
    study: Study, profile: str | None = None, nodes: Sequence[str] = (), prompt_tokens: int = PROMPT_TOKENS
) -> Planned:
    """Place a study on a profile (a name or file; default: the study's), or on other machines: `nodes` are texts as
    `count=2,cpus=64,gpus=8,gpu_memory_gb=80`, the head's first. `Planned.check` refuses what cannot fit.

    Raises:
        ConfigError: no profile, or machines that cannot be read. CandidateError: a shape that cannot be had.
    """
    engine = study.experiment.engine
    if profile is None and not isinstance(engine, RayEngineConfig):
        raise ConfigError("experiment.engine: type local has no cluster to plan for: give --profile")
    described = load_profile(profile or engine.profile)  # type: ignore[union-attr]
    if nodes:
        described = described.model_copy(update={"nodes": parse_nodes(nodes)})
    return planned(study, described, prompt_tokens)


def planned(study: Study, profile: ClusterProfile, prompt_tokens: int = PROMPT_TOKENS) -> Planned:
    """Raises CandidateError for a shape that cannot be had."""
    precise = settled(study.experiment, study.sweep.concurrency, profile)
    needs = needs_of(precise.experiment, prompt_tokens)
    made = placement.plan(precise.experiment, study.sweep.concurrency, profile, needs)
    made = replace(made, remarks=(*precise.said, *made.remarks))
    return Planned(study, profile, made, prompt_tokens)


def start_lines(study: Study, profile: ClusterProfile) -> list[str]:
    """What a sweep says of its placement before it starts anything.

    Raises:
        ConfigError: it cannot fit on the profile's nodes, with the numbers.
    """
    if study.experiment.task.type == "replay":
        return []  # no LLM is placed
    try:
        found = planned(study, profile)
    except CandidateError as error:
        return [f"placement is not checked: {str(error).splitlines()[0]}"]
    found.check()
    workers = [row for row in found.plan.rows if row.need.halves]
    routers = [row for row in found.plan.rows if not row.need.halves]
    machines = "; ".join(map(described, found.plan.machines)) or "nodes not declared, so not compared"
    return [
        f"placement   {_counted(workers, 'candidate worker')}, {_counted(routers, 'router')}; {machines}",
        *found.plan.remarks,
    ]


def described(kind: Nodes) -> str:
    """A kind of machine in words."""
    parts = [f"{kind.cpus:g} CPUs"]
    if kind.memory_gb is not None:
        parts.append(f"{kind.memory_gb:g} GB")
    if kind.gpus:
        memory = "" if kind.gpu_memory_gb is None else f" of {kind.gpu_memory_gb:g} GB"
        parts.append(f"{kind.gpus} GPU{'s' if kind.gpus > 1 else ''}{memory}")
    return f"{kind.count} node{'s' if kind.count > 1 else ''} with {', '.join(parts)}"


def _counted(rows: list[Row], what: str) -> str:
    most = max((row.need.total for row in rows), default=0)
    return f"{len(rows)} {what}{'s' if len(rows) != 1 else ''} of up to {gigabytes(most)} GB"
