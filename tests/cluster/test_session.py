"""How a session ends. No Ray is started: what matters is the order of the calls."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from haps_search.config.candidates import CandidateConfig
from haps_search.config.engines import Resources
from haps_search.config.load import load_profile
from haps_search.engines.cluster import session as module
from haps_search.engines.cluster.watch import Node
from haps_search.errors import ConfigError, PoolError

CANDIDATE = CandidateConfig.model_validate({"name": "adder", "source": {"type": "zoo", "name": "adder"}})


class RecordedPool:
    left: list[str] = []  # noqa: RUF012 - one for all that a test makes

    def __init__(self, calls: list[str]) -> None:
        self._calls = calls

    def start(self, storage: Path) -> None:
        self._calls.append("pool starts")

    def join(self, timeout_s: float) -> list[str]:
        self._calls.append("pool joined")
        return self.left

    def give_up(self) -> None:
        self._calls.append("pool given up")
        self.left.clear()


class NamedBroker:
    fail_all = "told that the session ended"


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    made: list[str] = []
    monkeypatch.setattr(module, "connect", lambda *_: True)
    monkeypatch.setattr(module, "room_for", lambda *_: None)
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


def test_what_train_does_not_leave_is_ended_so_that_a_driver_can_begin_again(
    calls: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RecordedPool, "left", ["pool-0"])
    monkeypatch.setattr(module.ray, "is_initialized", lambda: True)
    with module.session("s", [CANDIDATE], load_profile("local-cpu"), tmp_path):
        pass
    assert calls[2:] == ["pool joined", "pool given up", "pool joined", "broker killed", "ray shut down"]


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


# What a cluster lacks.

WIDE = load_profile("gpu-per-candidate").model_copy(update={"candidate": Resources(cpus=1, gpus=4), "name": "wide"})


def a_cluster(monkeypatch: pytest.MonkeyPatch, *nodes: Node) -> None:
    total = {"CPU": sum(n.cpus for n in nodes), "GPU": sum(n.gpus for n in nodes)}
    monkeypatch.setattr(module.ray, "cluster_resources", lambda: total)
    monkeypatch.setattr(module, "alive", lambda: list(nodes))


def test_a_worker_has_to_fit_one_node(monkeypatch: pytest.MonkeyPatch) -> None:
    a_cluster(monkeypatch, *(Node(str(n), "10.0.0.1", 64, 4) for n in range(3)))
    assert module.lacking([CANDIDATE], WIDE) == []
    a_cluster(monkeypatch, *(Node(str(n), "10.0.0.1", 64, 2) for n in range(6)))
    (problem,) = module.lacking([CANDIDATE], WIDE)
    assert "needs 4 GPUs and 1 CPUs on one node, and none of 6 has so many" in problem


def test_a_cluster_that_lacks_a_node_is_waited_for_and_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    looks = [[], [Node("a", "10.0.0.1", 64, 8)]]

    def grown() -> list[Node]:
        a_cluster(monkeypatch, *looks.pop(0))
        return module.alive()

    a_cluster(monkeypatch)
    monkeypatch.setattr(module.time, "sleep", lambda seconds: grown())
    module.room_for([CANDIDATE], WIDE, said.append, lambda: False)
    assert len(said) == 1
    assert said[0].startswith("waiting for the cluster to grow, ")


def test_who_is_to_leave_waits_for_no_node_and_a_ray_started_here_grows_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    a_cluster(monkeypatch)
    with pytest.raises(ConfigError, match=r"needs 4\.25 GPU"):
        module.room_for([CANDIDATE], WIDE, print, lambda: True)
    own = WIDE.model_copy(update={"address": None})
    with pytest.raises(ConfigError, match=r"needs 4\.25 GPU"):
        module.room_for([CANDIDATE], own, print, lambda: False)
