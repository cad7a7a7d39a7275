"""The signal of a step, summed by hand."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from made import episode, question, routes, said
from torch import Tensor

from haps_search.config.learning import LearningConfig
from haps_search.learning.advantage import RunningMeans, judged
from haps_search.learning.objective import rollouts
from haps_search.types import Assignment, Episode, Rollouts

ASSIGNMENTS: list[list[Assignment]] = [[("a",), ("a",)], [("a",), ("b",)]]
REWARDS = [[1.0, 0.0], [0.5, 0.0]]


def vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def played(gradients: Sequence[Sequence[Tensor | None]], kl: Tensor | None = None) -> list[list[Episode]]:
    return [
        [episode(question(f"q{q}"), z, said(gradient=g, kl_gradient=kl)) for z, g in zip(zs, row, strict=True)]
        for q, (zs, row) in enumerate(zip(ASSIGNMENTS, gradients, strict=True))
    ]


def signal(
    episodes: list[list[Episode]],
    rewards: list[list[float]] = REWARDS,
    zs: list[list[Assignment]] = ASSIGNMENTS,
    **learning: object,
) -> Rollouts:
    config = LearningConfig.model_validate(learning)
    advantages = judged(config.advantage, zs, rewards, rewards, RunningMeans())
    return rollouts(routes(zs, version=4), episodes, advantages, config)


def assert_equal(found: Tensor, *wanted: float) -> None:
    torch.testing.assert_close(found, vector(*wanted))


def test_gradients_are_weighted_summed_and_divided_by_all_episodes() -> None:
    episodes = played([[vector(4.0, 0.0), vector(0.0, 8.0)], [vector(4.0, 4.0), vector(12.0, 0.0)]])
    found = signal(episodes, advantage="paper").adapter_gradients
    assert set(found) == {(0, "a"), (1, "a"), (1, "b")}
    assert_equal(found[0, "a"], -1.0, 2.0)
    assert_equal(found[1, "a"], -0.5, -0.5)
    assert_equal(found[1, "b"], 3.0, 0.0)


def test_the_kl_is_added_whatever_the_advantage() -> None:
    episodes = played([[vector(4.0), vector(8.0)], [vector(4.0), vector(12.0)]], kl=vector(10.0))
    found = signal(episodes, advantage="paper", kl_weight=0.1).adapter_gradients
    assert_equal(found[0, "a"], (-4.0 + 8.0 + 2 * 0.1 * 10.0) / 4)
    assert_equal(found[1, "b"], (12.0 + 0.1 * 10.0) / 4)


def test_a_kl_gradient_without_weight_counts_nothing() -> None:
    gradients = [[vector(4.0), vector(8.0)], [vector(4.0), vector(12.0)]]
    with_kl, without = (signal(played(gradients, kl), kl_weight=0.0) for kl in (vector(10.0), None))
    assert all(torch.equal(with_kl.adapter_gradients[key], g) for key, g in without.adapter_gradients.items())


def test_completions_without_gradient_add_nothing_but_are_counted() -> None:
    found = signal(played([[vector(4.0), None], [None, None]]), advantage="paper").adapter_gradients
    assert set(found) == {(0, "a")}
    assert_equal(found[0, "a"], -1.0)


def test_roles_that_share_a_candidate_share_its_adapter() -> None:
    teach, ask = said(gradient=vector(1.0, 0.0)), said(gradient=vector(0.0, 2.0))
    other = said(gradient=vector(5.0, 5.0))
    zs: list[list[Assignment]] = [[("a", "a"), ("a", "b")]]
    episodes = [[episode(question(), zs[0][0], teach, ask), episode(question(), zs[0][1], teach, other)]]
    found = signal(episodes, [[1.0, 0.5]], zs, advantage="paper").adapter_gradients
    assert_equal(found[0, "a"], -(1.0 + 0.5) / 2, -2.0 / 2)
    assert_equal(found[0, "b"], -5.0 * 0.5 / 2, -5.0 * 0.5 / 2)


def test_the_two_levels_take_their_own_advantages() -> None:
    zs: list[list[Assignment]] = [[("a",), ("a",), ("b",), ("b",)]]
    gradients = [said(gradient=vector(1.0)) for _ in range(4)]
    episodes = [[episode(question(), z, g) for z, g in zip(zs[0], gradients, strict=True)]]
    found = signal(episodes, [[1.0, 1.0, 0.0, 0.0]], zs)
    assert found.architecture_advantages[0][0] > 0.5
    assert all(float(g.abs().sum()) == 0.0 for g in found.adapter_gradients.values())


def test_choices_and_version_are_those_of_the_routes() -> None:
    found = signal(played([[None, None], [None, None]]), advantage="paper")
    assert found.version == 4
    assert found.assignments == ((("a",), ("a",)), (("a",), ("b",)))
    assert found.architecture_advantages == ((1.0, -1.0), (0.5, -1.0))


def test_what_candidates_returned_is_left_as_it_was() -> None:
    given = [[vector(4.0), vector(8.0)], [vector(4.0), vector(12.0)]]
    episodes = played(given, kl=vector(10.0))
    first = signal(episodes, kl_weight=0.5).adapter_gradients
    again = signal(episodes, kl_weight=0.5).adapter_gradients
    assert [[float(g) for g in row] for row in given] == [[4.0, 8.0], [4.0, 12.0]]
    assert all(torch.equal(first[key], again[key]) for key in first)


def test_a_greedy_route_has_no_advantage_and_leaves_the_adapters_theirs() -> None:
    gradients = [[vector(4.0), vector(8.0)], [vector(4.0), vector(12.0)]]
    sampled, greedy = (signal(played(gradients), advantage="paper", route=route) for route in ("sampled", "greedy"))
    assert greedy.architecture_advantages == ((0.0, 0.0), (0.0, 0.0))
    assert sampled.architecture_advantages == ((1.0, -1.0), (0.5, -1.0))
    assert all(torch.equal(greedy.adapter_gradients[key], g) for key, g in sampled.adapter_gradients.items())
