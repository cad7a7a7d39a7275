"""Optuna's dashboard on a sweep, live while it runs."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from haps_search.errors import ConfigError, HapsError
from haps_search.sweep.journal import Journal
from haps_search.sweep.optuna_mirror import OptunaMirror

LOOPBACK = "127.0.0.1"
TICK_S = 2.0
_log = logging.getLogger(__name__)
Start = Callable[..., Any]
App = Callable[[dict[str, Any], Start], Iterable[bytes]]


class Dashboard:
    """A server on loopback over the sweep's Optuna storage, and a thread that keeps that up to date."""

    def __init__(self, journal: Journal, port: int = 0) -> None:
        """Fills the storage and takes a port, any free one for 0.

        Raises:
            ConfigError: optuna-dashboard is not installed, the port is taken, or another one of this sweep is open.
        """
        if find_spec("optuna_dashboard") is None:
            raise ConfigError("optuna-dashboard is not installed: pip install 'haps-search[dashboard]'")
        from optuna_dashboard import wsgi

        self.mirror = OptunaMirror(journal)
        self.mirror.tick()
        try:
            self._server = make_server(LOOPBACK, port, _local(wsgi(self.mirror.storage)), _Server, _Silent)
        except OSError as error:
            self.mirror.close()
            raise ConfigError(f"port {port} on {LOOPBACK} cannot be used ({error}); choose another --port") from error
        self.url = f"http://{LOOPBACK}:{self._server.server_port}/dashboard/studies/{self.mirror.study_id}"
        self._ended = threading.Event()

    def serve(self) -> None:
        """Until `stop`, or Ctrl-C."""
        follower = threading.Thread(target=self._follow, name="optuna-mirror", daemon=True)
        follower.start()
        try:
            self._server.serve_forever()
        finally:
            self._ended.set()
            follower.join()
            self._server.server_close()
            self.mirror.close()

    def stop(self) -> None:
        """From another thread."""
        self._server.shutdown()

    def _follow(self) -> None:
        while not self._ended.wait(TICK_S):
            try:
                self.mirror.tick()
            except (HapsError, OSError) as error:
                _log.warning("the dashboard has no news this time: %s", error)


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Silent(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        return None


def _local(app: App) -> App:
    """Refuses what another site's page asks through the user's browser under a name of its own (DNS rebinding)."""

    def guarded(environ: dict[str, Any], start: Start) -> Iterable[bytes]:
        host = environ.get("HTTP_HOST", "").rpartition(":")[0]
        if host not in (LOOPBACK, "localhost"):
            start("403 Forbidden", [("Content-Type", "text/plain")])
            return [b"this server answers on loopback only\n"]
        return app(environ, start)

    return guarded
