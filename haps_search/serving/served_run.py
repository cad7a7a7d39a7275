"""What is served: a run at its best checkpoint, and who answers in its name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from haps_search.config.candidates import CandidateConfig
from haps_search.config.engines import LocalEngineConfig
from haps_search.config.run import Experiment
from haps_search.errors import ConfigError
from haps_search.search.deciding import require_tellable
from haps_search.search.gated import Gate
from haps_search.serving.hosts import Answers, CandidateHost, Decides, RouterHost
from haps_search.serving.service import Service
from haps_search.sweep.layout import sweep_of
from haps_search.tasks.build import build_task
from haps_search.tasks.task import Task
from haps_search.types import ModuleTable

if TYPE_CHECKING:
    from haps_search.routing.router import Router
    from haps_search.types import Snapshot


@dataclass(frozen=True)
class ServedRun:
    """A run's folder and experiment, and the candidates that answer: its own, or others of the same names. What cost
    weighs where a request does not say it is None where the router is told nothing of it."""

    folder: Path
    experiment: Experiment
    hosted: tuple[CandidateConfig, ...]
    gate: Gate | None = None
    cost_weight: float | None = None

    @classmethod
    def of(
        cls,
        folder: Path,
        experiment: Experiment,
        hosted: Sequence[CandidateConfig] = (),
        gate: Gate | None = None,
        cost_weight: float | None = None,
    ) -> ServedRun:
        """Raises ConfigError where nobody can answer, where the names are others, a gate that names nobody, or a weight
        of cost that the router cannot tell."""
        names = [c.name for c in experiment.candidates]
        answering = tuple(hosted) or experiment.candidates
        if sorted(c.name for c in answering) != sorted(names):
            got = ", ".join(c.name for c in answering)
            raise ConfigError(f"--candidates: the router chooses among {', '.join(names)}, got {got}: name the same")
        if any(c.source.type == "table" for c in answering):
            raise ConfigError(
                "this router learnt from a table, whose models answer nothing: name who answers in their stead "
                "(--candidates FILE, with LLMs or endpoints of the same names), or use `haps route`"
            )
        if hosted and experiment.routing.low_level.type != "none":
            raise ConfigError("--candidates: this run's adapters fit its own candidates only: leave it out")
        if gate is not None and gate.fallback not in names:
            raise ConfigError(f"--fallback: got {gate.fallback}, the candidates are {', '.join(names)}")
        if cost_weight is not None:
            require_tellable(build_task(experiment.task), experiment, cost_weight)
        return cls(folder, experiment, answering, gate, cost_weight)

    @property
    def name(self) -> str:
        """For applications on Ray: the folder's name, with the sweep's where it is a trial of one."""
        sweep = sweep_of(self.folder)
        return self.folder.name if sweep == self.folder else f"{sweep.name}-{self.folder.name}"

    @property
    def answering(self) -> Experiment:
        """The experiment with those candidates that answer, as memory is counted."""
        return self.experiment.model_copy(update={"candidates": self.hosted})

    def service(self, task: Task, router: Decides, candidates: Mapping[str, Answers]) -> Service:
        return Service(self.experiment, task, router, candidates, self.hosted, self.cost_weight)


def router_of(experiment: Experiment, snapshot: Snapshot, tables: Mapping[str, ModuleTable]) -> Router:
    """The router as a checkpoint has it. Raises CandidateError, CheckpointError."""
    from haps_search.engines.assembly import build_learner

    learner = build_learner(experiment, build_task(experiment.task), tables)
    learner.restore(snapshot)
    return learner.router


@contextmanager
def in_this_process(served: ServedRun) -> Iterator[Service]:
    """Router and candidates here, sharing one thread: they would fight over the same cores.

    Raises:
        CheckpointError: the run has no checkpoint yet. CandidateError: a candidate does not load.
    """
    from haps_search.engines.local import best_of, load_candidate
    from haps_search.engines.torch_process import prepare_torch

    experiment, task = served.experiment, build_task(served.experiment.task)
    snapshot, engine = best_of(served.folder, experiment).snapshot, experiment.engine
    prepare_torch(engine.threads if isinstance(engine, LocalEngineConfig) else None)
    candidates = {c.name: load_candidate(c) for c in served.hosted}
    router = router_of(experiment, snapshot, {name: c.table for name, c in candidates.items()})
    with ThreadPoolExecutor(1, "candidates") as threads:
        rows = {c.name: c.batch_rows for c in served.hosted}
        answering = {name: CandidateHost(c, rows[name], threads) for name, c in candidates.items()}
        yield served.service(task, RouterHost(experiment, task, router, served.gate, threads), answering)
