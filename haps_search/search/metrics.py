"""What a step is watched by."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean

from haps_search.config.candidates import EndpointSource
from haps_search.config.routing import FixedHighLevel
from haps_search.config.run import CollapseConfig, Experiment
from haps_search.tasks.question_rows import CONTEXT_CUT
from haps_search.types import Episode, Question, Routes, Scores


def step_metrics(
    routes: Routes,
    episodes: Sequence[Sequence[Episode]],
    rewards: Sequence[Sequence[float]],
    scores: Mapping[str, Scores],
    experiment: Experiment,
) -> dict[str, float]:
    """Metrics of Q x G episodes: reward, route shares and entropy (nats), adapter norm, KL, tokens, alarms.

    `parse_failures` counts the completions that could not be read, `parse_failure_share/ROLE/CANDIDATE` is their share;
    of them `refusals` are those that an endpoint would not give. `log_likelihood` is of those whose tokens are known;
    `prompts_known` is the share of completions whose prompt the candidate still had from before.
    """
    flat = [episode for row in episodes for episode in row]
    completions = [u for episode in flat for u in episode.completions]
    names = [c.name for c in experiment.candidates]
    measured = {
        "reward": fmean(r for row in rewards for r in row),
        "reward_spread": fmean(max(row) - min(row) for row in rewards),
        "route_entropy": fmean(entropy(role) for row in routes.marginals for role in row),
        "answer_share": _largest_share(str(e.answer) for e in flat),
        "parse_failures": float(sum(u.parsed.failure is not None for u in completions)),
        "contexts_cut": contexts_cut(row[0].question for row in episodes),
        "prompt_tokens": float(sum(u.sampled.prompt_tokens for u in completions)),
        "completion_tokens": float(sum(u.sampled.completion_tokens for u in completions)),
        "adapter_norm": routes.adapter_norm,
    }
    likelihoods = [u.sampled.log_likelihood for u in completions if u.sampled.log_probabilities]
    if likelihoods:
        measured["log_likelihood"] = fmean(likelihoods)
    if any(isinstance(c.source, EndpointSource) for c in experiment.candidates):
        measured["refusals"] = float(sum(u.sampled.refusal is not None for u in completions))
    scored = [score for some in scores.values() for row in some.completions for score in row if score is not None]
    kls = [score.kl for score in scored if score.kl is not None]
    if kls:
        measured["kl"] = fmean(kls)
    if any(c.prompt_cache_gb for c in experiment.candidates):
        measured["prompts_known"] = fmean(u.sampled.prompt_known for u in completions)
    played = [e.assignment for e in flat]
    measured |= {f"parse_failure_share/{seat}": share for seat, share in failure_shares(flat).items()}
    measured |= {f"share/{name}": share for name, share in route_shares(played, names).items()}
    fixed = isinstance(experiment.routing.high_level, FixedHighLevel)  # nothing that could collapse
    choices = 1 if fixed else len(names)
    return measured | alarms(measured, _largest_share(map(str, played)), experiment.run.collapse, choices)


def route_shares(assignments: Iterable[Sequence[str]], names: Sequence[str]) -> dict[str, float]:
    """Share of role seats that each candidate took."""
    seats = Counter(name for z in assignments for name in z)
    total = sum(seats.values())
    return {name: seats[name] / total for name in names}


def failure_shares(episodes: Iterable[Episode]) -> dict[str, float]:
    """`role/candidate` -> share of its completions that could not be read; without those who had no turn."""
    turns: Counter[str] = Counter()
    failed: Counter[str] = Counter()
    for completion in (u for episode in episodes for u in episode.completions):
        seat = f"{completion.role}/{completion.candidate}"
        turns[seat] += 1
        failed[seat] += completion.parsed.failure is not None
    return {seat: failed[seat] / turns[seat] for seat in sorted(turns)}


def contexts_cut(questions: Iterable[Question]) -> float:
    """How many questions lost a part of their context when they were read."""
    return float(sum(CONTEXT_CUT in question.attributes for question in questions))


def alarms(measured: dict[str, float], top_share: float, limits: CollapseConfig, candidates: int) -> dict[str, float]:
    """1 where routes or completions have collapsed, 0 where not."""
    return {
        "route_collapse": float(route_collapse(measured["route_entropy"], top_share, limits, candidates)),
        "answer_collapse": float(measured["answer_share"] > limits.answer_share),
    }


def route_collapse(entropy: float, top_share: float, limits: CollapseConfig, candidates: int) -> bool:
    """Whether nearly everything goes to one of several choices, and the router is sure of it."""
    return candidates > 1 and entropy < limits.route_entropy and top_share > limits.assignment_share


def entropy(probabilities: Sequence[float]) -> float:
    """Nats."""
    return -math.fsum(p * math.log(p) for p in probabilities if p > 0)


def _largest_share(answers: Iterable[str]) -> float:
    counts = Counter(answers)
    return counts.most_common(1)[0][1] / counts.total()
