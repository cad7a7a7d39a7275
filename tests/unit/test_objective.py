"""What is to be scored with which weights, and the signal that comes of it, summed by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
import torch
from made import episode, layout, module, question, routes, said
from torch import Tensor

from haps_search.config.learning import LearningConfig
from haps_search.learning.advantage import RunningMeans, judged
from haps_search.learning.objective import Requests, rollouts, score_requests
from haps_search.lora.adapter import learnt_tensors
from haps_search.types import (
    Adapter,
    Assignment,
    Distribution,
    Episode,
    GivenCompletion,
    Rollouts,
    Routes,
    Score,
    ScoreRequest,
    Scores,
)

ASSIGNMENTS: list[list[Assignment]] = [[("a",), ("a",)], [("a",), ("b",)]]
REWARDS = [[1.0, 0.0], [0.5, 0.0]]
KEYS = (0, "a"), (1, "a"), (1, "b")
SMALL = layout(1, 1.0, (module(0, 1, 1),))
DRAWN_FROM = Distribution(0.7, 20, 0.9)


def vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


class Pool:
    """The log-likelihood of token t has the gradient `of[t]`, every KL `kl`."""

    def __init__(self, of: Mapping[int, Tensor], kl: Tensor) -> None:
        self._of, self._kl = of, kl

    def score(self, requests: Sequence[ScoreRequest]) -> Scores:
        totals: dict[int, Tensor] = {}
        for request in requests:
            for one in (request.completions[i] for i in request.asked):
                assert request.adapter is not None
                found, key = self._weighed(one), id(request.adapter.values)
                totals[key] = totals[key] + found if key in totals else found
        tensors = learnt_tensors(request.adapter for request in requests)
        completions = tuple((Score((-1.0,)),) * len(request.completions) for request in requests)
        return Scores(completions, tuple(totals.get(id(tensor)) for tensor in tensors))

    def _weighed(self, one: GivenCompletion) -> Tensor:
        (token,) = one.completion
        return one.weight * self._of[int(token)] + one.kl_weight * self._kl


def adapters(*keys: tuple[int, str]) -> dict[tuple[int, str], Adapter]:
    return {key: Adapter(SMALL, vector(0.0, 0.0)) for key in keys}


def played(assignments: Sequence[Sequence[Assignment]] = ASSIGNMENTS) -> list[list[Episode]]:
    """Each completion is a token of its own, counted through."""
    rows, token = [], 0
    for q, zs in enumerate(assignments):
        row = []
        for z in zs:
            row.append(episode(question(f"q{q}"), z, *(said(token=token + seat) for seat in range(len(z)))))
            token += len(z)
        rows.append(row)
    return rows


NOBODY = RunningMeans()


def asked(
    where: Routes, config: LearningConfig, rewards: Sequence[Sequence[float]] = REWARDS, means: RunningMeans = NOBODY
) -> Requests:
    weighed = judged(config.advantage, where.assignments, rewards, rewards, means)
    return score_requests(where, played(where.assignments), weighed, DRAWN_FROM, config.kl_weight)


def signal(
    gradients: Sequence[Tensor],
    kl: Tensor | None = None,
    where: Routes | None = None,
    rewards: Sequence[Sequence[float]] = REWARDS,
    means: RunningMeans = NOBODY,
    **learning: object,
) -> Rollouts:
    where, config = where or routes(ASSIGNMENTS, adapters(*KEYS), version=4), LearningConfig.model_validate(learning)
    pool, requests = (
        Pool(dict(enumerate(gradients)), vector(0.0, 0.0) if kl is None else kl),
        asked(where, config, rewards, means),
    )
    scores = {name: pool.score(list(of.values())) for name, of in requests.items()}
    return rollouts(
        where, judged(config.advantage, where.assignments, rewards, rewards, means), requests, scores, config
    )


def assert_equal(found: Tensor, *wanted: float) -> None:
    torch.testing.assert_close(found, vector(*wanted))


GRADIENTS = [vector(4.0, 0.0), vector(0.0, 8.0), vector(4.0, 4.0), vector(12.0, 0.0)]


def test_gradients_are_weighted_summed_and_divided_by_all_episodes() -> None:
    found = signal(GRADIENTS, advantage="paper").adapter_gradients
    assert set(found) == set(KEYS)
    assert_equal(found[0, "a"], -1.0, 2.0)
    assert_equal(found[1, "a"], -0.5, -0.5)
    assert_equal(found[1, "b"], 3.0, 0.0)


def test_the_kl_is_added_whatever_the_advantage() -> None:
    found = signal(GRADIENTS, vector(10.0, 0.0), advantage="paper", kl_weight=0.1).adapter_gradients
    assert_equal(found[0, "a"], (-4.0 + 2 * 0.1 * 10.0) / 4, 8.0 / 4)
    assert_equal(found[1, "b"], (12.0 + 0.1 * 10.0) / 4, 0.0)


def test_a_question_is_one_request_whose_weights_are_those_of_its_episodes_in_the_loss() -> None:
    where = routes(ASSIGNMENTS, adapters(*KEYS))
    requests = asked(where, LearningConfig(advantage="paper", kl_weight=0.2))
    assert {name: list(of) for name, of in requests.items()} == {"a": [0, 1], "b": [1]}
    both = requests["a"][0]
    assert both.adapter is where.adapters[0, "a"]
    assert both.distribution == DRAWN_FROM
    assert [c.completion for c in both.completions] == [(0,), (1,)]
    assert [c.weight for c in both.completions] == [-1.0 / 4, 1.0 / 4]
    assert [c.kl_weight for c in both.completions] == pytest.approx([0.05, 0.05])


def test_what_weighs_nothing_is_not_asked_for_and_its_gradient_is_zero() -> None:
    even = [[0.5, 0.5], [1.0, 0.0]]
    before = RunningMeans({"a": (2.0, 1.0, 0.5), "b": (2.0, 1.0, 0.5)})
    requests = asked(routes(ASSIGNMENTS, adapters(*KEYS)), LearningConfig(), even, before)
    assert requests["a"][0].asked == ()
    assert requests["a"][1].asked == requests["b"][1].asked == (0,)
    found = signal(GRADIENTS, rewards=even, means=before).adapter_gradients
    assert set(found) == set(KEYS)
    assert_equal(found[0, "a"], 0.0, 0.0)
    assert float(found[1, "a"].norm()) > 0


def test_completions_without_adapter_add_nothing_but_are_counted() -> None:
    found = signal(GRADIENTS, where=routes(ASSIGNMENTS, adapters((0, "a"))), advantage="paper").adapter_gradients
    assert set(found) == {(0, "a")}
    assert_equal(found[0, "a"], -1.0, 2.0)


def test_roles_that_share_a_candidate_share_its_adapter() -> None:
    zs: list[list[Assignment]] = [[("a", "a"), ("a", "b")]]
    teach, ask, other = vector(1.0, 0.0), vector(0.0, 2.0), vector(5.0, 5.0)
    where = routes(zs, adapters((0, "a"), (0, "b")))
    found = signal([teach, ask, teach, other], where=where, rewards=[[1.0, 0.5]], advantage="paper").adapter_gradients
    assert_equal(found[0, "a"], -(1.0 + 0.5) / 2, -2.0 / 2)
    assert_equal(found[0, "b"], -5.0 * 0.5 / 2, -5.0 * 0.5 / 2)


def test_an_adapter_that_questions_share_has_its_sum_at_the_first_of_them() -> None:
    shared = Adapter(SMALL, vector(0.0, 0.0))
    where = routes(ASSIGNMENTS, {(0, "a"): shared, (1, "a"): shared} | adapters((1, "b")))
    found = signal(GRADIENTS, where=where, advantage="paper").adapter_gradients
    assert set(found) == {(0, "a"), (1, "b")}
    assert_equal(found[0, "a"], -1.5, 1.5)


def test_the_two_levels_take_their_own_advantages() -> None:
    zs: list[list[Assignment]] = [[("a",), ("a",), ("b",), ("b",)]]
    where, rewards = routes(zs, adapters((0, "a"), (0, "b"))), [[1.0, 1.0, 0.0, 0.0]]
    found = signal([vector(1.0, 1.0)] * 4, where=where, rewards=rewards)
    assert found.architecture_advantages[0][0] > 0.5
    assert all(float(g.abs().sum()) == 0.0 for g in found.adapter_gradients.values())


def test_choices_and_version_are_those_of_the_routes() -> None:
    found = signal(GRADIENTS, advantage="paper")
    assert found.version == 4
    assert found.assignments == ((("a",), ("a",)), (("a",), ("b",)))
    assert found.architecture_advantages == ((1.0, -1.0), (0.5, -1.0))


def test_a_greedy_route_has_no_advantage_and_leaves_the_adapters_theirs() -> None:
    sampled, greedy = (signal(GRADIENTS, advantage="paper", route=route) for route in ("sampled", "greedy"))
    assert greedy.architecture_advantages == ((0.0, 0.0), (0.0, 0.0))
    assert sampled.architecture_advantages == ((1.0, -1.0), (0.5, -1.0))
    assert all(torch.equal(greedy.adapter_gradients[key], g) for key, g in sampled.adapter_gradients.items())
