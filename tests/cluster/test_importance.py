"""Importance of parameters, as Optuna computes it from a journal. No Ray is started."""

from __future__ import annotations

import pytest
from sweeps import a_study, a_trial

from haps_search.sweep.suggestions import importances

RATE, WEIGHT = "learning.entropy_bonus", "learning.weight_decay"
SPACE = {name: {"type": "float", "low": 0.0, "high": 1.0} for name in (RATE, WEIGHT)}
GRID = [(i / 9, j / 9) for i in range(10) for j in range(10)]


def peak(one: float, other: float) -> float:
    """High where `one` is high; low where `other` is low and `one` is not high."""
    return one if one > 0.8 else 0.5 * other


@pytest.mark.parametrize(("mode", "decides"), [("max", RATE), ("min", WEIGHT)])
def test_what_decides_a_good_result_is_important(mode: str, decides: str) -> None:
    study = a_study(SPACE, objectives=[{"metric": "validation_reward", "mode": mode}])
    trials = [a_trial(n, peak(x, y), parameters={RATE: x, WEIGHT: y}) for n, (x, y) in enumerate(GRID)]
    trials.append(a_trial(100, state="failed", metrics={}, parameters={RATE: 0.5, WEIGHT: 0.5}))
    trials.append(a_trial(101, 9.0, kind="confirm", parameters={RATE: 0.0, WEIGHT: 1.0}))
    (found,) = importances(study, trials)
    assert found.trials == 100
    assert sum(found.values.values()) == pytest.approx(1.0)
    assert found.values[decides] > 0.8


def test_an_objective_on_which_all_agree_has_none() -> None:
    objectives = [{"metric": "validation_reward"}, {"metric": "validation_cost", "mode": "min"}]
    study = a_study(SPACE, objectives=objectives)
    trials = [
        a_trial(n, parameters={RATE: x, WEIGHT: y}, metrics={"validation_reward": x, "validation_cost": 0.0})
        for n, (x, y) in enumerate(GRID[::7])
    ]
    assert [each.objective for each in importances(study, trials)] == ["validation_reward"]
