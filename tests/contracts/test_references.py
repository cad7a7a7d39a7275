"""What every reference promises (see haps_search/evaluation/references/labelled.py)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from outcomes import clustered, four_folds, with_gaps

from haps_search.config.references import (
    BestPerTaskReference,
    BestSingleReference,
    CheapestReference,
    GbdtReference,
    KnnReference,
    MatrixFactorisationReference,
    MlpReference,
    PerQueryOracleReference,
    RandomReference,
    ReferenceConfig,
    ReferencesConfig,
    RidgeReference,
)
from haps_search.evaluation.references import REFERENCES, Labelled, Reference
from haps_search.evaluation.references.tuned import measure, route

CONFIGS: dict[str, ReferenceConfig] = {
    "random": RandomReference(),
    "best_single": BestSingleReference(),
    "cheapest": CheapestReference(),
    "best_per_task": BestPerTaskReference(),
    "knn": KnnReference(neighbours=(7,)),
    "ridge": RidgeReference(alpha=(0.1,)),
    "mlp": MlpReference(hidden=(16,), alpha=(1e-3,), epochs=(120,)),
    "matrix_factorisation": MatrixFactorisationReference(dimensions=(8,), weight_decay=(0.01,), steps=(150,)),
    "gbdt": GbdtReference(components=(4,), leaves=(4,), iterations=(15,)),
    "per_query_oracle": PerQueryOracleReference(),
}
KNOWN = {"random": 1 / 3, "best_single": 11 / 30, "cheapest": 11 / 30}
"""What they earn on `clustered(30)`; all others find the right assignment of every question."""


@pytest.fixture(params=sorted(REFERENCES))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def fitted(kind: str, train: Labelled, seed: int = 0) -> Reference:
    reference = REFERENCES[kind](**CONFIGS[kind].points()[0])
    reference.fit(train, seed)
    return reference


def test_every_reference_is_tested_and_can_be_configured() -> None:
    assert set(CONFIGS) == set(REFERENCES)
    assert {c.type for c in ReferencesConfig().chosen(with_costs=True)} == set(REFERENCES)


@pytest.mark.parametrize("assignments", [2, 3])
def test_scores_are_finite_and_one_per_assignment(kind: str, assignments: int) -> None:
    found = fitted(kind, clustered(40, assignments)).scores(clustered(9, assignments, seed=1))
    assert found.shape == (9, assignments)
    assert np.isfinite(found).all()


def test_the_seed_decides(kind: str) -> None:
    one, again = (fitted(kind, clustered(), seed=2**40 + 5).scores(clustered(12)) for _ in range(2))
    np.testing.assert_array_equal(one, again)


@pytest.mark.parametrize("drawn", ["mlp", "matrix_factorisation"])
def test_another_seed_is_another_draw(drawn: str) -> None:
    one, other = (fitted(drawn, clustered(), seed).scores(clustered(12)) for seed in (1, 2))
    assert np.abs(one - other).max() > 1e-4


def test_a_known_table_is_learnt(kind: str) -> None:
    train, test = clustered(), clustered(30, seed=1)
    _, shares = route(fitted(kind, train), train, test)
    assert (shares * test.rewards).sum() / 30 == pytest.approx(KNOWN.get(kind, 1.0))


def test_a_known_table_is_learnt_with_gaps(kind: str) -> None:
    train, test = with_gaps(clustered(180)), clustered(30, seed=1)
    _, shares = route(fitted(kind, train), train, test)
    assert (shares * test.rewards).sum() / 30 >= 0.9 * KNOWN.get(kind, 1.0)


def test_gaps_in_the_questions_are_not_chosen(kind: str) -> None:
    train, test = clustered(), with_gaps(clustered(30, seed=1))
    _, shares = route(fitted(kind, train), train, test)
    assert shares[np.isnan(test.rewards)].max() == 0
    np.testing.assert_allclose(shares.sum(axis=1), 1)


def test_what_was_never_measured_is_not_preferred(kind: str) -> None:
    """Rewards far from 0, so that a filled 0 would be the best or the worst score."""
    table = clustered()
    for shift in (-5, 5):
        rewards = np.where(np.arange(3) == 2, np.nan, table.rewards + shift)
        seen = table.tasks.index("task 0"), table.tasks.index("task 1")
        train = replace(table, rewards=rewards, costs=rewards * 0 + [1, 2, 3])
        found = fitted(kind, train).scores(train if kind == "per_query_oracle" else train.unlabelled())
        if kind != "random":
            assert (found[list(seen), 2] <= found[list(seen)].max(axis=1) - (0.1 if kind != "cheapest" else 0)).all()


def test_one_task_and_few_questions_are_enough(kind: str) -> None:
    few = replace(clustered(5, 2), tasks=("",) * 5)
    assert fitted(kind, few).scores(replace(clustered(4, 2), tasks=("other",) * 4)).shape == (4, 2)


def test_only_the_oracle_reads_the_rewards_it_is_judged_by(kind: str) -> None:
    train, test = clustered(), clustered(30, seed=1)
    lies = replace(test, rewards=1 - test.rewards)
    reference = fitted(kind, train)
    (told, _), (lied_to, _) = route(reference, train, test), route(reference, train, lies)
    assert reference.reachable == np.array_equal(told, lied_to)
    assert reference.reachable == (kind != "per_query_oracle")


def test_the_oracle_is_never_below_any_other() -> None:
    train, test = with_gaps(clustered()), with_gaps(clustered(40, seed=1), seed=2)
    noisy = replace(test, rewards=test.rewards + np.random.default_rng(0).normal(0, 0.5, test.rewards.shape))
    config = ReferencesConfig(compared=tuple(CONFIGS[kind] for kind in sorted(CONFIGS)))
    found = {m.type: m for m in measure(config, train, noisy, four_folds(train), seed=0)}
    assert set(found) == set(REFERENCES)
    for other in found.values():
        assert (found["per_query_oracle"].rewards >= other.rewards - 1e-12).all()
