"""What passes by itself while a candidate is loaded: errors of the operating system, and a hub that answers 503."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from haps_search.candidates.frozen_lm import FrozenLM
from haps_search.candidates.zoo import zoo_path
from haps_search.config.candidates import CandidateConfig
from haps_search.engines.cluster import worker
from haps_search.errors import CandidateError, Kind
from haps_search.faults.policy import Policy

POLICY = Policy(within_s=60.0, tries=2, first_s=0.001, longest_s=0.001)
BROKEN_READ = Path("/proc/self/mem")
"""Opens, and says EIO to whoever reads its beginning, as a disk does that is about to go."""


def config(path: Path) -> CandidateConfig:
    return CandidateConfig.model_validate(
        {"name": "adder", "source": {"type": "path", "path": str(path)}, "device": "cpu"}
    )


@pytest.fixture
def sick(tmp_path: Path) -> Path:
    """A model one of whose files cannot be read."""
    for file in zoo_path("adder").iterdir():
        (tmp_path / file.name).symlink_to(BROKEN_READ if file.name == "config.json" else file)
    return tmp_path


def mend(model: Path) -> None:
    (model / "config.json").unlink()
    (model / "config.json").symlink_to(zoo_path("adder") / "config.json")


def broker(told: list[Any]) -> Any:
    return SimpleNamespace(troubled=SimpleNamespace(remote=lambda *given: told.append(given)))


def test_a_disk_s_error_while_loading_is_told_and_tried_again_here(sick: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    calls = 0

    def load() -> Any:
        nonlocal calls
        calls += 1
        if calls == 4:
            mend(sick)
        return FrozenLM.load(config(sick))

    monkeypatch.setattr(worker.ray, "get", lambda reference, timeout: None)
    loaded = worker.loaded(load, broker(told), "adder/0.0", "node", POLICY)
    assert loaded.table.candidate == "adder"
    assert calls == 4, "more often than what nobody knows is tried"
    assert len(told) == 3
    name, candidate, node, error = told[0]
    assert (name, candidate, node) == ("adder/0.0", "adder", "node")
    assert isinstance(error, CandidateError)
    assert error.kind is Kind.TRANSIENT
    assert "Input/output error" in str(error)


def test_what_is_not_there_is_not_tried_again(tmp_path: Path) -> None:
    told: list[Any] = []
    with pytest.raises(CandidateError, match="no such folder") as caught:
        worker.loaded(lambda: FrozenLM.load(config(tmp_path / "x")), broker(told), "adder/0.0", "node", POLICY)
    assert caught.value.kind is Kind.PERMANENT
    assert told == []


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ThreadingHTTPServer]:
    """A hub on loopback that answers as it is told to."""

    class Answers(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(self.server.status)  # type: ignore[attr-defined]
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_HEAD

        def log_message(self, format: str, *args: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address, constants = f"http://127.0.0.1:{server.server_port}", "huggingface_hub.constants"
    monkeypatch.setattr(f"{constants}.ENDPOINT", address)
    monkeypatch.setattr(f"{constants}.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(
        f"{constants}.HUGGINGFACE_CO_URL_TEMPLATE", f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    )
    monkeypatch.setattr(f"{constants}.HF_HUB_CACHE", str(tmp_path / "hub"))
    # Between its own tries the hub's client waits for 23 s in all.
    monkeypatch.setattr("huggingface_hub.utils._http.time", SimpleNamespace(sleep=lambda seconds: None))
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(("status", "kind"), [(503, Kind.TRANSIENT), (429, Kind.TRANSIENT), (404, Kind.PERMANENT)])
def test_a_hub_s_answer_says_whether_it_passes(hub: Any, status: int, kind: Kind) -> None:
    hub.status = status
    source = {"type": "hub", "repo": "someone/a-model", "revision": "main"}
    asked = CandidateConfig.model_validate({"name": "far", "source": source, "device": "cpu"})
    with pytest.raises(CandidateError) as caught:
        FrozenLM.load(asked)
    assert caught.value.kind is kind
