"""The broker at a thousand workers: its scheduling in one process, workers and trials simulated on a virtual clock."""

from __future__ import annotations

import heapq
import itertools
import random
import statistics
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import TypeVar

from benchmarks.measure import Figure, Measured, Target
from benchmarks.scale import Crowd, Scale
from haps_search.config.engines import Leases
from haps_search.engines.cluster.protocol import Answered, Done, Limits, Ticket, Work
from haps_search.engines.cluster.tickets import Tickets

FIGURES = ("broker_tickets", "broker_exchange", "broker_fairness", "broker_starved")
_LIMITS = Limits(rows=128, tokens=60_000, bytes=1e9)
_TOKENS_PER_S, _OVERHEAD_S = 2_000.0, 0.05
"""What a worker computes."""
_DEATHS = 1 / 500
"""Leases whose worker dies, and is there again a moment later."""
_TICK_S, _POLL_S, _IDLE_S = 0.25, 2.5, 1.0
_PARTS = 3
"""Of the run, in each of which every trial is to have its share."""
_ANSWERED = Answered(None)

T = TypeVar("T")


def measure(scale: Scale, threads: int) -> Measured:
    """Every trial keeps its part of `open` tickets waiting, with lengths and sizes of its own."""
    size = scale.crowd
    plays = {waiting: _Play(size, waiting).run() for waiting in size.open}
    (middle, some), (largest, many) = list(plays.items())[-2:]
    shares = tuple(max(abs(share - 1) for share in part) for part in many.shares())
    rate, p99 = many.tickets / many.cpu_s, 1e3 * _percentile(some.exchanges, 99)
    figures = (
        Figure("broker_tickets", f"tickets per second of CPU, {largest:,} open", (rate,), Target(5000, at_least=True)),
        Figure("broker_exchange", f"ms of CPU, 99th percentile of exchanges, {middle:,} open", (p99,), Target(5.0)),
        Figure("broker_fairness", f"the trial farthest from its fair share, of {size.trials}", shares, Target(0.2)),
        Figure("broker_starved", "trials to which a candidate gave nothing", (float(many.starved()),), Target(0.0)),
    )
    told = {str(waiting): play.told() for waiting, play in plays.items()}
    return Measured(figures, {}, {**asdict(size), "limits": asdict(_LIMITS), "by_open": told})


@dataclass(frozen=True, slots=True)
class _Habit:
    """What a trial asks for: tickets of so many rows, of about so many tokens a row; `score` is the share of a verb."""

    rows: int
    length: int
    score: float


