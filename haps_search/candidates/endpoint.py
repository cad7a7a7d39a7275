"""A model behind an OpenAI-compatible address as a candidate."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from haps_search.candidates.chat_completion import FILTERED, Malformed, fields, filtered, read
from haps_search.candidates.gate import Gate
from haps_search.config.candidates import CandidateConfig, EndpointSource
from haps_search.errors import CandidateError, EndpointError, Kind
from haps_search.faults.kinds import kind_of, pause_asked
from haps_search.faults.policy import Failures, Over, Policy
from haps_search.types import Message, ModuleTable, Sampled, SampleRequest, Sampling, ScoreRequest, Scores

if TYPE_CHECKING:
    from openai import AsyncOpenAI

_log = logging.getLogger(__name__)
_NO_KEY = "none"
"""The client wants a key, and would otherwise take OPENAI_API_KEY, which is another server's."""
_NO_MONEY = "insufficient_quota"
"""OpenAI says it with status 429, and no pause helps."""
_SAID = 300
"""So many characters of a server's own reason are shown."""
_KEPT = 4096
"""So many answers at most wait to be asked for again."""
Asked = tuple[tuple[Message, ...], Sampling]


def key_of(config: CandidateConfig) -> str:
    """The key from the environment. Raises CandidateError where its variable is not set."""
    source = config.source
    assert isinstance(source, EndpointSource)
    if source.api_key_env is None:
        return _NO_KEY
    key = os.environ.get(source.api_key_env, "").strip()
    if not key:
        raise CandidateError(
            f"candidate {config.name}: {source.api_key_env} (source.api_key_env) is not set here, and is to hold the "
            f"key for {source.base_url}: export it where this process is started; on a cluster where its nodes' Ray is"
        )
    return key


def require(candidates: Sequence[CandidateConfig]) -> None:
    """What endpoints need of this process, before anything is started. Raises CandidateError: a package or variable is
    missing."""
    for config in candidates:
        if isinstance(config.source, EndpointSource):
            _client_class(config.name)
            key_of(config)


@dataclass(eq=False)
class _Batch:
    """Rows that are asked together: all, those whose request is under way, and whether no other is to be sent."""

    rows: list[asyncio.Task[Sampled]] = field(default_factory=list)
    sending: set[asyncio.Task[Sampled]] = field(default_factory=set)
    stopped: bool = False

    def stop(self) -> None:
        """Who waits for a turn is sent no more; what is under way is paid for, and comes back."""
        self.stopped = True
        for row in {*self.rows} - self.sending - {asyncio.current_task()}:
            row.cancel()


