"""A run listens: the server of `haps serve`, from the models' loading to the last answer."""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from haps_search.config.engines import ClusterProfile
from haps_search.config.load import load_pool, load_profile
from haps_search.errors import ConfigError
from haps_search.search.gated import gate_of
from haps_search.serving.limits import Limits
from haps_search.serving.served_run import ServedRun, in_this_process
from haps_search.verbs.events import Report, Said, saying, silent
from haps_search.verbs.find import find_run
from haps_search.verbs.logs import logging_to

if TYPE_CHECKING:
    from haps_search.serving.app import Ready
    from haps_search.serving.service import Service

KEY = "HAPS_API_KEY"
BACKLOG = 512
NEEDED = "fastapi", "uvicorn", "prometheus_client"


@dataclass(frozen=True)
class Listening:
    """Where a service listens, what it takes, and how long the last answers may take when it ends."""

    host: str = "127.0.0.1"
    port: int = 8000
    limits: Limits = field(default_factory=Limits)
    grace_s: float = 60.0

    @property
    def local(self) -> bool:
        """Nobody but this machine reaches it."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


LOOPBACK = Listening()


def served_run(
    run: str,
    runs: str | Path = "runs",
    *,
    candidates: str | Path | None = None,
    min_confidence: float | None = None,
    fallback: str | None = None,
    cost_weight: float | None = None,
) -> ServedRun:
    """A run as it would be served: by `candidates` of a YAML file instead of its own, with a gate, with a weight of
    cost. Raises ConfigError for what cannot be."""
    found, gate = find_run(runs, run), gate_of(min_confidence, fallback)
    pool = () if candidates is None else load_pool(candidates)
    return ServedRun.of(found.folder, found.experiment, pool, gate, cost_weight)


def serve(
    run: str | ServedRun,
    runs: str | Path = "runs",
    *,
    profile: str | None = "local-cpu",
    listening: Listening = LOOPBACK,
    report: Report = silent,
) -> None:
    """Answer until SIGTERM or Ctrl-C, and then what is open. With a `profile` on Ray Serve, else in this process.

    Raises:
        ConfigError: nobody may listen there, or what was asked for does not fit. CandidateError, CheckpointError,
            PoolError: what is not there or does not load.
    """
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise ConfigError(f"{', '.join(missing)} not installed: pip install 'haps-search[serve]'")
    served = served_run(run, runs) if isinstance(run, str) else run
    key, described = key_for(listening), None if profile is None else load_profile(profile)
    bound = _bound(listening)
    logs = served.folder.resolve() / "logs"
    try:
        with logging_to(logs / "serve.log"), _hosted(served, described, report) as (service, ready):
            report(Said(f"models     {', '.join(service.models)}"))
            report(Said(f"address    {address_of(bound)}/v1    (Ctrl-C ends it)"))
            _listen(service, ready, listening, key, bound)
    finally:
        bound.close()


def key_for(listening: Listening) -> str | None:
    """The API key from the environment. Raises ConfigError where there has to be one."""
    key = os.environ.get(KEY, "").strip() or None
    if key is None and not listening.local:
        raise ConfigError(
            f"--host {listening.host}: others reach this address, so they need a key: set {KEY}, or listen on 127.0.0.1"
        )
    return key


def address_of(bound: socket.socket) -> str:
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _bound(listening: Listening) -> socket.socket:
    try:
        return socket.create_server(
            (listening.host, listening.port),
            family=socket.AF_INET6 if ":" in listening.host else socket.AF_INET,
            backlog=BACKLOG,
        )
    except OSError as error:
        said = f"port {listening.port} on {listening.host} cannot be used ({error}); choose another --port"
        raise ConfigError(said) from error


@contextmanager
def _hosted(served: ServedRun, profile: ClusterProfile | None, report: Report) -> Iterator[tuple[Service, Ready]]:
    if profile is None:
        from haps_search.serving.app import always_ready

        with in_this_process(served) as service:
            yield service, always_ready
        return
    from haps_search.serving.on_ray import on_ray

    with on_ray(served, profile, saying(report)) as (service, ready):
        yield service, ready


def _listen(service: Service, ready: Ready, listening: Listening, key: str | None, bound: socket.socket) -> None:
    """Until a signal; then no connection is taken any more, and open requests are answered within the grace."""
    import uvicorn

    from haps_search.serving.app import build_app

    class Server(uvicorn.Server):
        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            # uvicorn raises a signal that it has seen once more at its end; ours is not over then.
            self.force_exit, self.should_exit = self.should_exit, True

    app = build_app(service, listening.limits, key, listening.local, ready)
    config = uvicorn.Config(
        app, log_config=None, access_log=False, lifespan="off", server_header=False,
        timeout_graceful_shutdown=round(listening.grace_s),
    )  # fmt: skip
    Server(config).run(sockets=[bound])
