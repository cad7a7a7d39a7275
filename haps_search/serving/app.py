"""The HTTP face: chats, models, health, metrics and a page."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from haps_search.errors import ConfigError, Kind, PoolError
from haps_search.search.deciding import require_tellable
from haps_search.serving.body import chat_of
from haps_search.serving.chunks import Shape, broken
from haps_search.serving.exchange import Chat, Reply, Routed
from haps_search.serving.limits import Limits
from haps_search.serving.prometheus import UNKNOWN, ServiceMeters
from haps_search.serving.refusals import Refused, refusal
from haps_search.serving.service import Service

PAGE = Path(__file__).with_name("page.html")
OPEN = frozenset({"/", "/healthz", "/readyz"})
"""What is served without a key: it says nothing of the run."""
LEFT = 499
"""What a request counts as whose client went away."""
SMOOTHING = 0.2
Ready = Callable[[], Awaitable[str | None]]
"""What is missing before chats can be answered, None where nothing is."""


async def always_ready() -> str | None:
    return None


class Front:
    """Takes requests one by one, and knows how many are open."""

    def __init__(self, service: Service, limits: Limits) -> None:
        self.service, self.limits, self.meters = service, limits, ServiceMeters()
        self.open_requests, self._usual_s = 0, 1.0

    async def complete(self, request: Request) -> Response:
        entry = _Entry(self)
        try:
            chat = await self._read(request, entry.until)
            entry.model = chat.model
            answering = self._streamed if chat.stream else self._whole
            return await _unless_left(request, answering(chat, entry))
        except Refused as refused:
            entry.end(refused.status)
            raise
        except BaseException:
            entry.end(LEFT)
            raise

    async def _read(self, request: Request, until: float) -> Chat:
        if self.open_requests > self.limits.open_requests:
            said = f"{self.limits.open_requests} requests are open: come again"
            raise Refused(429, said, None, "queue_full", max(1, math.ceil(self._usual_s)))
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise Refused(400, "the body has to be application/json")
        try:
            async with asyncio.timeout_at(until):
                raw = await _body(request, self.limits.body_bytes)
        except TimeoutError as error:
            raise Refused(408, "the body was not there within the time limit") from error
        except ClientDisconnect as error:
            raise _gone_away() from error
        own = self.service.experiment.run.sampling.max_new_tokens
        chat = chat_of(raw, self.service.models, own, self.limits)
        if chat.cost_weight is not None:
            self._check_weight(chat, chat.cost_weight)
        return chat

    def _check_weight(self, chat: Chat, weight: float) -> None:
        if chat.candidate is not None:
            raise Refused(400, "only a router weighs costs: ask for the model `haps`", "cost_weight")
        try:
            require_tellable(self.service.task, self.service.experiment, weight)
        except ConfigError as error:
            raise Refused(400, str(error).removeprefix("--cost-weight: "), "cost_weight") from error

    async def _whole(self, chat: Chat, entry: _Entry) -> Response:
        async with asyncio.timeout_at(entry.until):
            routed = await self._decided(chat)
            reply = await self.service.reply(chat, routed)
        self.meters.replied(reply)
        entry.end(200)
        shape = Shape(chat, routed.decided, self.service.seats(chat))
        return JSONResponse(shape.whole(reply), headers=shape.headers)

    async def _decided(self, chat: Chat) -> Routed:
        routed = await self.service.decide(chat)
        if chat.candidate is None:
            self.meters.routed(routed.decided)
        return routed

    async def _streamed(self, chat: Chat, entry: _Entry) -> Response:
        """The status is that of the beginning: nothing is sent before there is a first piece, or an end."""
        async with asyncio.timeout_at(entry.until):
            routed = await self._decided(chat)
            telling = _Telling(lambda hears: self._replied(chat, routed, hears, entry.until))
            try:
                await telling.begun()
            except BaseException:
                telling.stop()
                raise
        self.meters.began_to_tell(chat.model, entry.seconds)
        shape = Shape(chat, routed.decided, self.service.seats(chat))
        return _Events(telling, shape, entry)

    async def _replied(self, chat: Chat, routed: Routed, hears: Callable[[str], None], until: float) -> Reply:
        async with asyncio.timeout_at(until):
            reply = await self.service.reply(chat, routed, hears)
        self.meters.replied(reply)
        return reply

    def begin(self) -> None:
        self.open_requests += 1
        self.meters.open.set(self.open_requests)

    def end(self, model: str, status: int, seconds: float) -> None:
        self.open_requests -= 1
        self.meters.open.set(self.open_requests)
        self.meters.ended(model, status, seconds)
        if status == 200:
            self._usual_s += SMOOTHING * (seconds - self._usual_s)


class _Entry:
    """A request from its arrival to its end, which counts once."""

    def __init__(self, front: Front) -> None:
        self.model, self._front, self._began, self._ended = UNKNOWN, front, time.perf_counter(), False
        self.until = asyncio.get_running_loop().time() + front.limits.seconds
        front.begin()

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._began

    def end(self, status: int) -> None:
        if not self._ended:
            self._ended = True
            self._front.end(self.model, status, self.seconds)


class _Telling:
    """A reply in the making, and the pieces of it that nobody has taken yet."""

    def __init__(self, replied: Callable[[Callable[[str], None]], Awaitable[Reply]]) -> None:
        self._pieces: asyncio.Queue[str | None] = asyncio.Queue()
        self._work = asyncio.ensure_future(replied(self._pieces.put_nowait))
        self._work.add_done_callback(_seen)
        self._work.add_done_callback(lambda _: self._pieces.put_nowait(None))
        self._first: str | None = None

    async def begun(self) -> None:
        """Until there is a piece. Raises what went wrong before."""
        self._first = await self._pieces.get()
        if self._first is None:
            await self._work

    async def pieces(self) -> AsyncIterator[str]:
        """What came meanwhile goes out as one."""
        piece = self._first
        while piece is not None:
            there = [piece]
            after: str | None = piece
            while after is not None and not self._pieces.empty():
                after = self._pieces.get_nowait()
                there.append(after or "")
            yield "".join(there)
            piece = None if after is None else await self._pieces.get()

    @property
    def work(self) -> asyncio.Future[Reply]:
        """What is to be looked at when there are no more pieces."""
        return self._work

    def stop(self) -> None:
        """Nobody wants the rest."""
        self._work.cancel()


class _Events(StreamingResponse):
    """Server-sent events of a reply. Whoever leaves in the middle stops it."""

    def __init__(self, telling: _Telling, shape: Shape, entry: _Entry) -> None:
        self._telling, self._shape, self._entry = telling, shape, entry
        headers = {**shape.headers, "Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(self._told(), media_type="text/event-stream", headers=headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._telling.stop()
            self._entry.end(LEFT)  # where it has not ended otherwise

    async def _told(self) -> AsyncIterator[bytes]:
        yield self._shape.first()
        async for piece in self._telling.pieces():
            yield self._shape.piece(piece)
        work = self._telling.work
        await asyncio.wait([work])
        error = _error_of(work)
        if error is not None:
            refused = refusal(error)
            self._entry.end(refused.status)
            yield broken(refused)
            return
        self._entry.end(200)
        yield self._shape.last(work.result())


async def _unless_left(request: Request, answering: Awaitable[Response]) -> Response:
    """The answer, as an error of ours where it failed; left off when its client has gone."""
    work = asyncio.ensure_future(answering)
    work.add_done_callback(_seen)
    gone = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            raise _gone_away()
        error = _error_of(work)
        if error is not None:
            raise refusal(error) from error
        return work.result()
    finally:
        for each in (work, gone):
            each.cancel()
        with suppress(asyncio.CancelledError):
            await gone


def _gone_away() -> Refused:
    return Refused(LEFT, "the client has gone")


def _error_of(work: asyncio.Future[Any]) -> BaseException | None:
    """What went wrong; a replica that gives a request up cancels it, and nobody here did."""
    if work.cancelled():
        return PoolError("a replica gave the request up").of_kind(Kind.TRANSIENT)
    return work.exception()


def _seen(work: asyncio.Future[Any]) -> None:
    """An error that nobody waits for any more is not logged with its text, which may hold a prompt."""
    if not work.cancelled():
        work.exception()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        continue


async def _body(request: Request, most: int) -> bytes:
    found = bytearray()
    async for some in request.stream():
        found += some
        if len(found) > most:
            raise Refused(413, f"the body has more than {most} bytes", None, "request_too_large")
    return bytes(found)


def build_app(
    service: Service, limits: Limits, key: str | None = None, local: bool = True, ready: Ready = always_ready
) -> FastAPI:
    """The app over a service. Without a `key` everybody who reaches it may ask. `local`: it answers to this machine's
    names only, so that another site's page cannot reach it under a name of its own (DNS rebinding)."""
    front = Front(service, limits)
    app = FastAPI(title="haps", docs_url=None, redoc_url=None, openapi_url=None)
    app.state.front = front

    app.add_middleware(_Guard, key=key, local=local)

    @app.exception_handler(Refused)
    async def refused(_: Request, error: Refused) -> Response:
        return _refused(error)

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> Response:
        return _refused(Refused(error.status_code, f"{request.method} {request.url.path}: {error.detail}"))

    @app.post("/v1/chat/completions")
    async def completions(request: Request) -> Response:
        return await front.complete(request)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        listed = [{"id": name, "object": "model", "created": 0, "owned_by": "haps"} for name in service.models]
        return {"object": "list", "data": listed}

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        if name not in service.models:
            raise Refused(404, f"there is no model `{name}` here", "model", "model_not_found")
        return {"id": name, "object": "model", "created": 0, "owned_by": "haps"}

    @app.get("/healthz")
    async def healthy() -> dict[str, str]:
        return {"status": "alive"}

    @app.get("/readyz")
    async def is_ready() -> Response:
        missing = await ready()
        return JSONResponse({"status": missing or "ready"}, 200 if missing is None else 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(front.meters.page(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/")
    async def page() -> Response:
        policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'"
        more = "img-src data:; frame-ancestors 'none'"
        return HTMLResponse(PAGE.read_text(), headers={"Content-Security-Policy": f"{policy}; {more}"})

    return app


class _Guard:
    """Lets in who may ask."""

    def __init__(self, app: ASGIApp, key: str | None, local: bool) -> None:
        self._app, self._key, self._local = app, key, local

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            try:
                self._let_in(scope["path"], Headers(scope=scope))
            except Refused as refused:
                await _refused(refused)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _let_in(self, path: str, headers: Headers) -> None:
        host = headers.get("host", "")
        name = host.rpartition("]")[0].removeprefix("[") if host.startswith("[") else host.partition(":")[0]
        if self._local and not _of_this_machine(name.lower()):
            raise Refused(403, "this service answers to localhost and loopback addresses only", None, "foreign_host")
        if self._key is None or path in OPEN:
            return
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), self._key.encode()):
            said = "the API key is missing or wrong: send `Authorization: Bearer KEY`"
            raise Refused(401, said, None, "invalid_api_key")


def _of_this_machine(name: str) -> bool:
    try:
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _refused(refused: Refused) -> Response:
    return JSONResponse(refused.to_json(), refused.status, headers=refused.headers)
