"""The router that the rest sees: questions in, assignments and deltas out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from haps_search.config.routing import GeneratedLowLevel, NoLowLevel, RoutingConfig
from haps_search.lora.spec import resolve
from haps_search.routing.backbone import Backbone
from haps_search.routing.high_level import AssignmentDistribution, build_high_level
from haps_search.routing.hypernetwork import ParameterGenerator, StaticDelta
from haps_search.routing.prompt import RoutingPrompt
from haps_search.types import Assignment, Delta, ModuleTable, Question, Routes

Level = str


@dataclass(frozen=True)
class Reading:
    """One forward pass over questions: pooled states (n, H) and the distribution over assignments."""

    pooled: Tensor
    distribution: AssignmentDistribution


class Router(nn.Module):
    """theta, the high-level head, and gamma_m per candidate."""

    def __init__(
        self, config: RoutingConfig, prompt: RoutingPrompt, tables: Mapping[str, ModuleTable], seed: int
    ) -> None:
        """Initial weights follow from `seed` alone.

        Raises:
            ConfigError: targets or layers that a candidate does not have.
            CandidateError: a backbone that does not load.
        """
        super().__init__()
        self._prompt = prompt
        self.names = tuple(card.name for card in prompt.cards)
        self.layouts = {} if isinstance(config.low_level, NoLowLevel) else {
            name: resolve(config.lora, tables[name]) for name in self.names
        }  # fmt: skip
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.backbone = Backbone(config.backbone)
            width, dtype = self.backbone.width, self.backbone.head_dtype
            self.high = build_high_level(config.high_level, width, len(prompt.roles), self.names)
            self.low = nn.ModuleDict({_key(name): self._low_level(config, width, name) for name in self.layouts})
        self.high.to(self.backbone.device, dtype)
        self.low.to(self.backbone.device, dtype)

    def _low_level(self, config: RoutingConfig, width: int, name: str) -> nn.Module:
        low = config.low_level
        if isinstance(low, GeneratedLowLevel):
            return ParameterGenerator(low, width, self.layouts[name])
        assert not isinstance(low, NoLowLevel)
        return StaticDelta(low, self.layouts[name])

    def read(self, questions: Sequence[Question]) -> Reading:
        pooled = self.backbone(self._prompt.render(questions))
        return Reading(pooled, self.high(pooled))

    def truncated(self, questions: Sequence[Question]) -> int:
        """How many routing prompts are cut."""
        return self.backbone.truncated(self._prompt.render(questions))

    def delta_values(self, reading: Reading, name: str, rows: Sequence[int]) -> Tensor:
        """Flat deltas (len(rows), P) of candidate `name` for those questions of the reading."""
        index = torch.tensor(list(rows), device=reading.pooled.device)
        return self.low[_key(name)](reading.pooled[index])

    @torch.no_grad()
    def route(self, questions: Sequence[Question], episodes: int, seed: int, version: int) -> Routes:
        """Draw `episodes` assignments per question; `episodes` 0 takes the likeliest one."""
        reading = self.read(questions)
        generator = torch.Generator().manual_seed(seed)
        distribution = reading.distribution
        drawn = distribution.sample(episodes, generator) if episodes else distribution.best()
        return Routes(
            version=version,
            assignments=tuple(tuple(row) for row in drawn),
            log_probabilities=_nested(distribution.log_probability(drawn)),
            marginals=_nested(distribution.log_p.exp()),
            deltas=self._deltas(reading, drawn),
        )

    @torch.no_grad()
    def all_deltas(self, questions: Sequence[Question]) -> dict[tuple[int, str], Delta]:
        """Deltas of every candidate for every question."""
        everyone = [[self.names]] * len(questions)
        return self._deltas(self.read(questions), everyone)

    def _deltas(self, reading: Reading, drawn: Sequence[Sequence[Assignment]]) -> dict[tuple[int, str], Delta]:
        deltas = {}
        for name, rows in users(drawn, self.layouts):
            for row, values in zip(rows, self.delta_values(reading, name, rows).cpu(), strict=True):
                deltas[row, name] = Delta(self.layouts[name], values)
        return deltas

    def levels(self) -> dict[Level, list[nn.Parameter]]:
        """Parameters that learn, by the learning rate they take: `high` (with the backbone) and `low`."""
        high = [*self.backbone.parameters(), *self.high.parameters()]
        return {
            "high": [p for p in high if p.requires_grad],
            "low": [p for p in self.low.parameters() if p.requires_grad],
        }

    def learned(self) -> dict[str, Tensor]:
        """What training changes; the rest comes from the backbone's source again."""
        return {name: p.detach() for name, p in self.named_parameters() if p.requires_grad}


def users(assignments: Sequence[Sequence[Assignment]], among: Mapping[str, object]) -> Iterator[tuple[str, list[int]]]:
    """Per candidate, the questions of which some episode uses it."""
    for name in among:
        rows = [q for q, row in enumerate(assignments) if any(name in z for z in row)]
        if rows:
            yield name, rows


def _key(name: str) -> str:
    # Module names may not hold dots nor be attributes of a module, such as `half`; candidate names may.
    return "for_" + name.replace(".", "·")


def _nested(values: Tensor) -> Any:
    """A tensor as tuples within tuples."""

    def freeze(x: Any) -> Any:
        return tuple(map(freeze, x)) if isinstance(x, list) else x

    return freeze(values.tolist())
