"""Gradients that travelled equal the gradient of the whole, computed without hooks and without separation."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from dense_task import DenseTask
from dialogue_task import DIALOGUE, DialogueTask
from experiments import tiny_experiment
from torch import Tensor
from torch.func import functional_call

from haps_search.candidates.exact import exact
from haps_search.candidates.frozen_lm import FrozenLM
from haps_search.config.hotpotqa import HotpotqaTask
from haps_search.config.run import Experiment
from haps_search.engines.assembly import build_learner
from haps_search.engines.local import LocalEngine
from haps_search.episodes.play import Play, play
from haps_search.learning.advantage import Advantages, RunningMeans, judged
from haps_search.learning.objective import rollouts, score_requests
from haps_search.learning.update import Learner, dropout_noise
from haps_search.lora.adapter import matrices
from haps_search.search.step import score
from haps_search.tasks.task import Task
from haps_search.types import AdapterLayout, Distribution, Episode, Rollouts

KL_WEIGHT = 0.3
VARIANTS: list[dict[str, Any]] = [
    {"routing__low_level__sharing": "per_layer"},
    {"routing__low_level__sharing": "shared", "routing__lora__layers": "all"},
    {
        "routing__lora__layers": "all",
        "routing__lora__targets": ["k_proj", "o_proj", "up_proj"],
        "routing__low_level__max_relative_spectral_norm": 0.1,
    },
    {"routing__low_level__max_relative_norm": None, "learning__advantage": "paper"},
    {"routing__low_level": {"type": "static", "init": "xavier"}, "learning__advantage": "group_normalised"},
    {"run__sampling": {"max_new_tokens": 5, "temperature": 0.7, "top_k": 20, "top_p": 0.9}},
    {"task": DIALOGUE},
    {
        "routing__prompt": "full",
        "routing__low_level__pooled": {"of": "question", "standardised": True, "dropout": 0.3},
        "routing__low_level__scale_output": True,
    },
]


@pytest.mark.parametrize("changes", VARIANTS, ids=lambda c: ",".join(f"{k.split('__')[-1]}" for k in c))
def test_separated_gradient_is_joint_autograd(tiny_lms: dict[str, Path], changes: dict[str, Any]) -> None:
    experiment = tiny_experiment(tiny_lms, learning__kl_weight=KL_WEIGHT, **changes)
    candidates = {c.name: FrozenLM.load(c) for c in experiment.candidates}
    task = DialogueTask(experiment.task) if isinstance(experiment.task, HotpotqaTask) else DenseTask()
    learner = build_learner(experiment, task, {n: c.table for n, c in candidates.items()})
    episodes, advantages, signal = _one_rollout(experiment, candidates, learner, task)

    if len(task.roles) == 2:
        assert {len(set(e.assignment)) for row in episodes for e in row} == {1, 2}, "roles share a candidate or not"

    separated = _separated(learner, signal, [row[0].question for row in episodes])
    joint = _joint(learner, experiment, candidates, episodes, advantages, task)

    assert set(separated) == set(joint)
    assert max(float(g.norm()) for g in joint.values()) > 1e-6
    for name, gradient in joint.items():
        torch.testing.assert_close(separated[name], gradient, rtol=1e-9, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")
    assert any(float(joint[n].norm()) > 1e-9 for n in joint if n.startswith("low.")), "adapters got no gradient"


def _one_rollout(
    experiment: Experiment, candidates: Mapping[str, FrozenLM], learner: Learner, task: Task
) -> tuple[list[list[Episode]], list[Advantages], Rollouts]:
    questions = task.questions("train")[:4]
    engine = LocalEngine(candidates, learner)
    routes = learner.route(questions, 4, seed=3)
    how = Play(experiment.run.sampling, seed=5, keep=True)
    episodes = asyncio.run(play(engine.sample, task, questions, routes.assignments, routes.adapters, how))
    rewards = [[task.reward(e) for e in row] for row in episodes]
    sampling, learning = experiment.run.sampling, experiment.learning
    known = RunningMeans(dict.fromkeys(candidates, (4.0, 1.0, 1.0)))
    weighed = judged(learning.advantage, routes.assignments, rewards, rewards, known)
    distribution = Distribution(sampling.temperature, sampling.top_k, sampling.top_p)
    requests = score_requests(routes, episodes, weighed, distribution, learning.kl_weight)
    scores = asyncio.run(score(engine, requests))
    return episodes, weighed, rollouts(routes, weighed, requests, scores, learning)


def _separated(learner: Learner, signal: Rollouts, questions: Sequence[Any]) -> dict[str, Tensor]:
    reading = learner.router.read(questions, dropout_noise(signal.version))
    torch.autograd.backward(*learner._roots(reading, signal, {}))
    return _taken_gradients(learner)


def _joint(
    learner: Learner,
    experiment: Experiment,
    candidates: Mapping[str, FrozenLM],
    episodes: Sequence[Sequence[Episode]],
    advantages: Sequence[Advantages],
    task: Task,
) -> dict[str, Tensor]:
    """One graph from router weights through merged candidate weights to the objective."""
    router = learner.router
    reading = router.read([row[0].question for row in episodes], dropout_noise(0))
    log_p = reading.distribution.log_probability([[e.assignment for e in row] for row in episodes])
    loss = -experiment.learning.entropy_bonus * reading.distribution.entropy().mean()
    count = log_p.numel()
    for q, row in enumerate(episodes):
        advantage = advantages[q]
        for g, episode in enumerate(row):
            loss = loss - advantage.architecture[g] * log_p[q, g] / count
            for completion, prompt in zip(episode.completions, _prompts(task, episode), strict=True):
                name, said = completion.candidate, completion.sampled.token_ids
                values = router.adapter_values(reading, name, [q])[0]
                merged = _merged(candidates[name], router.layouts[name], values)
                likelihood, kl = _under(merged, candidates[name], prompt, said, experiment)
                loss = loss + (-advantage.completion[g] * likelihood + KL_WEIGHT * kl) / count
    loss.backward()
    return _taken_gradients(learner)


def _prompts(task: Task, episode: Episode) -> list[str]:
    """What each completion answered; the tiny tokenizer's template writes contents and nothing around."""
    prompts = []
    for spoken in range(len(episode.completions)):
        turn = task.turn(replace(episode, completions=episode.completions[:spoken]))
        assert turn is not None
        prompts.append("".join(message.content for message in turn.messages))
    return prompts


