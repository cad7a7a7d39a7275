"""One step on known outcomes: it reaches the high level and the backbone, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from experiments import tiny_experiment
from made import NumberTask, table
from torch import Tensor

from haps_search.engines.assembly import build_learner
from haps_search.errors import StaleUpdate
from haps_search.learning.update import Learner
from haps_search.types import Outcomes

NAMES = ("llama", "qwen2")
QUESTIONS = NumberTask().questions("train")[:3]
ONE = Outcomes(0, ((1.0, 0.0),) * 3)


def build(tiny_lms: dict[str, Path], roles: int = 1, **changes: Any) -> Learner:
    changes = {"learning__entropy_bonus": 0.0, "learning__gradient_clip": None, **changes}
    experiment = tiny_experiment(tiny_lms, **changes)
    return build_learner(experiment, NumberTask(roles), {name: table(name) for name in NAMES})


def weights(learner: Learner) -> dict[str, Tensor]:
    return {name: p.clone() for name, p in learner.router.learned().items()}


def log_p(learner: Learner) -> Tensor:
    return learner.router.read(QUESTIONS).distribution.log_p_all().detach()


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_the_low_level_is_left_as_it_was(tiny_lms: dict[str, Path], decay: float) -> None:
    learner = build(tiny_lms, learning__weight_decay=decay)
    with torch.no_grad():
        learner.router.high.linear.weight.normal_()  # a zero head sends no gradient to the backbone
    before = weights(learner)
    learner.update(QUESTIONS, ONE)
    moved = {n.split(".")[0] for n, p in learner.router.learned().items() if not torch.equal(p, before[n])}
    assert moved == {"high", "backbone"}


def test_the_paying_assignment_of_two_roles_becomes_likelier(tiny_lms: dict[str, Path]) -> None:
    """Column 1 of four is (llama, qwen2): the first role varies slowest."""
    learner = build(tiny_lms, roles=2)
    learner.update(QUESTIONS, Outcomes(0, ((0.0, 1.0, 0.0, 0.0),) * 3))
    after = learner.router.read(QUESTIONS).distribution.marginals().detach()
    assert bool((after[:, 0, 0] > 0.5).all())
    assert bool((after[:, 1, 1] > 0.5).all())


def test_the_configured_loss_is_reported(tiny_lms: dict[str, Path]) -> None:
    report = build(tiny_lms, learning__outcome_loss={"type": "expected_reward"}).update(QUESTIONS, ONE)
    assert report.metrics["outcome_loss"] == pytest.approx(-0.5)
    assert report.version == 1


@pytest.mark.parametrize(("bonus", "flattens"), [(0.0, False), (0.1, True)])
def test_the_entropy_bonus_stays(tiny_lms: dict[str, Path], bonus: float, flattens: bool) -> None:
    """Equal rewards say nothing to the expected reward, so that the bonus alone can move."""
    learner = build(tiny_lms, learning__entropy_bonus=bonus, learning__outcome_loss={"type": "expected_reward"})
    with torch.no_grad():
        learner.router.high.linear.bias[0] = 1.0
    before = float(log_p(learner)[0, 0])
    learner.update(QUESTIONS, Outcomes(0, ((0.5, 0.5),) * 3))
    assert (float(log_p(learner)[0, 0]) < before - 1e-5) == flattens


def test_outcomes_of_another_version_are_refused(tiny_lms: dict[str, Path]) -> None:
    learner = build(tiny_lms)
    learner.update(QUESTIONS, ONE)
    with pytest.raises(StaleUpdate):
        learner.update(QUESTIONS, ONE)


def test_a_high_level_that_does_not_learn_takes_no_step(tiny_lms: dict[str, Path]) -> None:
    learner = build(tiny_lms, routing__high_level={"type": "random"})
    before = weights(learner)
    learner.update(QUESTIONS, ONE)
    assert all(torch.equal(p, before[n]) for n, p in learner.router.learned().items())
