"""How often the intervals of off-policy estimates cover the truth: `python -m benchmarks.off_policy TABLE`.

Half of the table's questions, by a hash of the texts, teach the policy that is judged. The other half is the
population: what the policy earns on all of it is the truth. A repetition draws questions with replacement, and for each
of them one action of a logging policy whose propensities are 0.05 at least; only what that action earned is seen.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.linear_model import Ridge

from benchmarks.circumstances import circumstances
from haps_search.config.features import TfidfFeatures
from haps_search.evaluation.off_policy import Floats, Ints, Log, estimates, predicted_rewards, refusal
from haps_search.evaluation.propensities import estimated
from haps_search.routing.features.text import fit_features, load_features
from haps_search.tasks.tables.reading import read_table
from haps_search.tasks.tables.splits import folds

ESTIMATORS = ("inverse_propensity", "self_normalised", "doubly_robust")
LEAST = 0.05
"""The least propensity of any action."""
FOLDS = 5
RESULT = Path(__file__).parent / "results" / "off_policy.json"


@dataclass(frozen=True)
class Population:
    """N questions: features (N, D), rewards, the log's propensities and the judged policy (N, C), and folds by text."""

    features: Floats
    rewards: Floats
    logging: Floats
    policy: Floats
    dealt: Ints

    @property
    def truth(self) -> float:
        return float((self.policy * self.rewards).sum(axis=1).mean())


def population(table: Path, dimensions: int = 32, seed: int = 0) -> Population:
    """Of the complete questions of a table. The log likes what a noisy look at the rewards' predictions likes, so that
    good and bad choices are logged, each model with 0.05 at least."""
    found = read_table(table)
    complete = ~np.isnan(found.rewards).any(axis=1)
    texts = [q.text for q, kept in zip(found.questions, complete, strict=True) if kept]
    rewards = found.rewards[complete].astype(np.float64)
    config = TfidfFeatures(dimensions=dimensions)
    learnt = folds(texts, 2) == 0
    fitted = fit_features(config, [text for text, kept in zip(texts, learnt, strict=True) if kept])
    features = load_features(config, fitted, Path("unused")).transform(texts).astype(np.float64)
    scores = Ridge(alpha=1.0).fit(features[learnt], rewards[learnt]).predict(features[~learnt])
    draw, count = np.random.default_rng(seed), rewards.shape[1]
    liking = np.exp(3 * scores + draw.gumbel(size=scores.shape))
    logging = LEAST + (1 - count * LEAST) * liking / liking.sum(axis=1, keepdims=True)
    policy = np.eye(count)[scores.argmax(axis=1)]
    dealt = folds([text for text, kept in zip(texts, learnt, strict=True) if not kept], FOLDS)
    return Population(features[~learnt], rewards[~learnt], logging, policy, dealt)


def logs(of: Population, size: int, repetitions: int, seed: int = 0) -> Iterator[tuple[Ints, Log]]:
    """(rows, log) of each repetition."""
    for repetition in range(repetitions):
        draw = np.random.default_rng([seed, repetition])
        rows = draw.integers(len(of.rewards), size=size)
        chosen = (
            (draw.random((size, 1)) > of.logging[rows].cumsum(axis=1)).sum(axis=1).clip(max=of.rewards.shape[1] - 1)
        )
        yield rows, Log(chosen, of.rewards[rows, chosen], of.logging[rows, chosen])


def measure(of: Population, size: int, repetitions: int, estimate: bool = False) -> dict[str, Any]:
    """Coverage, mean and width of each estimator's intervals; `estimate` forgets the propensities and fits them."""
    found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in ESTIMATORS}
    effective, refused = [], 0
    for rows, log in logs(of, size, repetitions):
        if estimate:
            told = estimated(of.features[rows], log.actions, of.dealt[rows], LEAST)
            log = Log(log.actions, log.rewards, told.propensities)
        policy = of.policy[rows]
        refused += refusal(log, policy, [str(c) for c in range(policy.shape[1])]) is not None
        predicted = predicted_rewards(of.features[rows], log, of.dealt[rows], policy.shape[1])
        judged = estimates(log, policy, predicted)
        effective.append(judged.effective)
        for name in ESTIMATORS:
            interval = getattr(judged, name)
            found[name].append((interval.mean, interval.low, interval.high))
    return {
        "questions": size,
        "repetitions": repetitions,
        "effective": round(float(np.mean(effective)), 1),
        "refused": refused,
        "estimators": {name: _summary(np.array(values), of.truth) for name, values in found.items()},
    }


def _summary(values: Floats, truth: float) -> Mapping[str, float]:
    mean, low, high = values.T
    return {
        "coverage": round(float(((low <= truth) & (truth <= high)).mean()), 4),
        "mean": round(float(mean.mean()), 4),
        "rmse": round(float(np.sqrt(((mean - truth) ** 2).mean())), 4),
        "width": round(float((high - low).mean()), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.off_policy", description=__doc__)
    parser.add_argument("table", type=Path, help="an outcome table, such as llmrouter9/outcomes.jsonl")
    parser.add_argument("--size", type=int, default=1000, help="questions of a log (1000)")
    parser.add_argument("--repetitions", type=int, default=2000, help="logs (2000)")
    parser.add_argument("--out", type=Path, default=RESULT, help="JSON to write (results/off_policy.json)")
    arguments = parser.parse_args()
    began, where, of = time.perf_counter(), circumstances(), population(arguments.table)
    found = {
        "table": arguments.table.parent.name,
        "population": len(of.rewards),
        "models": of.rewards.shape[1],
        "least propensity": round(float(of.logging.min()), 4),
        "truth": round(of.truth, 4),
        "the log's own": round(float((of.logging * of.rewards).sum(axis=1).mean()), 4),
        "known propensities": measure(of, arguments.size, arguments.repetitions),
        "estimated propensities": measure(of, arguments.size, max(arguments.repetitions // 20, 1), estimate=True),
    }
    where |= {"seed": 0, "minutes": round((time.perf_counter() - began) / 60, 1)}
    arguments.out.write_text(json.dumps({"circumstances": where, **found}, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