def _merged(candidate: FrozenLM, layout: AdapterLayout, values: Tensor) -> dict[str, Tensor]:
    return {
        f"{t.name}.weight": candidate._lm.model.get_submodule(t.name).weight + layout.scaling * b @ a
        for t, (a, b) in zip(layout.targets, matrices(layout, values), strict=True)
    }


def _under(
    merged: Mapping[str, Tensor], candidate: FrozenLM, asked: str, said: Sequence[int], experiment: Experiment
) -> tuple[Tensor, Tensor]:
    """Log-likelihood of what was said, and the KL to the frozen model at its prefixes."""
    model = candidate._lm.model
    prompt = candidate._lm.tokenizer(asked)["input_ids"]
    ids = torch.tensor([[*prompt, *said]])
    temperature = experiment.run.sampling.temperature
    with exact(model.dtype):
        logits = functional_call(model, dict(merged), kwargs={"input_ids": ids}).logits[0, len(prompt) - 1 : -1]
        frozen = model(input_ids=ids).logits[0, len(prompt) - 1 : -1]
    logits, frozen = logits / temperature, frozen / temperature
    free, base = logits.log_softmax(-1), frozen.log_softmax(-1)
    drawn = _truncated(free, experiment).gather(-1, torch.tensor(said).unsqueeze(-1)).sum()
    return drawn, (free.exp() * (free - base)).sum()


def _truncated(log_p: Tensor, experiment: Experiment) -> Tensor:
    sampling, rows = experiment.run.sampling, []
    for row in log_p:
        order = row.detach().argsort(descending=True).tolist()
        kept, mass = [], 0.0
        for rank, token in enumerate(order):
            if mass >= sampling.top_p or (sampling.top_k and rank >= sampling.top_k):
                break
            kept.append(token)
            mass += float(row[token].detach().exp())
        mask = torch.full_like(row, float("-inf"))
        mask[kept] = 0.0
        rows.append((row + mask).log_softmax(-1))
    return torch.stack(rows)


def _taken_gradients(learner: Learner) -> dict[str, Tensor]:
    found = {}
    for name, parameter in learner.router.named_parameters():
        if parameter.requires_grad and parameter.grad is not None:
            found[name] = parameter.grad.clone()
            parameter.grad = None
    return found
