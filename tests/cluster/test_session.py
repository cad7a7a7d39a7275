"""How a session ends. No Ray is started: what matters is the order of the calls."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from haps_search.config.candidates import CandidateConfig
from haps_search.config.load import load_profile
from haps_search.engines.cluster import session as module
from haps_search.errors import ConfigError, PoolError

CANDIDATE = CandidateConfig.model_validate({"name": "adder", "source": {"type": "zoo", "name": "adder"}})


class RecordedPool:
    def __init__(self, calls: list[str]) -> None:
        self._calls = calls

    def start(self, storage: Path) -> None:
        self._calls.append("pool starts")

    def join(self, timeout_s: float) -> None:
        self._calls.append("pool joined")


class NamedBroker:
    fail_all = "told that the session ended"


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    made: list[str] = []
    monkeypatch.setattr(module, "_connect", lambda *_: True)
    monkeypatch.setattr(module, "require", lambda *_: None)
    monkeypatch.setattr(module, "_start_broker", lambda *_: NamedBroker())
    monkeypatch.setattr(module, "Pool", lambda *_: RecordedPool(made))
    monkeypatch.setattr(module, "_call", lambda method, *_: made.append(str(method)))
    monkeypatch.setattr(module.ray, "kill", lambda _: made.append("broker killed"))
    monkeypatch.setattr(module.ray, "shutdown", lambda: made.append("ray shut down"))
    return made


IN_ORDER = ["pool starts", "told that the session ended", "pool joined", "broker killed", "ray shut down"]


def test_a_session_ends_from_the_inside_out(calls: list[str], tmp_path: Path) -> None:
    with module.session("s", [CANDIDATE], load_profile("local-cpu"), tmp_path):
        pass
    assert calls == IN_ORDER


def test_an_error_waits_for_the_pool_too(calls: list[str], tmp_path: Path) -> None:
    """Ray ends a process at once, the error unsaid, where the pool's thread calls it after its shutdown."""
    with (
        pytest.raises(ConfigError, match="said inside"),
        module.session("s", [CANDIDATE], load_profile("local-cpu"), tmp_path),
    ):
        raise ConfigError("said inside")
    assert calls == IN_ORDER


def test_a_broker_that_is_gone_does_not_hide_the_error(
    calls: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(method: Any, *_: Any) -> None:
        raise PoolError("the broker died")

    monkeypatch.setattr(module, "_call", gone)
    with (
        pytest.raises(ConfigError, match="said inside"),
        module.session("s", [CANDIDATE], load_profile("local-cpu"), tmp_path),
    ):
        raise ConfigError("said inside")
    assert calls[-3:] == ["pool joined", "broker killed", "ray shut down"]
