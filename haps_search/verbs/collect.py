"""Every assignment on every question, in parts that survive a kill: without adapters, or with some that did not learn
it."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from haps_search.candidates.candidate import drawn
from haps_search.config.candidates import Price, endpoints_of
from haps_search.config.engines import LocalEngineConfig
from haps_search.config.run import Experiment
from haps_search.config.sweep import Study
from haps_search.episodes.play import Play, Sample, play
from haps_search.errors import ConfigError, Interrupted
from haps_search.learning.utility import cost, prices
from haps_search.records.parts import Parts, parts_folder, same_plan
from haps_search.routing.distribution import all_assignments
from haps_search.search.engine import finished
from haps_search.seeds import derive_seed
from haps_search.sweep.leaving import MAX_COST, ready_to_leave, unfinished
from haps_search.sweep.lock import Lock
from haps_search.tasks.build import build_task
from haps_search.tasks.held_out import of_half
from haps_search.tasks.outcomes import OutcomeRow, merge_outcomes, plan_of, write_outcomes
from haps_search.tasks.task import Task, paid
from haps_search.types import Adapter, Assignment, Episode, Question, Sampled, SampleRequest, Split
from haps_search.verbs.cross_fit import Adapt, check, half_experiment, players, trained
from haps_search.verbs.events import Counted, Report, Said, saying, silent
from haps_search.verbs.logs import logging_to
from haps_search.verbs.paid_answers import ANSWERS, PaidAnswers, check_budget, paid_for

MOST_ASSIGNMENTS = 256
PACE = frozenset({"api_key_env", "concurrency", "requests_per_minute", "timeout_s", "retry_s"})
"""Of an endpoint, what may change from one call to the next."""
Advance = Callable[[int], None]
"""Episodes played since the last call."""


@dataclass(frozen=True)
class Collection:
    """What is to be played. One sample is greedy, several are drawn at the experiment's sampling. `cross_fit`: with the
    adapters of a run on the other half of the questions."""

    experiment: Experiment
    split: Split
    questions: tuple[Question, ...]
    assignments: tuple[Assignment, ...]
    samples: int
    chunk: int
    """Questions in flight at once, and what a kill can cost."""
    cross_fit: bool = False

    @cached_property
    def _parts(self) -> list[tuple[int | None, tuple[Question, ...]]]:
        """Chunks, none of both halves, each with its half."""
        halves = [(h, tuple(of_half(self.questions, h))) for h in ((0, 1) if self.cross_fit else (None,))]
        return [(h, own[at : at + self.chunk]) for h, own in halves for at in range(0, len(own), self.chunk)]

    @property
    def chunks(self) -> int:
        return len(self._parts)

    def part(self, index: int) -> tuple[Question, ...]:
        """The questions of a chunk."""
        return self._parts[index][1]

    def half(self, index: int) -> int | None:
        """The half that the questions of a chunk are in; None where there are no halves."""
        return self._parts[index][0]

    def episodes(self, chunks: Iterable[int]) -> int:
        """How many episodes these chunks have."""
        return sum(len(self.part(index)) for index in chunks) * len(self.assignments) * self.samples

    def plan(self) -> dict[str, Any]:
        """What makes a table the same table, as JSON: two that differ here must not be mixed."""
        described = self.experiment.model_dump(mode="json")
        asked = [
            [q.id, q.text, q.reference, q.context, dict(q.attributes), *q.other_references] for q in self.questions
        ]
        return {
            "task": described["task"],
            "candidates": [_answering(c) for c in described["candidates"]],
            "sampling": described["run"]["sampling"],
            "seed": described["run"]["seed"],
            "split": self.split,
            "samples": self.samples,
            "chunk": self.chunk,
            "questions": len(asked),
            "questions_sha256": hashlib.sha256(json.dumps(asked, default=asdict).encode()).hexdigest(),
            **({"cross_fit": self._learnt()} if self.cross_fit else {}),
        }

    def _learnt(self) -> dict[str, Any]:
        """What says which adapters play."""
        described = half_experiment(self.experiment, 0).model_dump(mode="json")
        return {name: described[name] for name in ("routing", "learning", "run")}


def _answering(candidate: Mapping[str, Any]) -> dict[str, Any]:
    """What decides a candidate's answers and what they cost: not what a routing prompt says of it, and not how many are
    asked for at a time."""
    kept = {key: value for key, value in candidate.items() if key != "description"}
    if kept["source"]["type"] == "endpoint":
        kept["source"] = {key: value for key, value in kept["source"].items() if key not in PACE}
    return kept


def collection(
    experiment: Experiment,
    task: Task,
    split: Split,
    samples: int,
    limit: int | None,
    chunk: int,
    cross_fit: bool = False,
) -> Collection:
    """All K^R assignments on the first `limit` questions of a split.

    Raises:
        ConfigError: more assignments than can be played, or nothing to cross-fit. DataError: malformed questions.
    """
    if cross_fit:
        check(experiment, split)
    names, roles = [c.name for c in experiment.candidates], len(task.roles)
    if len(names) ** roles > MOST_ASSIGNMENTS:
        raise ConfigError(
            f"candidates: {len(names)} candidates in {roles} roles are {len(names) ** roles} assignments, and each is "
            f"played on every question: at most {MOST_ASSIGNMENTS}; leave candidates out"
        )
    questions = tuple(task.questions(split))[:limit]
    return Collection(experiment, split, questions, tuple(all_assignments(names, roles)), samples, chunk, cross_fit)


async def frozen(questions: Sequence[Question]) -> Mapping[tuple[int, str], Adapter]:
    """Nobody has an adapter."""
    return {}


async def play_missing(
    sample: Sample,
    task: Task,
    wanted: Collection,
    parts: Parts,
    advance: Advance,
    leaves: Callable[[], bool] = lambda: False,
    adapt: Adapt = frozen,
    half: int | None = None,
) -> None:
    """Play the parts that are missing, of one half where there are halves.

    Raises:
        CandidateError, PoolError: the parts so far stay and the next call goes on. Interrupted: `leaves` said so.
    """
    for index in parts.missing():
        if wanted.half(index) != half:
            continue
        if leaves():
            raise Interrupted("the parts so far are kept")
        outcomes = await play_chunk(sample, task, wanted, index, await adapt(wanted.part(index)))
        parts.add(index, partial(_write, outcomes))
        advance(len(outcomes))


def merge(wanted: Collection, parts: Parts) -> None:
    """The table from its parts, which are removed. Raises DataError for a part that cannot be read."""
    parts.merge(partial(merge_outcomes, plan=wanted.plan()))


async def play_chunk(
    sample: Sample, task: Task, wanted: Collection, index: int, adapters: Mapping[tuple[int, str], Adapter]
) -> list[OutcomeRow]:
    """A row per question, assignment and sample, the sample varying fastest."""
    questions = wanted.part(index)
    row = [z for z in wanted.assignments for _ in range(wanted.samples)]
    settings = wanted.experiment.run
    how = Play(settings.sampling, derive_seed(settings.seed, "collect"), greedy=wanted.samples == 1)
    played = await play(sample, task, questions, [row] * len(questions), adapters, how)
    price = prices(wanted.experiment.candidates)
    return [
        _outcome(task, wanted.split, episode, place % wanted.samples, price)
        for episodes in played
        for place, episode in enumerate(episodes)
    ]


def _outcome(task: Task, split: Split, episode: Episode, sample: int, price: Mapping[str, Price]) -> OutcomeRow:
    failures = [u.parsed.failure for u in episode.completions if u.parsed.failure is not None]
    return OutcomeRow(
        question=episode.question,
        split=split,
        task=task.name,
        assignment=episode.assignment,
        sample=sample,
        reward=paid(task, episode, learning=split == "train"),
        prompt_tokens=sum(u.sampled.prompt_tokens for u in episode.completions),
        completion_tokens=sum(u.sampled.completion_tokens for u in episode.completions),
        cost=cost(episode, price),
        completion=episode.completions[-1].sampled.text if episode.completions else "",
        failure="; ".join(failures) or None,
    )


def _write(outcomes: Sequence[OutcomeRow], path: Path) -> None:
    write_outcomes(path, outcomes)


@dataclass(frozen=True)
class Collected:
    """The table, how many episodes it has, and how many of them were played now; what endpoints were paid for it in all
    calls, and how often one of them refused."""

    table: Path
    episodes: int
    played: int
    paid: float = 0.0
    refusals: int = 0


def collect(
    study: Study,
    table: str | Path,
    split: Split = "train",
    samples: int = 1,
    limit: int | None = None,
    chunk: int = 16,
    report: Report = silent,
    max_cost: float | None = None,
    cross_fit: bool = False,
    runs: str | Path = "runs",
) -> Collected:
    """Play every assignment on the first `limit` questions of a split, and write the outcome table; from what is there
    to the whole of it. One sample is greedy, more are drawn as `run.sampling` says. Safe to kill and to call again.

    What endpoints answer is kept answer by answer, and they are paid `max_cost` at most in all calls, in the unit of
    their prices.
    Without adapters; or `cross_fit`: two runs, NAME-half-1 and NAME-half-2 under `runs` after the table's name, learn
    half of the training questions each, and play those of the other with their adapters. A study with stages trains
    them by its first one.

    Raises:
        ConfigError: a table or parts of another configuration, or another process at work on it; a budget that would
            bound nothing.
        CandidateError, PoolError: the parts so far stay and the next call goes on.
        Unfinished: somebody wanted it to leave, or the budget is used up; likewise.
    """
    check_budget(study.experiment.candidates, max_cost)
    table, task = Path(table).absolute(), build_task(study.experiment.task)
    wanted = collection(study.experiment, task, split, samples, limit, chunk, cross_fit)
    plan, total = wanted.plan(), wanted.episodes(range(wanted.chunks))
    if table.exists():
        same_plan(table, plan_of(table), plan)
    folder = parts_folder(table)
    folder.mkdir(parents=True, exist_ok=True)
    lock = Lock(folder / "lock")
    try:
        parts = Parts(table, plan, wanted.chunks)  # under the lock: it removes what a writer that is gone left behind
        if table.exists():
            parts.discard()
            return Collected(table, total, 0)
        most = math.inf if max_cost is None else max_cost
        played = _play(study, task, wanted, parts, report, lock, most, runs)
        paid = paid_for(study.experiment.candidates, parts.folder / ANSWERS)
        merge(wanted, parts)
    except Interrupted as error:
        more = " with more of it" if lock.why == MAX_COST else ""
        raise unfinished(lock.why, f"{error}: the same `haps collect`{more} goes on") from error
    finally:
        lock.release()
    return Collected(table, total, played, *paid)


def _play(
    study: Study,
    task: Task,
    wanted: Collection,
    parts: Parts,
    report: Report,
    lock: Lock,
    most: float,
    runs: str | Path,
) -> int:
    """How many episodes were played; endpoints are paid `most` at most."""
    missing = parts.missing()
    total, played = wanted.episodes(range(wanted.chunks)), wanted.episodes(missing)
    kind = "greedy episode" if wanted.samples == 1 else "sampled episodes"
    there = f", {total - played} episodes are there" if played < total else ""
    asked = f"{len(wanted.questions)} questions of {wanted.split} x {len(wanted.assignments)} assignments"
    report(Said(f"{asked} x {wanted.samples} {kind}{there}"))
    if not missing:
        return 0
    done = total - played

    def advance(count: int) -> None:
        nonlocal done
        done += count
        report(Counted("episodes", done, total))

    paid = endpoints_of(study.experiment.candidates)
    for half in sorted({wanted.half(index) for index in missing}, key=str):
        around = _players(study, task, half, parts, runs, report)
        report(Counted("episodes", done, total))
        with ready_to_leave(lock, parts.folder) as arm, around as (sample, adapt):
            arm()
            work = partial(
                play_missing, task=task, wanted=wanted, parts=parts, advance=advance, leaves=lambda: lock.leaving,
                adapt=adapt, half=half,
            )  # fmt: skip
            if paid:
                answers = PaidAnswers(sample, study.experiment.candidates, parts.folder / ANSWERS, lock, most)
                finished(answers.kept(work(answers.sample)))
            else:
                finished(work(sample))
    return played


def _players(
    study: Study, task: Task, half: int | None, parts: Parts, runs: str | Path, report: Report
) -> AbstractContextManager[tuple[Sample, Adapt]]:
    """Frozen candidates; or those of a half's questions, with the adapters that the other half taught."""
    if half is not None:
        other = 1 - half
        name = f"{parts.folder.name.partition('.')[0]}-half-{other + 1}"
        return players(*trained(study, other, runs, name, report), report)
    if isinstance(study.experiment.engine, LocalEngineConfig):
        return _local(study, task)
    return _on_ray(study, parts.folder / "logs", report)


@contextmanager
def _local(study: Study, task: Task) -> Iterator[tuple[Sample, Adapt]]:
    from haps_search.engines.local import load_candidates

    candidates = load_candidates(study.experiment, task)

    async def sample(candidate: str, requests: Sequence[SampleRequest]) -> list[Sampled]:
        return await drawn(candidates[candidate], requests)

    yield sample, frozen


@contextmanager
def _on_ray(study: Study, logs: Path, report: Report) -> Iterator[tuple[Sample, Adapt]]:
    from haps_search.engines.cluster.remote_candidates import RemoteCandidates
    from haps_search.engines.cluster.session import session
    from haps_search.verbs.driver import profile_of

    profile = profile_of(study)
    with (
        logging_to(logs / "driver.log"),
        session(study.name, study.experiment.candidates, profile, logs) as live,
    ):
        live.wait_for_candidates(saying(report))
        candidates = RemoteCandidates(live.broker, profile)
        try:
            yield candidates.sample, frozen
        finally:
            candidates.leave()
