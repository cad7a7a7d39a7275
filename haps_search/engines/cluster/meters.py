"""What Prometheus sees of the pool, on Ray's own metrics ports.

Ray puts `ray_` before every name. Series are by candidate, and what a worker measures by worker too, so that Ray's
dashboard and Grafana tell candidates apart.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from ray.util.metrics import Counter, Gauge, Histogram

from haps_search.candidates.candidate import Candidate
from haps_search.types import ModuleTable, Sampled, SampleRequest, ScoreRequest, Scores

ROWS = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0]
"""Bounds of the histogram of rows per batch."""
COUNTS = ("tickets", "leases", "requeued", "lost", "dropped")
"""Of the broker's counts those that are told."""
_BY_CANDIDATE, _BY_WORKER = ("candidate",), ("candidate", "worker")


class BrokerMeters:
    """`haps_waiting`, a candidate's queue; `haps_workers`, who serves it; and what the broker counts."""

    def __init__(self) -> None:
        self._waiting = Gauge("haps_waiting", "Tickets that wait for a lease.", _BY_CANDIDATE)
        self._workers = Gauge("haps_workers", "Workers that serve it.", _BY_CANDIDATE)
        self._leased = Gauge("haps_leased", "Leases that workers hold.")
        self._open = Gauge("haps_open", "Tickets without an outcome.")
        self._counts = {name: Counter(f"haps_{name}", f"The broker's count of {name}.") for name in COUNTS}
        self._told = dict.fromkeys(COUNTS, 0)

    def __call__(self, status: Mapping[str, Any]) -> None:
        """`status` is the broker's own."""
        serving = [worker["candidate"] for worker in status["workers"].values() if worker["serving"]]
        for name, waiting in status["waiting"].items():
            self._waiting.set(waiting, {"candidate": name})
            self._workers.set(serving.count(name), {"candidate": name})
        self._leased.set(status["leased"])
        self._open.set(status["open"])
        for name, counter in self._counts.items():
            if status[name] > self._told[name]:
                counter.inc(status[name] - self._told[name])
                self._told[name] = status[name]


class Metered:
    """A candidate whose batches are counted: rows, tokens written or scored, seconds at work, memory at its height."""

    def __init__(self, candidate: Candidate, worker: str) -> None:
        self._candidate = candidate
        tags = {"candidate": candidate.table.candidate, "worker": worker}
        self._tokens = Counter("haps_tokens", "Tokens of completions.", (*_BY_WORKER, "kind"))
        self._busy = Counter("haps_busy_seconds", "Seconds at work.", (*_BY_WORKER, "kind"))
        self._rows = Histogram("haps_batch_rows", "Rows of a batch.", ROWS, (*_BY_WORKER, "kind"))
        self._memory = Gauge("haps_peak_bytes", "The most memory it has held.", _BY_WORKER)
        for meter in (self._tokens, self._busy, self._rows, self._memory):
            meter.set_default_tags(tags)

    @property
    def table(self) -> ModuleTable:
        return self._candidate.table

    @property
    def room(self) -> int:
        return self._candidate.room

    def sample(self, requests: Sequence[SampleRequest]) -> list[Sampled]:
        began = time.perf_counter()
        drawn = self._candidate.sample(requests)
        self._tell("sample", len(drawn), sum(each.completion_tokens for each in drawn), began)
        return drawn

    def score(self, requests: Sequence[ScoreRequest]) -> Scores:
        began = time.perf_counter()
        scores = self._candidate.score(requests)
        lengths = [len(each.log_probabilities) for row in scores.completions for each in row if each is not None]
        self._tell("score", len(lengths), sum(lengths), began)
        return scores

    def _tell(self, kind: str, rows: int, tokens: int, began: float) -> None:
        tags = {"kind": kind}
        self._busy.inc(max(time.perf_counter() - began, 1e-9), tags)
        if rows and tokens:
            self._rows.observe(rows, tags)
            self._tokens.inc(tokens, tags)
        self._memory.set(peak_bytes())


def peak_bytes() -> int:
    """Of this process, or of its GPU where it uses one."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
