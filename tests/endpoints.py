"""An OpenAI-compatible server on loopback that answers as a test wants, bytes and all."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from haps_search.config.candidates import CandidateConfig

Body = Mapping[str, Any]


@dataclass(frozen=True)
class Reply:
    """What goes over the wire. `cut`: only so many bytes of the body come, then the connection ends."""

    body: bytes
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    kind: str = "application/json"
    cut: int | None = None
    until: threading.Event | None = None
    """The answer comes when this is set, or the server ends."""


def completion(
    text: str | None = "hello",
    prompt_tokens: int = 5,
    completion_tokens: int = 2,
    finish: str = "stop",
    refusal: str | None = None,
    usage: bool = True,
) -> Reply:
    message = {"role": "assistant", "content": text, "refusal": refusal}
    counted = {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens}
    counted["total_tokens"] = prompt_tokens + completion_tokens
    said = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "stub",
        "choices": [{"index": 0, "message": message, "finish_reason": finish}],
        **({"usage": counted} if usage else {}),
    }
    return Reply(json.dumps(said).encode())


def error(status: int, message: str = "no", code: str | None = None, **headers: str) -> Reply:
    said = {"error": {"message": message, "type": "stub", "code": code, "param": None}}
    return Reply(json.dumps(said).encode(), status, {k.replace("_", "-"): v for k, v in headers.items()})


class Stub:
    """Answers the replies of its script first, then what `usual` makes of a request's body."""

    def __init__(self, *script: Reply, usual: Callable[[Body], Reply] = lambda body: completion()) -> None:
        self._script, self._usual = list(script), usual
        self._lock = threading.Lock()
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.times: list[float] = []
        self.at_a_time = self._now = 0
        self.ended = threading.Event()
        self.url = ""

    def take(self, path: str, headers: Mapping[str, str], body: dict[str, Any]) -> Reply:
        with self._lock:
            self.times.append(time.monotonic())
            self.paths.append(path)
            self.headers.append({name.lower(): value for name, value in headers.items()})
            self.bodies.append(body)
            self._now += 1
            self.at_a_time = max(self.at_a_time, self._now)
            reply = self._script.pop(0) if self._script else self._usual(body)
        while reply.until is not None and not reply.until.wait(0.01) and not self.ended.is_set():
            continue
        return reply

    def done(self) -> None:
        with self._lock:
            self._now -= 1


@contextmanager
def serving(stub: Stub) -> Iterator[Stub]:
    """The stub at `stub.url` while the context is open."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            try:
                reply = stub.take(self.path, dict(self.headers), body)
            finally:
                stub.done()  # before the answer, or its reader's next request would count beside it
            self.send_response(reply.status)
            self.send_header("Content-Type", reply.kind)
            self.send_header("Content-Length", str(len(reply.body)))
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(reply.body if reply.cut is None else reply.body[: reply.cut])
            self.close_connection = reply.cut is not None

        def log_message(self, *_: object) -> None:
            return None

        def handle(self) -> None:
            try:
                super().handle()
            except ConnectionError:  # who asked has gone
                self.close_connection = True

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    stub.url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield stub
    finally:
        stub.ended.set()
        server.shutdown()
        server.server_close()


def endpoint(url: str, name: str = "far", **changes: Any) -> dict[str, Any]:
    """A candidate's configuration; what no candidate has itself belongs to its source."""
    own = {key: changes.pop(key) for key in list(changes) if key in ("price", "stop", "chat", "description")}
    return {"name": name, "source": {"type": "endpoint", "base_url": url, "model": "stub", **changes}, **own}


def configured(url: str, **changes: Any) -> CandidateConfig:
    return CandidateConfig.model_validate(endpoint(url, **changes))
