"""Everything in one process: the engine for tests, laptops and one-GPU runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from haps_search.candidates.candidate import Candidate, drawn
from haps_search.candidates.endpoint import EndpointCandidate, require
from haps_search.candidates.table import TableCandidate
from haps_search.config.candidates import CandidateConfig, EndpointSource, TableSource
from haps_search.config.engines import LocalEngineConfig
from haps_search.config.run import Experiment
from haps_search.engines.assembly import build_learner
from haps_search.engines.torch_process import prepare_torch
from haps_search.errors import CheckpointError
from haps_search.learning.update import Learner
from haps_search.records.checkpoint import Checkpoint
from haps_search.records.run_folder import RunFolder
from haps_search.search.engine import OpenEngine, finished
from haps_search.tasks.build import build_task
from haps_search.tasks.replay import ReplayTask
from haps_search.tasks.task import Tabled, Task
from haps_search.types import (
    Adapter,
    Question,
    Routes,
    Sampled,
    SampleRequest,
    ScoreRequest,
    Scores,
    Signal,
    Snapshot,
    UpdateReport,
)


def load_candidates(experiment: Experiment, task: Task) -> dict[str, Candidate]:
    """Every candidate of the experiment in this process; raises CandidateError, ConfigError."""
    engine = experiment.engine
    require(experiment.candidates)
    prepare_torch(engine.threads if isinstance(engine, LocalEngineConfig) else None)
    return {c.name: load_candidate(c, task) for c in experiment.candidates}


def load_candidate(config: CandidateConfig, task: Task | None = None) -> Candidate:
    """One candidate in this process; `task` is a replay where it is a model of its table. Raises CandidateError."""
    if isinstance(config.source, TableSource):
        assert isinstance(task, ReplayTask)
        return TableCandidate.of(config.name, task)
    if isinstance(config.source, EndpointSource):
        return EndpointCandidate.load(config)
    from haps_search.candidates.frozen_lm import FrozenLM  # transformers, which replay does not need

    return FrozenLM.load(config)


class LocalEngine:
    """Implements `Engine` with candidates and router at hand."""

    def __init__(self, candidates: Mapping[str, Candidate], learner: Learner) -> None:
        self._candidates, self._learner = dict(candidates), learner

    @classmethod
    def build(cls, experiment: Experiment, task: Task) -> LocalEngine:
        """Load every candidate of the experiment; raises CandidateError, ConfigError."""
        candidates = load_candidates(experiment, task)
        return cls(candidates, build_learner(experiment, task, {n: c.table for n, c in candidates.items()}))

    async def load(self, experiment: Experiment) -> None:
        """Put this experiment's fresh router in the place of the one before. Raises CandidateError, ConfigError."""
        tables = {name: candidate.table for name, candidate in self._candidates.items()}
        self._learner = build_learner(experiment, build_task(experiment.task), tables)

    async def route(self, questions: Sequence[Question], episodes: int, seed: int, everyone: bool = False) -> Routes:
        return self._learner.route(questions, episodes, seed, everyone)

    async def sample(self, candidate: str, requests: Sequence[SampleRequest]) -> list[Sampled]:
        return await drawn(self._candidates[candidate], requests)

    async def score(self, candidate: str, requests: Sequence[ScoreRequest]) -> Scores:
        return self._candidates[candidate].score(requests)

    async def update(self, questions: Sequence[Question], signal: Signal) -> UpdateReport:
        return self._learner.update(questions, signal)

    async def snapshot(self) -> Snapshot:
        return self._learner.snapshot()

    async def restore(self, snapshot: Snapshot) -> None:
        self._learner.restore(snapshot)

    async def adapters_of(self, questions: Sequence[Question]) -> dict[tuple[int, str], Adapter]:
        return self.all_adapters(questions)

    def all_adapters(self, questions: Sequence[Question]) -> dict[tuple[int, str], Adapter]:
        """Adapters of every candidate for every question, whoever the router would choose."""
        return self._learner.router.all_adapters(questions)

    async def close(self) -> None:
        for candidate in self._candidates.values():
            if isinstance(candidate, EndpointCandidate):
                candidate.close()
        self._candidates.clear()


@dataclass(frozen=True)
class LoadedRun:
    """The engine stands at the run's best checkpoint, taken at `step`."""

    experiment: Experiment
    task: Task
    engine: OpenEngine
    step: int

    def worded(self, question: Question) -> Question:
        """A user's question as the router of this run learnt to read questions."""
        return self.task.worded(question) if isinstance(self.task, Tabled) else question

    def adapters(self, questions: Sequence[Question]) -> dict[tuple[int, str], Adapter]:
        """Adapters of every candidate for every question; empty where the low level is off."""
        return finished(self.engine.adapters_of(questions))


def best_of(folder: Path, experiment: Experiment) -> Checkpoint:
    """Raises CheckpointError where a run has none yet."""
    best = RunFolder(folder, experiment).best()
    if best is None:
        raise CheckpointError(f"{folder}: no validated checkpoint yet; let the run reach its first validation")
    return best


def load_run(folder: Path, experiment: Experiment) -> LoadedRun:
    """Load candidates and router here.

    Raises:
        CheckpointError: the run has no checkpoint yet. CandidateError: a candidate does not load.
    """
    best, task = best_of(folder, experiment), build_task(experiment.task)
    engine = LocalEngine.build(experiment, task)
    finished(engine.restore(best.snapshot))
    return LoadedRun(experiment, task, engine, best.step)
