"""What references teach is supervised fine-tuning on one graph, and a match is what greedy decoding says."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from experiments import tiny_experiment
from taught_task import TaughtTask, said_table
from torch import Tensor, nn
from torch.func import functional_call

from haps_search.candidates.exact import exact
from haps_search.candidates.frozen_lm import FrozenLM
from haps_search.config.run import Experiment
from haps_search.engines.assembly import build_learner
from haps_search.engines.local import LocalEngine
from haps_search.errors import ConfigError
from haps_search.learning.references import reference_requests, taught, teaching
from haps_search.learning.update import Learner, dropout_noise
from haps_search.lora.adapter import matrices
from haps_search.search.step import score
from haps_search.types import GivenCompletion, Message, Question, Routes, SampleRequest, Sampling, ScoreRequest

STATIC: dict[str, Any] = {"routing__low_level": {"type": "static", "init": "xavier"}}
EVERYWHERE: dict[str, Any] = {"routing__lora__layers": "all", "routing__lora__targets": ["q_proj", "o_proj", "up_proj"]}
SURE: dict[str, Any] = {"routing__high_level": {"type": "fixed", "assignment": ["qwen2"]}}
ROUTED: dict[str, Any] = {"learning__references__of": "routed"}
RESIDUAL: dict[str, Any] = {
    "routing__low_level": {"type": "generated", "residual_of": "static", "init": "xavier", "max_relative_norm": 0.4}
}
ON_A_FIXED: dict[str, Any] = {"routing__low_level": {**RESIDUAL["routing__low_level"], "static_learns": False}}
BANK: dict[str, Any] = {
    "routing__low_level": {"type": "bank", "size": 3, "init": "xavier", "max_relative_spectral_norm": 0.1}
}
POOLED: dict[str, Any] = {"routing__low_level__pooled": {"standardised": True, "dropout": 0.3}}


def taught_experiment(tiny_lms: dict[str, Path], **changes: Any) -> Experiment:
    return tiny_experiment(tiny_lms, **{"learning__signal": "references", "run__questions_per_step": 4, **changes})


@pytest.mark.parametrize(
    "changes",
    [STATIC, STATIC | EVERYWHERE, STATIC | ROUTED, STATIC | ROUTED | SURE, ROUTED, POOLED, RESIDUAL, ON_A_FIXED, BANK],
    ids=str,
)
def test_a_step_is_supervised_fine_tuning(tiny_lms: dict[str, Path], changes: dict[str, Any]) -> None:
    """Of the whole graph: router weights, adapters, merged weights, the mean log-likelihood of what is taught."""
    experiment = taught_experiment(tiny_lms, learning__kl_weight=0.0, **changes)
    candidates = {c.name: FrozenLM.load(c) for c in experiment.candidates}
    learner = build_learner(experiment, TaughtTask(), {n: c.table for n, c in candidates.items()})
    asked = TaughtTask().questions("train")[:4]
    separated = by_the_step(LocalEngine(candidates, learner), learner, experiment, asked)
    joint = on_one_graph(learner, experiment, candidates, asked)
    assert any(float(joint[n].norm()) > 1e-6 for n in joint if n.startswith("low."))
    assert set(separated) == {name for name, gradient in joint.items() if float(gradient.norm())}
    for name, gradient in separated.items():
        torch.testing.assert_close(gradient, joint[name], rtol=1e-9, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")


def by_the_step(
    engine: LocalEngine, learner: Learner, experiment: Experiment, asked: Sequence[Question]
) -> dict[str, Tensor]:
    names = [c.name for c in experiment.candidates]

    async def signal() -> Any:
        routes = await engine.route(asked, 1, 0, everyone=True)
        requests = reference_requests(TaughtTask(), asked, routes, names, experiment.learning)
        return taught(routes, requests, await score(engine, requests))

    reading = learner.router.read(asked, dropout_noise(0))
    torch.autograd.backward(*learner._roots(reading, asyncio.run(signal()), {}))
    return {name: gradient for name, gradient in gradients(learner).items() if float(gradient.norm())}


def of_references(question: Question) -> dict[str, float]:
    return {text: 1 / len(question.references) for text in question.references}


def on_one_graph(
    learner: Learner,
    experiment: Experiment,
    candidates: dict[str, FrozenLM],
    asked: Sequence[Question],
    lesson: Callable[[Question], dict[str, float]] = of_references,
) -> dict[str, Tensor]:
    reading = learner.router.read(asked, dropout_noise(0))
    chances = reading.distribution.marginals().detach()[:, 0]
    loss = torch.zeros((), dtype=torch.float64)
    for k, (name, lm) in enumerate(candidates.items()):
        for q, question in enumerate(asked):
            weight = float(chances[q, k]) if experiment.learning.references.of == "routed" else 1.0
            layout, merged = learner.router.layouts[name], {}
            for part in learner.router.parts(reading, name, [q]):
                values = part.values if part.shares else part.values[0]
                mixed = values if part.mix is None else part.mix[0] @ values
                for t, (a, b) in zip(layout.targets, matrices(layout, mixed), strict=True):
                    frozen = lm._lm.model.get_submodule(t.name).weight
                    merged[t.name] = merged.get(t.name, frozen) + layout.scaling * b @ a
            for text, share in lesson(question).items():
                ids = lm._lm.tokenizer(question.text)["input_ids"]
                said = [*lm._lm.tokenizer(text)["input_ids"], lm._lm.tokenizer.eos_token_id]
                inputs = {"input_ids": torch.tensor([[*ids, *said]])}
                with exact(torch.float64):
                    weights = {f"{module}.weight": each for module, each in merged.items()}
                    logits = functional_call(lm._lm.model, weights, kwargs=inputs).logits
                answer = nn.functional.cross_entropy(logits[0, len(ids) - 1 : -1], torch.tensor(said), reduction="sum")
                loss = loss + weight * share * answer / len(asked)
    loss.backward()
    return gradients(learner)


def test_a_step_of_completions_weighs_them_by_their_rewards(tiny_lms: dict[str, Path], tmp_path: Path) -> None:
    """Written out: the first question's completions all earned the same as its reference, the second has one beside its
    two references, the third two and one said by nobody else, the fourth none."""
    asked = TaughtTask().questions("train")[:4]
    said = [
        *((asked[0], name, text, 1.0) for name, text in (("llama", asked[0].reference), ("qwen2", "as good"))),
        (asked[1], "qwen2", "no", 0.25),
        *((asked[2], "llama", text, reward) for text, reward in (("x", 0.5), ("x", 0.5), ("yy", 0.0))),
    ]
    power = {reward: math.exp(reward / 0.5) for reward in (0.0, 0.25, 0.5, 1.0)}
    lessons: dict[str, dict[str, float]] = {
        asked[0].id: {},
        asked[1].id: {**dict.fromkeys(asked[1].references, power[1.0]), "no": power[0.25]},
        asked[2].id: {asked[2].reference: power[1.0], "x": power[0.5], "yy": power[0.0]},
        asked[3].id: dict.fromkeys(asked[3].references, 1.0),
    }
    table = {"completions": str(said_table(tmp_path / "said.parquet", said)), "temperature": 0.5}
    experiment = taught_experiment(tiny_lms, learning__references=table, **STATIC)
    candidates = {c.name: FrozenLM.load(c) for c in experiment.candidates}
    learner = build_learner(experiment, TaughtTask(), {n: c.table for n, c in candidates.items()})
    separated = by_the_step(LocalEngine(candidates, learner), learner, experiment, asked)
    joint = on_one_graph(learner, experiment, candidates, asked, lambda question: shares(lessons[question.id]))
    assert {name for name, gradient in joint.items() if float(gradient.norm())} == set(separated) != set()
    for name, gradient in separated.items():
        torch.testing.assert_close(gradient, joint[name], rtol=1e-9, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")


def shares(powers: dict[str, float]) -> dict[str, float]:
    return {text: power / sum(powers.values()) for text, power in powers.items()}


def gradients(learner: Learner) -> dict[str, Tensor]:
    found = {}
    for name, parameter in learner.router.named_parameters():
        if parameter.grad is not None:
            found[name], parameter.grad = parameter.grad.clone(), None
    return found


def test_weights_are_the_objective_by_hand(tiny_lms: dict[str, Path]) -> None:
    """Two questions, one with two references, and a router that is sure to 0.75."""
    experiment = taught_experiment(tiny_lms, learning__references__of="routed", learning__kl_weight=0.5)
    asked = [Question("a", "?", "x"), Question("b", "??", "y", other_references=("z", "y"))]
    routes = _routes(experiment, tiny_lms, [[[0.75, 0.25]], [[1.0, 0.0]]])
    requests = reference_requests(TaughtTask(), asked, routes, ["llama", "qwen2"], experiment.learning)
    weights = {
        (name, q): [(c.completion, c.weight, c.kl_weight) for c in request.completions]
        for name, some in requests.items()
        for q, request in some.items()
    }
    assert weights == {
        ("llama", 0): [("x", -0.375, 0.1875)],
        ("llama", 1): [("y", -0.25, 0.125), ("z", -0.25, 0.125)],
        ("qwen2", 0): [("x", -0.125, 0.0625)],
    }


def _routes(experiment: Experiment, tiny_lms: dict[str, Path], marginals: list[list[list[float]]]) -> Routes:
    candidates = {c.name: FrozenLM.load(c) for c in experiment.candidates}
    learner = build_learner(experiment, TaughtTask(), {n: c.table for n, c in candidates.items()})
    routes = learner.route(TaughtTask().questions("train")[:2], 1, 0, everyone=True)
    return replace(routes, marginals=tuple(tuple(map(tuple, row)) for row in marginals))


def test_a_match_is_what_greedy_decoding_says(tiny_lms: dict[str, Path]) -> None:
    """Of what it says, whole or with one token changed, and whichever stop token closes the reference."""
    lm = FrozenLM.load(tiny_experiment(tiny_lms).candidates[0].model_copy(update={"stop": tuple("abcdefghijklmnop")}))
    stops, found = lm._decoder.stop_ids, []
    for i in range(12):
        messages = (Message("user", f"say {i * 'x'}"),)
        (drawn,) = lm.sample([SampleRequest(messages, Sampling(4, temperature=0.0))])
        ids, others = drawn.token_ids, []
        if ids[-1] in stops:
            others = [((*ids[:-1], stop), True) for stop in stops]
        changed = (*ids[:-1], next(t for t in range(5, 60) if t not in (ids[-1], *stops)))
        given = [(ids, True), (changed, False), *others]
        scores = lm.score([ScoreRequest(tuple(GivenCompletion(messages, g) for g, _ in given), match=True)])
        assert [score.match for score in scores.completions[0] if score is not None] == [wanted for _, wanted in given]
        found += others
    assert found, "some answer was ended by a stop token"


def test_what_is_taught_must_earn_something(tiny_lms: dict[str, Path]) -> None:
    config, names = taught_experiment(tiny_lms).learning.references, ("llama", "qwen2")
    task, asked = TaughtTask(), TaughtTask().questions("train")
    assert teaching(task, asked, names, config) == list(asked)
    with pytest.raises(ConfigError, match="none of the references of 10 training questions earns anything"):
        teaching(task, asked, names, config.model_copy(update={"text": "It is {reference}"}))
    with pytest.raises(ConfigError, match="no training question of task taught has a reference"):
        teaching(task, [replace(q, reference="", other_references=()) for q in asked], names, config)
    task.roles = (*task.roles, *task.roles)  # type: ignore[assignment]
    with pytest.raises(ConfigError, match="answers of one role"):
        teaching(task, asked, names, config)
