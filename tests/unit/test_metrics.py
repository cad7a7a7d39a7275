"""What a step is watched by, from episodes made by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from experiments import tiny_experiment
from made import episode, layout, module, normal, question, routes, said

from haps_search.config.run import CollapseConfig, Experiment
from haps_search.lora.adapter import adapter_norm
from haps_search.search.metrics import alarms, failure_shares, route_shares, step_metrics
from haps_search.tasks.question_rows import CONTEXT_CUT
from haps_search.types import Adapter, Routes, Score, Scores

L, W = "llama", "qwen2"
ASSIGNMENTS = [[(L,), (L,)], [(L,), (W,)]]
MARGINALS = [[[0.5, 0.5]], [[0.9, 0.1]]]
REWARDS = [[1.0, 0.0], [0.5, 0.5]]
DRAWN = [
    [said("yes", log_likelihood=-1.0, tokens=2), said("no", log_likelihood=-2.0, tokens=4)],
    [said("yes", log_likelihood=-3.0), said("maybe", log_likelihood=-6.0)],
]
SCORES = {L: Scores(((Score((-1.0,), 1.0), Score((-2.0,), 3.0)), (None, Score((-3.0,)))), ())}
EPISODES = [
    [episode(question(f"q{q}"), z, sampled) for z, sampled in zip(zs, row, strict=True)]
    for q, (zs, row) in enumerate(zip(ASSIGNMENTS, DRAWN, strict=True))
]


@pytest.fixture
def experiment(tiny_lms: dict[str, Path]) -> Experiment:
    return tiny_experiment(tiny_lms)


def taken(**changes: Any) -> Routes:
    return replace(routes(ASSIGNMENTS, marginals=MARGINALS), **changes)


def adapter(relative: float, scaling: float = 0.5) -> Adapter:
    """Both updates have this relative norm."""
    spec = layout(1, scaling, (module(0, 3, 2, weight_norm=2.0), module(1, 2, 3, weight_norm=0.5)))
    values = torch.zeros(spec.size)
    values[0] = values[5] = 1.0
    values[3], values[7] = relative * 2.0 / scaling, relative * 0.5 / scaling
    return Adapter(spec, values)


def test_a_step_by_hand(experiment: Experiment) -> None:
    found = step_metrics(taken(), EPISODES, REWARDS, SCORES, experiment)
    tilted = -(0.9 * math.log(0.9) + 0.1 * math.log(0.1))
    wanted = {
        "reward": 0.5,
        "reward_spread": 0.5,
        "route_entropy": (math.log(2) + tilted) / 2,
        "answer_share": 0.5,
        "parse_failures": 0.0,
        f"parse_failure_share/role0/{L}": 0.0,
        f"parse_failure_share/role0/{W}": 0.0,
        "contexts_cut": 0.0,
        "prompt_tokens": 12.0,
        "completion_tokens": 8.0,
        "log_likelihood": -3.0,
        "kl": 2.0,
        "adapter_norm": 0.0,
        f"share/{L}": 0.75,
        f"share/{W}": 0.25,
        "route_collapse": 0.0,
        "answer_collapse": 0.0,
    }
    assert found == {name: pytest.approx(value) for name, value in wanted.items()}


def test_without_kl_there_is_no_such_metric(experiment: Experiment) -> None:
    assert "kl" not in step_metrics(taken(), EPISODES, REWARDS, {}, experiment)


def test_answers_that_could_not_be_read_are_counted_and_are_one_answer(experiment: Experiment) -> None:
    failed = [[episode(question(), (L,), said(text), failure="nothing in it") for text in "ab"]] * 2
    found = step_metrics(taken(), failed, REWARDS, {}, experiment)
    assert (found["parse_failures"], found["answer_share"], found["answer_collapse"]) == (4.0, 1.0, 1.0)


def test_shares_of_unread_texts_go_by_role_and_candidate() -> None:
    """role0 of the first: unread; role0 and role1 of the second: read; so each seat has its own share."""
    unread = episode(question(), (L, W), said("?"), failure="nothing in it")
    read = [episode(question(), (L, W), said("a"), said("b")), episode(question(), (W, L), said("c"))]
    assert failure_shares([unread, *read]) == {f"role0/{L}": 0.5, f"role0/{W}": 0.0, f"role1/{W}": 0.0}


def test_questions_with_a_cut_context_count_once_however_often_they_are_played(experiment: Experiment) -> None:
    cut = [replace(e, question=replace(e.question, attributes={CONTEXT_CUT: True})) for e in EPISODES[0]]
    assert step_metrics(taken(), [cut, EPISODES[1]], REWARDS, {}, experiment)["contexts_cut"] == 1.0


def test_a_collapsed_step_rings_both_alarms(experiment: Experiment) -> None:
    same = [[episode(question(), (L,), said("no"))] * 2] * 2
    certain = taken(assignments=(((L,),) * 2,) * 2, marginals=(((1.0, 0.0),),) * 2)
    found = step_metrics(certain, same, REWARDS, {}, experiment)
    assert (found["route_entropy"], found["route_collapse"], found["answer_collapse"]) == (0.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("high_level", "rings"), [({"type": "head"}, 1.0), ({"type": "fixed", "assignment": [L]}, 0.0)]
)
def test_a_fixed_assignment_cannot_collapse(
    tiny_lms: dict[str, Path], high_level: dict[str, Any], rings: float
) -> None:
    same = [[episode(question(), (L,), said(text)) for text in "ab"]] * 2
    certain = taken(assignments=(((L,),) * 2,) * 2, marginals=(((1.0, 0.0),),) * 2)
    experiment = tiny_experiment(tiny_lms, routing__high_level=high_level)
    assert step_metrics(certain, same, REWARDS, {}, experiment)["route_collapse"] == rings


@pytest.mark.parametrize(
    ("entropy", "share", "candidates", "rings"),
    [
        (0.01, 0.99, 2, 1.0),
        (0.06, 0.99, 2, 0.0),
        (0.01, 0.97, 2, 0.0),
        (0.05, 0.99, 2, 0.0),
        (0.01, 0.98, 2, 0.0),
        (0.0, 1.0, 1, 0.0),
    ],
)
def test_when_the_alarm_of_routes_rings(entropy: float, share: float, candidates: int, rings: float) -> None:
    """Only below the entropy and above the share, and never where there is nothing to choose."""
    measured = {"route_entropy": entropy, "answer_share": 0.0}
    assert alarms(measured, share, CollapseConfig(), candidates)["route_collapse"] == rings


def test_two_roles_collapsed_onto_different_candidates_ring_the_alarm(experiment: Experiment) -> None:
    same = [[episode(question(), (L, W), said("no"))] * 2] * 2
    certain = taken(assignments=(((L, W),) * 2,) * 2, marginals=(((1.0, 0.0), (0.0, 1.0)),) * 2)
    assert step_metrics(certain, same, REWARDS, {}, experiment)["route_collapse"] == 1.0


@pytest.mark.parametrize(("share", "rings"), [(0.5, 0.0), (0.51, 1.0)])
def test_when_the_alarm_of_answers_rings(share: float, rings: float) -> None:
    measured = {"route_entropy": 1.0, "answer_share": share}
    assert alarms(measured, 0.5, CollapseConfig(answer_share=0.5), 2)["answer_collapse"] == rings


def test_shares_count_seats_and_name_who_took_none() -> None:
    assert route_shares([("a", "b"), ("a", "a")], ["a", "b", "c"]) == {"a": 0.75, "b": 0.25, "c": 0.0}


def test_the_adapter_norm_is_the_mean_over_adapters_of_any_layout() -> None:
    assert adapter_norm([adapter(0.1), adapter(0.3), adapter(0.8, scaling=2.0)]) == pytest.approx(0.4)


def test_the_adapter_norm_is_the_mean_over_targets() -> None:
    halved = adapter(0.4)
    halved.values[3] = 0.0
    assert adapter_norm([halved]) == pytest.approx(0.2)
    assert adapter_norm([]) == 0.0


def test_the_adapter_norm_of_random_adapters_is_finite() -> None:
    spec = layout()
    assert 0.0 < adapter_norm(Adapter(spec, normal(spec.size, seed=s)) for s in range(3)) < math.inf
