"""What an episode costs, and what is left of its reward."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

from haps_search.config.candidates import CandidateConfig, Price
from haps_search.types import Episode

PER = 1_000_000
"""Prices stand per million tokens."""


def prices(candidates: Sequence[CandidateConfig]) -> dict[str, Price]:
    return {c.name: c.price for c in candidates}


def cost(episode: Episode, price: Mapping[str, Price]) -> float:
    """Sum over completions of tokens read and written at the candidate's price, in the unit of the prices."""
    return sum(
        (u.response.prompt_tokens * price[u.candidate].read + u.response.completion_tokens * price[u.candidate].written)
        / PER
        for u in episode.completions
    )


def utilities(
    rewards: Sequence[Sequence[float]],
    episodes: Sequence[Sequence[Episode]],
    price: Mapping[str, Price],
    weight: float,
) -> list[list[float]]:
    """R - weight * cost, per question and episode (Q, G): what advantages are made of."""
    if weight == 0:
        return [list(row) for row in rewards]
    return [
        [reward - weight * cost(episode, price) for reward, episode in zip(paid, row, strict=True)]
        for paid, row in zip(rewards, episodes, strict=True)
    ]


def mean_cost(episodes: Sequence[Episode], price: Mapping[str, Price]) -> float:
    return fmean(cost(episode, price) for episode in episodes)
