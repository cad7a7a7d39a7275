"""What endpoints answer while a table is collected: each request is paid once, kept as it comes, within a budget."""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from haps_search.config.candidates import CandidateConfig, EndpointSource, Price
from haps_search.episodes.play import Sample
from haps_search.errors import ConfigError, DataError, Interrupted
from haps_search.learning.utility import PER, prices
from haps_search.records.jsonl import JsonlWriter, read_lines
from haps_search.sweep.leaving import MAX_COST, Leaving
from haps_search.types import Sampled, SampleRequest

ANSWERS = "answers.jsonl"
"""Beside the parts of a table."""
_PER_MESSAGE = 32
"""Tokens, at most, that a chat template adds to a message."""


class PaidAnswers:
    """A `Sample` before another. Requests to endpoints go through one by one, each once whoever was killed between;
    those to other candidates go through as they are.

    With a budget nothing is asked that could exceed it at the longest answer there may be.
    """

    def __init__(
        self,
        sample: Sample,
        candidates: Sequence[CandidateConfig],
        file: Path,
        held: Leaving,
        most: float = math.inf,
    ) -> None:
        """Takes up the answers in `file`. Raises DataError where it is damaged, TrackerError where nobody can write."""
        self._sample, self._held, self._most, self._price = sample, held, most, prices(candidates)
        self._slots = {
            c.name: asyncio.Semaphore(c.source.concurrency) for c in candidates if isinstance(c.source, EndpointSource)
        }
        self._known = _read(file)
        self.spent, _ = paid_for(candidates, file)
        self._promised, self._under_way = 0.0, 0
        self._failed: BaseException | None = None
        self._open: set[asyncio.Task[Sampled]] = set()
        self._back = asyncio.Event()
        self._file = JsonlWriter(file)

    async def sample(self, candidate: str, requests: Sequence[SampleRequest]) -> list[Sampled]:
        """Raises as the other; Interrupted where somebody wants to leave, or the budget is used up."""
        if candidate not in self._slots:
            return await self._sample(candidate, requests)
        rows = [asyncio.create_task(self._row(candidate, request)) for request in requests]
        self._open.update(rows)
        for row in rows:
            row.add_done_callback(self._open.discard)
        return list(await asyncio.gather(*rows))

    async def kept(self, work: Awaitable[None]) -> None:
        """Do the work; what is under way when it fails still comes back and is kept."""
        try:
            await work
        except BaseException as error:
            self._failed = self._failed or error
            self._wake()
            raise
        finally:
            await asyncio.gather(*self._open, return_exceptions=True)
            self._file.close()

    async def _row(self, name: str, request: SampleRequest) -> Sampled:
        key = _key(name, request)
        if key in self._known:
            return self._known[key][1]
        async with self._slots[name]:
            most = _at_most(request, self._price[name])
            await self._promise(most)
            try:
                (sampled,) = await self._sample(name, [request])
            except BaseException as error:
                self._failed = self._failed or error
                raise
            else:
                self._keep(key, name, sampled)
                return sampled
            finally:
                self._promised, self._under_way = self._promised - most, self._under_way - 1
                self._wake()

    async def _promise(self, most: float) -> None:
        """Until so much more is within the budget, whatever those under way will cost."""
        while True:
            if self._failed is not None:
                raise self._failed
            if self._held.leaving:
                raise Interrupted(f"{self.spent:.6g} is paid, and the answers are kept")
            if self.spent + self._promised + most <= self._most:
                self._promised, self._under_way = self._promised + most, self._under_way + 1
                return
            if not self._under_way:
                self._held.leave(MAX_COST)
                continue
            await self._back.wait()

    def _wake(self) -> None:
        self._back.set()
        self._back = asyncio.Event()

    def _keep(self, key: str, name: str, sampled: Sampled) -> None:
        """On disk before anything is made of it. Raises OSError where the disk does not take it."""
        self._known[key] = name, sampled
        cost = _cost(sampled, self._price[name])
        self.spent += cost
        said = {
            "text": sampled.text,
            "tokens": [sampled.prompt_tokens, sampled.completion_tokens],
            "refusal": sampled.refusal,
        }
        self._file.append({"request": key, "candidate": name, "cost": cost, **said})
        self._file.settle()


def paid_for(candidates: Sequence[CandidateConfig], file: Path) -> tuple[float, int]:
    """What endpoints were paid for the answers of a file, and how many of them are refusals; of no file nothing."""
    found, price = _read(file).values(), prices(candidates)
    return math.fsum(_cost(s, price[name]) for name, s in found), sum(s.refusal is not None for _, s in found)


def check_budget(candidates: Sequence[CandidateConfig], most: float | None) -> None:
    """Raises ConfigError where a budget would bound nothing."""
    if most is None:
        return
    endpoints = [c for c in candidates if isinstance(c.source, EndpointSource)]
    free = [c.name for c in endpoints if not (c.price.read or c.price.written)]
    if not endpoints:
        raise ConfigError("--max-cost: no candidate is an endpoint, so nothing is paid: leave it out")
    if free:
        raise ConfigError(
            f"--max-cost: candidate {free[0]} has no price, so nobody knows what it costs: set its `price`, per "
            "million tokens read and written, in the unit of --max-cost"
        )


def _key(name: str, request: SampleRequest) -> str:
    said = [name, [[m.role, m.content] for m in request.messages], asdict(request.sampling)]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:32]


def _cost(sampled: Sampled, price: Price) -> float:
    return (sampled.prompt_tokens * price.read + sampled.completion_tokens * price.written) / PER


def _at_most(request: SampleRequest, price: Price) -> float:
    """No tokenizer makes more tokens of a text than it has bytes."""
    read = sum(len(m.content.encode()) + _PER_MESSAGE for m in request.messages) + _PER_MESSAGE
    return (read * price.read + request.sampling.max_new_tokens * price.written) / PER


def _read(file: Path) -> dict[str, tuple[str, Sampled]]:
    return {line["request"]: (line["candidate"], _sampled(line, file)) for line in read_lines(file).fields}


def _sampled(line: Mapping[str, Any], file: Path) -> Sampled:
    try:
        read, written = line["tokens"]
        return Sampled(line["text"], (), (), read, written, refusal=line["refusal"])
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{file}: a line that is no answer ({error}): remove it, and it is asked again") from error
