"""A sweep's own processes killed: its router, a trial, the broker, and the head with all it runs."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from nodes import (
    BROKER,
    CHECKPOINT_EVERY,
    ROUTER,
    TRIAL,
    Nodes,
    Sweep,
    assert_undisturbed,
    cluster,
    measured,
    processes,
    raylet_of,
)

from haps_search.sweep.leaving import STATUS

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture
def head() -> Iterator[Nodes]:
    with cluster(num_cpus=4, num_gpus=3) as made:
        yield made


def killed(nodes: Nodes, title: str) -> None:
    (process,) = processes(nodes.head, title)
    os.kill(process, signal.SIGKILL)


@pytest.mark.parametrize("title", [ROUTER, TRIAL])
def test_a_killed_router_or_trial_goes_on_from_its_last_checkpoint(head: Nodes, tmp_path: Path, title: str) -> None:
    sweep = Sweep(head, tmp_path, steps=20)
    try:
        sweep.reached(CHECKPOINT_EVERY + 2)
        loss = sweep.after(lambda: killed(head, title))
        measured(f"{title} killed: {loss}")
        sweep.end()
    finally:
        sweep.kill()
    assert 0 < loss.steps <= CHECKPOINT_EVERY
    assert_undisturbed(sweep, tmp_path / "alone")


def test_a_killed_broker_costs_the_pool_and_the_driver_goes_on_by_itself(head: Nodes, tmp_path: Path) -> None:
    sweep = Sweep(head, tmp_path, steps=20)
    try:
        sweep.reached(CHECKPOINT_EVERY + 2)
        loss = sweep.after(lambda: killed(head, BROKER))
        measured(f"broker killed: {loss}")
        printed = sweep.end()
    finally:
        sweep.kill()
    assert "the broker is gone" in printed
    assert "begun again in" in printed
    assert loss.steps <= CHECKPOINT_EVERY
    assert_undisturbed(sweep, tmp_path / "alone")


def test_a_driver_whose_own_raylet_dies_leaves_with_what_is_saved_and_is_resumed(tmp_path: Path) -> None:
    """The cluster's other half, its control store, lives on: calls are still taken, and some never answered."""
    with cluster(num_cpus=4, num_gpus=3) as old:
        sweep = Sweep(old, tmp_path, steps=20, retries={"within_s": 0})
        try:
            sweep.reached(CHECKPOINT_EVERY + 2)
            raylet_of(old.head).kill()
            seconds = sweep.ended()
            code, printed = sweep.driver.poll(), sweep.printed()
        finally:
            sweep.kill()
    assert code == STATUS, printed[-3000:]
    assert "haps resume faulty" in printed
    assert "Traceback" not in printed
    with cluster(num_cpus=4, num_gpus=3) as new:
        try:
            loss = sweep.after(lambda: sweep.resume(new))
            measured(f"raylet lost: driver ended after {seconds:.1f} s; resumed on a new head: {loss}")
            sweep.end()
        finally:
            sweep.kill()
    assert loss.steps <= CHECKPOINT_EVERY
    assert_undisturbed(sweep, tmp_path / "alone")


def test_a_lost_head_ends_the_driver_and_the_sweep_is_resumed_on_a_new_one(tmp_path: Path) -> None:
    with cluster(num_cpus=4, num_gpus=3) as old:
        sweep = Sweep(old, tmp_path, steps=20, retries={"within_s": 0})
        try:
            sweep.reached(CHECKPOINT_EVERY + 2)
            old.lose_head()
            seconds = sweep.ended()
            assert sweep.driver.poll() not in (0, 2)
        finally:
            sweep.kill()
    with cluster(num_cpus=4, num_gpus=3) as new:
        try:
            loss = sweep.after(lambda: sweep.resume(new))
            measured(f"head lost: driver ended after {seconds:.1f} s; resumed on a new head: {loss}")
            sweep.end()
        finally:
            sweep.kill()
    assert loss.steps <= CHECKPOINT_EVERY
    assert_undisturbed(sweep, tmp_path / "alone")
