"""References against scikit-learn's own numbers, and tuning that sees training questions only."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from outcomes import clustered, four_folds, with_gaps
from pydantic import TypeAdapter, ValidationError
from sklearn.decomposition import PCA
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import Ridge as RidgeRegressor
from sklearn.neighbors import KNeighborsRegressor
from sklearn.neural_network import MLPRegressor

from haps_search.config.references import CheapestReference, KnnReference, Reference, ReferencesConfig, RidgeReference
from haps_search.errors import ConfigError
from haps_search.evaluation.references import REFERENCES, Labelled, Unlabelled
from haps_search.evaluation.references.tuned import measure, route, tune


def noise(questions: int, seed: int, assignments: int = 3) -> Labelled:
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(questions, 6)).astype(np.float32)
    return Labelled(features, ("t",) * questions, rng.random((questions, assignments)).astype(np.float32))


TRAIN, TEST = noise(60, 0), noise(20, 1)


def scored(kind: str, train: Labelled = TRAIN, seed: int = 3, **settings: Any) -> np.ndarray:
    reference = REFERENCES[kind](**settings)
    reference.fit(train, seed)
    return np.asarray(reference.scores(TEST.unlabelled()))


def test_knn_is_scikit_learns() -> None:
    own = KNeighborsRegressor(7, metric="cosine").fit(TRAIN.features, TRAIN.rewards).predict(TEST.features)
    np.testing.assert_allclose(scored("knn", neighbours=7), own, rtol=1e-6)


def test_ridge_is_scikit_learns() -> None:
    own = RidgeRegressor(alpha=2.0).fit(TRAIN.features, TRAIN.rewards).predict(TEST.features)
    np.testing.assert_allclose(scored("ridge", alpha=2.0), own, rtol=1e-6)


def test_mlp_is_scikit_learns() -> None:
    with pytest.warns(ConvergenceWarning):
        own = MLPRegressor(hidden_layer_sizes=(8,), alpha=0.1, max_iter=30, random_state=3).fit(
            TRAIN.features, TRAIN.rewards
        )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = scored("mlp", hidden=8, alpha=0.1, epochs=30)
    np.testing.assert_allclose(found, own.predict(TEST.features), rtol=1e-6)


def test_gbdt_is_scikit_learns_per_assignment() -> None:
    axes = PCA(4, random_state=3).fit(TRAIN.features)
    train, test = axes.transform(TRAIN.features), axes.transform(TEST.features)
    found = scored("gbdt", components=4, leaves=3, iterations=5)
    for c in range(3):
        own = HistGradientBoostingRegressor(max_leaf_nodes=3, max_iter=5, early_stopping=False, random_state=3)
        np.testing.assert_allclose(found[:, c], own.fit(train, TRAIN.rewards[:, c]).predict(test))


def test_missing_cells_leave_their_questions_out_of_that_assignment_alone() -> None:
    train = with_gaps(TRAIN)
    found = scored("ridge", train, alpha=1.0)
    for c in range(3):
        rows = ~np.isnan(train.rewards[:, c])
        own = RidgeRegressor(alpha=1.0).fit(train.features[rows], train.rewards[rows, c])
        np.testing.assert_allclose(found[:, c], own.predict(TEST.features), rtol=1e-5)


def test_neighbours_are_at_most_the_questions_there_are() -> None:
    np.testing.assert_allclose(scored("knn", neighbours=500), np.tile(TRAIN.rewards.mean(0), (20, 1)), rtol=1e-5)


def test_matrix_factorisation_is_the_formula_of_its_source() -> None:
    reference = REFERENCES["matrix_factorisation"](dimensions=4, weight_decay=0.1, steps=3)
    reference.fit(TRAIN, 0)
    model = {name: value.detach().numpy() for name, value in reference._model.named_parameters()}  # type: ignore[attr-defined]
    found = reference.scores(TEST.unlabelled())
    for q, m in ((0, 0), (5, 2), (19, 1)):
        v_m = model["assignment"][m] / np.linalg.norm(model["assignment"][m])
        by_hand = model["weight"] @ (v_m * (model["question"] @ TEST.features[q] + model["bias"]))
        assert found[q, m] == pytest.approx(by_hand, rel=1e-5)


def test_matrix_factorisation_learns_nothing_from_missing_cells() -> None:
    """Every measured cell is 1: a missing one that counted as anything else would draw the scores away from it."""
    torch.set_num_threads(1)
    train = with_gaps(replace(TRAIN, rewards=np.ones((60, 3), np.float32)), share=0.6)
    found = scored("matrix_factorisation", train, dimensions=4, weight_decay=0.0, steps=200)
    np.testing.assert_allclose(found, 1.0, atol=0.1)


def test_best_single_and_best_per_task_by_hand() -> None:
    rewards = np.array([[1, 0], [1, np.nan], [0, 1], [np.nan, 0.5]])
    train = Labelled(np.zeros((4, 1)), ("a", "a", "b", "b"), rewards)
    asked = Unlabelled(np.zeros((3, 1)), ("a", "b", "new"))
    single, per_task = REFERENCES["best_single"](), REFERENCES["best_per_task"]()
    single.fit(train, 0)
    per_task.fit(train, 0)
    np.testing.assert_allclose(single.scores(asked), [[2 / 3, 0.5]] * 3)
    np.testing.assert_allclose(per_task.scores(asked), [[1, 0], [0, 0.75], [2 / 3, 0.5]])


def test_cheapest_needs_costs_and_takes_the_lowest_mean() -> None:
    with pytest.raises(ConfigError, match="has no costs"):
        tune(CheapestReference(), TRAIN, four_folds(TRAIN), 0)
    costs = np.where(np.arange(60)[:, None] < 3, np.nan, [3.0, 1.0, 2.0])
    assert (scored("cheapest", replace(TRAIN, costs=costs)).argmax(axis=1) == 1).all()


class Spy:
    """Fits nothing; feature 0 of a question is its number, and it is watched who is fitted and who is scored."""

    reachable: ClassVar[bool] = True
    seen: ClassVar[list[tuple[frozenset[int], frozenset[int]]]] = []

    def __init__(self, alpha: float) -> None:
        self.alpha = alpha

    def fit(self, train: Labelled, seed: int) -> None:
        self.train = numbers(train)

    def scores(self, questions: Unlabelled) -> np.ndarray:
        assert not isinstance(questions, Labelled)
        Spy.seen.append((self.train, numbers(questions)))
        return np.full((len(questions), 3), self.alpha)


def numbers(questions: Unlabelled) -> frozenset[int]:
    return frozenset(int(n) for n in questions.features[:, 0])


def test_tuning_and_fitting_never_see_what_they_are_judged_by(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(REFERENCES, "ridge", Spy)
    monkeypatch.setattr(Spy, "seen", [])
    train, test = (replace(t, features=np.arange(n, n + len(t))[:, None]) for t, n in ((TRAIN, 0), (TEST, 1000)))
    folds = four_folds(train)
    config = ReferencesConfig(compared=(RidgeReference(alpha=(1.0, 2.0)),))
    measure(config, train, test, folds, seed=0)
    *tuning, last = Spy.seen
    assert last == (numbers(train), numbers(test))
    assert len(tuning) == 8
    for fitted, judged in tuning:
        assert fitted | judged == numbers(train)
        assert not fitted & judged
        assert len({int(folds[n]) for n in judged}) == 1


def test_folds_choose_what_generalises_and_not_what_remembers() -> None:
    """One cell in four is a lie: the nearest neighbour repeats the training set, lies included."""
    table = clustered(240, 2)
    lies = np.random.default_rng(0).random(240) < 0.25
    noisy = replace(table, rewards=np.where(lies[:, None], 1 - table.rewards, table.rewards))
    tuned = tune(KnnReference(neighbours=(1, 25)), noisy, four_folds(noisy), 0)
    assert tuned.settings == {"neighbours": 25}
    assert [value for _, value in tuned.tried] == [pytest.approx(0.62, abs=0.1), tuned.validation]
    assert tuned.validation == pytest.approx(0.75, abs=0.06)


def test_the_first_of_equal_settings_is_kept() -> None:
    table = clustered()
    assert tune(KnnReference(neighbours=(3, 1, 2)), table, four_folds(table), 0).settings == {"neighbours": 3}


def test_a_weight_of_cost_counts_in_routes_and_in_the_choice() -> None:
    table = clustered(60, 2)
    free = tune(KnnReference(neighbours=(3,)), table, four_folds(table), 0)
    dear = tune(KnnReference(neighbours=(3,)), table, four_folds(table), 0, cost_weight=2.0)
    assert free.validation == 1.0
    # Assignment 1 costs 1 more than it can ever earn back: all go to assignment 0, at a cost of 1.
    assert dear.validation == pytest.approx(table.rewards[:, 0].mean() - 2.0)
    with pytest.raises(ValueError, match="without costs"):
        route(free.reference, replace(table, costs=None), table, cost_weight=2.0)


def test_folds_must_fit_the_questions() -> None:
    for folds in (np.zeros(60, int), np.arange(59) % 4):
        with pytest.raises(ValueError, match="needs 2 over 60"):
            tune(RidgeReference(), TRAIN, folds, 0)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rewards": np.full((60, 3), np.nan)}, "60 questions have none"),
        ({"rewards": np.full((60, 3), np.inf)}, "infinite"),
        ({"rewards": np.ones((59, 3))}, "row per question"),
        ({"features": np.ones((59, 3))}, "row per question"),
        ({"features": np.full((60, 3), np.nan)}, "not finite"),
        ({"costs": np.ones((60, 2))}, "needs the rewards'"),
    ],
)
def test_arrays_that_do_not_belong_together_are_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        replace(TRAIN, **change)


def test_yaml_names_a_grid() -> None:
    parsed: Any = TypeAdapter(Reference).validate_python({"type": "mlp", "hidden": [8, 16], "alpha": [1]})
    assert parsed.points()[:2] == (
        {"hidden": 8, "alpha": 1.0, "epochs": 20},
        {"hidden": 8, "alpha": 1.0, "epochs": 40},
    )
    assert len(parsed.points()) == 4
    for wrong in ({"type": "knn", "neighbours": []}, {"type": "knn", "k": [1]}, {"type": "nn"}):
        with pytest.raises(ValidationError):
            TypeAdapter(Reference).validate_python(wrong)