@dataclass
class _Play:
    """Events in order of virtual time. What the scheduling costs is measured in CPU time: submitting, leasing, settling
    and collecting, and looking at the time."""

    size: Crowd
    open: int
    now: float = 0.0
    cpu_s: float = 0.0
    tickets: int = 0
    deaths: int = 0
    exchanges: list[float] = field(default_factory=list)
    """Seconds of CPU of each."""
    served: list[Counter[tuple[str, str]]] = field(default_factory=list)
    """Tokens by trial and candidate, in each part of the run."""

    def __post_init__(self) -> None:
        self._chance, self._numbers = random.Random(0), itertools.count()
        self._candidates = [f"c{i}" for i in range(self.size.candidates)]
        self._there = Tickets(self._candidates, Leases(deadline_s=600))
        self._habits = {f"t{i}": self._habit() for i in range(self.size.trials)}
        self._epochs, self._seen = dict.fromkeys(self._habits, 0), dict.fromkeys(self._habits, 0)
        self._events: list[tuple[float, int, str, str, Work | None]] = []

    def run(self) -> _Play:
        for trial in self._habits:
            self._submit(trial, self.open // self.size.trials)
            self._later(self._chance.random() * _POLL_S, "trial", trial)
        for number in range(self.size.workers):
            self._later(self._chance.random(), "worker", str(number))
        self._later(_TICK_S, "tick")
        while len(self.exchanges) < self.size.exchanges:
            if len(self.exchanges) * _PARTS >= self.size.exchanges * len(self.served):
                self.served.append(Counter())
            self._next()
        return self

    def shares(self) -> list[list[float]]:
        """Of every trial in each part of the run, 1 being what it would have had where all had the same."""
        parts = []
        for served in self.served:
            tokens = [sum(served[trial, candidate] for candidate in self._candidates) for trial in self._habits]
            parts.append([len(tokens) * each / sum(tokens) for each in tokens])
        return parts

    def starved(self) -> int:
        """Trials and candidates that had nothing in common for a part of the run."""
        pairs = list(itertools.product(self._habits, self._candidates))
        return sum(served[pair] == 0 for served in self.served for pair in pairs)

    def told(self) -> dict[str, object]:
        """For the record."""
        return {
            "tickets_per_cpu_s": self.tickets / self.cpu_s,
            "exchange_ms": {p: 1e3 * _percentile(self.exchanges, p) for p in (50, 90, 99)},
            "exchange_ms_max": 1e3 * max(self.exchanges),
            "least_of_fair_share": [min(part) for part in self.shares()],
            "most_of_fair_share": [max(part) for part in self.shares()],
            "tickets": self.tickets,
            "leases": len(self.exchanges),
            "deaths": self.deaths,
            "virtual_s": self.now,
        }

    def _habit(self) -> _Habit:
        return _Habit(self._chance.choice([2, 4, 8, 32]), self._chance.randint(100, 1200), self._chance.random())

    def _later(self, seconds: float, what: str, who: str = "", work: Work | None = None) -> None:
        heapq.heappush(self._events, (self.now + seconds, next(self._numbers), what, who, work))

    def _next(self) -> None:
        self.now, _, what, who, work = heapq.heappop(self._events)
        if what == "worker":
            self._exchange(who, work)
        elif what == "trial":
            self._collect(who)
        else:
            self._timed(lambda: self._there.expire(self.now))
            self._later(_TICK_S, what)

    def _timed(self, call: Callable[[], T]) -> T:
        began = time.process_time()
        found = call()
        self.cpu_s += time.process_time() - began
        return found

    def _exchange(self, worker: str, work: Work | None) -> None:
        candidate = self._candidates[int(worker) % len(self._candidates)]
        dies = work is not None and self._chance.random() < _DEATHS
        done = None if work is None or dies else Done(work.lease, (_ANSWERED,) * len(work.payloads))

        def exchange() -> Work | None:
            if done is not None:
                self._there.settle(done)
            elif dies:
                self._there.revoke(worker, "died")
            return self._there.grant(worker, candidate, _LIMITS, self.now)

        before = self.cpu_s
        new = self._timed(exchange)
        self.exchanges.append(self.cpu_s - before)
        self.tickets += 0 if done is None else len(done.results)
        self.deaths += dies
        self._work(worker, candidate, new)

    def _work(self, worker: str, candidate: str, work: Work | None) -> None:
        tokens = 0
        for trial, each in work.payloads if work else ():
            self.served[-1][trial, candidate] += each
            tokens += each
        self._later(_OVERHEAD_S + tokens / _TOKENS_PER_S if work else _IDLE_S, "worker", worker, work)

    def _collect(self, trial: str) -> None:
        found = self._timed(lambda: self._there.outcomes(trial, self._epochs[trial], self._seen[trial], self.now))
        if found:
            self._seen[trial] = found[-1].number
            self._submit(trial, len(found))
        self._later(_POLL_S * self._chance.uniform(0.2, 1.0), "trial", trial)

    def _submit(self, trial: str, count: int) -> None:
        new = [self._ticket(trial, self._habits[trial]) for _ in range(count)]
        self._epochs[trial] = self._timed(lambda: self._there.submit(trial, new, self.now))

    def _ticket(self, trial: str, habit: _Habit) -> Ticket:
        candidate, scored = self._chance.choice(self._candidates), self._chance.random() < habit.score
        tokens = habit.rows * int(habit.length * self._chance.uniform(0.5, 1.5))
        verb, prefers = ("score", self._some_worker(candidate)) if scored else ("sample", "")
        what = habit.rows, tokens, 10 * tokens, (trial, tokens)
        return Ticket(str(next(self._numbers)), trial, candidate, verb, *what, prefers)

    def _some_worker(self, candidate: str) -> str:
        """As if it had sampled what is to be scored."""
        place, count = self._candidates.index(candidate), len(self._candidates)
        return str(place + count * self._chance.randrange(self.size.workers // count))


def _percentile(values: list[float], percent: int) -> float:
    return statistics.quantiles(values, n=100)[percent - 1]