class EndpointCandidate:
    """Implements the sample half of `Candidate`; of scores there are none.

    Requests run on an event loop of its own, in a thread, so whoever asks may wait for it or do other things meanwhile.
    What was answered of a batch that failed is kept until it is asked for again: it was paid for.
    """

    def __init__(self, config: CandidateConfig, client: AsyncOpenAI, key: str, limit_s: float = math.inf) -> None:
        """A batch that takes longer than `limit_s` fails, for whoever has to give a sign of life."""
        assert isinstance(config.source, EndpointSource)
        self.table = ModuleTable(config.name, 0, ())
        self._config, self._source, self._client, self._key = config, config.source, client, key
        self._limit_s = limit_s
        self._policy = Policy(within_s=config.source.retry_s, first_s=0.5, longest_s=30.0)
        self._gate = Gate(config.source.concurrency, config.source.requests_per_minute)
        self._priced = bool(config.price.read or config.price.written)
        self._answered: dict[Asked, Sampled] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"endpoint-{config.name}", daemon=True)
        self._thread.start()

    @classmethod
    def load(cls, config: CandidateConfig, workers: int = 1, limit_s: float = math.inf) -> EndpointCandidate:
        """One of so many workers. Raises CandidateError: the package or the key's variable is missing."""
        source = config.source
        assert isinstance(source, EndpointSource)
        client_class, key = _client_class(config.name), key_of(config)
        # Retries are the one policy's.
        client = client_class(api_key=key, base_url=source.base_url, max_retries=0, timeout=source.timeout_s)
        client.organization = client.project = None  # what OPENAI_* says is for another server
        logging.getLogger("httpx").setLevel(logging.WARNING)  # a line per request otherwise
        logging.getLogger("httpx2").setLevel(logging.WARNING)
        shared = config.model_copy(update={"source": source.shared_by(workers)})
        return cls(shared, client, key, limit_s)

    @property
    def room(self) -> int:
        """No bound: the gate makes requests wait."""
        return sys.maxsize

    def sample(self, requests: Sequence[SampleRequest]) -> list[Sampled]:
        return asyncio.run_coroutine_threadsafe(self._all(requests), self._loop).result()

    async def sampled(self, requests: Sequence[SampleRequest]) -> list[Sampled]:
        """As `sample`, on the caller's event loop, which goes on meanwhile."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._all(requests), self._loop))

    def score(self, requests: Sequence[ScoreRequest]) -> Scores:
        """Nothing that was asked for can be answered; of what is left out there is nothing to say."""
        if any(request.read for request in requests):
            raise CandidateError(
                f"candidate {self._config.name}: an endpoint has no likelihoods and no gradients: set "
                "routing.low_level: {type: none}, or ask a candidate of your own"
            )
        return Scores(tuple((None,) * len(request.completions) for request in requests), ())

    def close(self) -> None:
        """Give the connections back."""
        if self._loop.is_running():
            asyncio.run_coroutine_threadsafe(self._client.close(), self._loop).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    async def _all(self, requests: Sequence[SampleRequest]) -> list[Sampled]:
        if any(request.adapter is not None for request in requests):
            raise CandidateError(f"candidate {self._config.name}: an endpoint takes no adapter")
        if not requests:
            return []
        batch = _Batch()
        rows = batch.rows = [asyncio.create_task(self._row(batch, request)) for request in requests]
        for row in rows:
            row.add_done_callback(_seen)
        try:
            async with asyncio.timeout(None if math.isinf(self._limit_s) else self._limit_s):
                await asyncio.wait(rows, return_when=asyncio.FIRST_EXCEPTION)
        except TimeoutError:
            pass  # said below, when what is under way has come
        finally:
            batch.stop()
        await asyncio.wait(rows)
        self._raise_first(rows)
        for request in requests:
            self._answered.pop(_asked(request), None)
        return [row.result() for row in rows]

    def _raise_first(self, rows: Sequence[asyncio.Task[Sampled]]) -> None:
        """The error that says most: one that stays before one that passes, and before time that was over."""
        errors = [error for row in rows if not row.cancelled() and (error := row.exception()) is not None]
        for error in sorted(errors, key=lambda e: kind_of(e) is not Kind.PERMANENT):
            raise error
        missing = sum(row.cancelled() for row in rows)
        if missing:
            raise CandidateError(
                f"candidate {self._config.name}: {missing} of {len(rows)} requests were not answered in "
                f"{self._limit_s:.0f} s: raise source.concurrency where the server takes more, or give leases more "
                "time (leases.deadline_s) or fewer rows in the cluster profile"
            ).of_kind(Kind.TRANSIENT)

    async def _row(self, batch: _Batch, request: SampleRequest) -> Sampled:
        asked = _asked(request)
        known = self._answered.get(asked)
        if known is None:
            known = self._answered[asked] = await self._persistently(batch, request)
            while len(self._answered) > _KEPT:
                del self._answered[next(iter(self._answered))]
        return known

    async def _persistently(self, batch: _Batch, request: SampleRequest) -> Sampled:
        from openai import OpenAIError

        failures = Failures(self._policy)
        while True:
            try:
                async with self._gate:
                    return await self._sent(batch, request)
            except (OpenAIError, Malformed, TimeoutError) as caught:
                error: Exception = caught
                if getattr(error, "code", None) == FILTERED:
                    return filtered()
                failed, asked_s = self._failed(error), pause_asked(error)
            follows = failures.follow(failed.kind, asked_s=asked_s)
            if isinstance(follows, Over) or batch.stopped:
                batch.stop()
                raise failed
            if asked_s:
                self._gate.rest(asked_s)
            what = failed.status or type(error).__name__  # not the server's words, which may hold a prompt
            _log.info("candidate %s: %s; tried again in %.1f s", self._config.name, what, follows.pause_s)
            await asyncio.sleep(follows.pause_s)

    async def _sent(self, batch: _Batch, request: SampleRequest) -> Sampled:
        task: Any = asyncio.current_task()
        batch.sending.add(task)
        body, further = fields(self._config, request.messages, request.sampling), self._source.extra_body
        try:
            async with asyncio.timeout(self._source.timeout_s):  # the client's own is per read
                completion = await self._client.chat.completions.create(**body, extra_body=further or None)
            return read(completion, self._priced)
        except ValueError as error:  # the body is no JSON, or no text
            raise Malformed(f"the answer is no chat completion: {error}") from None
        finally:
            batch.sending.discard(task)

    def _failed(self, error: Exception) -> EndpointError:
        """Ours, with the way out and without the key, which a server may have said back to us."""
        status, code = getattr(error, "status_code", None), getattr(error, "code", None)
        kind = Kind.PERMANENT if code == _NO_MONEY else kind_of(error)
        timed_out = isinstance(error, TimeoutError)
        said = f"no answer in {self._source.timeout_s:g} s (source.timeout_s)" if timed_out else str(error)
        if self._source.api_key_env is not None:
            said = said.replace(self._key, "***")
        reason = " ".join(said.split())[:_SAID] or type(error).__name__
        where = f"candidate {self._config.name}: {self._source.base_url}"
        failed = EndpointError(f"{where}: {reason}{self._way_out(status)}").of_kind(kind)
        failed.status = status
        return failed

    def _way_out(self, status: int | None) -> str:
        if status in (401, 403):
            variable = self._source.api_key_env
            if variable is None:
                return "; it wants a key: name the variable that holds it in source.api_key_env"
            return f"; it does not take the key in {variable}"
        if status == 404:
            return f"; has it a model `{self._source.model}`, and does its path end here (source.base_url, as in /v1)?"
        return ""


def _seen(row: asyncio.Task[Sampled]) -> None:
    """An error that nobody waits for any more is not logged with its text, which may hold a prompt."""
    if not row.cancelled():
        row.exception()


def _asked(request: SampleRequest) -> Asked:
    return request.messages, request.sampling


def _client_class(name: str) -> type[AsyncOpenAI]:
    try:
        from openai import AsyncOpenAI
    except ImportError as error:
        raise CandidateError(
            f"candidate {name}: an endpoint is asked by the openai client, which is not installed: "
            "pip install 'haps-search[endpoints]'"
        ) from error
    return AsyncOpenAI
