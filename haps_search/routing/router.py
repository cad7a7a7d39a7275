"""The router that the rest sees: questions in, assignments and adapters out."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from haps_search.config.routing import (
    BackboneConfig,
    LmHighLevel,
    LowLevel,
    NoLowLevel,
    PooledConfig,
    ReadingLowLevel,
    RoutingConfig,
)
from haps_search.lora.adapter import adapter_norm
from haps_search.lora.spec import resolve
from haps_search.routing.distribution import Distribution
from haps_search.routing.features_backbone import FeaturesBackbone
from haps_search.routing.high_level import Constant, Head, Lm, build_high_level
from haps_search.routing.hypernetwork import Part, build_low_level
from haps_search.routing.low_input import LowInput
from haps_search.routing.prompt import RoutingPrompt
from haps_search.types import POOLED, START, Adapter, AdapterLayout, Assignment, ModuleTable, Question, Routes

if TYPE_CHECKING:
    from haps_search.routing.backbone import Backbone
    from haps_search.routing.lm import LmBackbone

Level = str
_PRIOR = "prior"
"""Names of what was taken at the start; what features were fitted on has the number of its block before it."""
CHUNK = 32
"""Questions that are read at once where many are."""


@dataclass(frozen=True)
class Reading:
    """One forward pass over questions: pooled states (n, H) and the distribution over assignments."""

    pooled: Tensor
    distribution: Distribution


class Router(nn.Module):
    """theta, the high-level head, and gamma_m per candidate.

    `low_backbone` is the low level's own copy of theta, None where both levels share one.
    """

    def __init__(
        self,
        config: RoutingConfig,
        prompt: RoutingPrompt,
        tables: Mapping[str, ModuleTable],
        seed: int,
        features: Callable[[], FeaturesBackbone] | None = None,
        training: Sequence[Question] = (),
    ) -> None:
        """Initial weights follow from `seed` alone. `features` makes the backbone of type features, which needs texts;
        by `training` questions the low level's input is standardised, at the first reading.

        Raises:
            ConfigError: targets or layers that a candidate does not have; an LM that cannot say the assignments.
            CandidateError: a backbone that does not load.
        """
        super().__init__()
        self._prompt, self._training = prompt, training
        self.names = tuple(card.name for card in prompt.cards)
        # A candidate without modules, such as an endpoint, takes no adapter, whatever the others do.
        patched = () if isinstance(config.low_level, NoLowLevel) else [n for n in self.names if tables[n].modules]
        self.layouts = {name: resolve(config.lora, tables[name]) for name in patched}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.backbone, self.high = _high_level(config, prompt, self.names, features)
            self.low_backbone = None if config.share_backbone else self.backbone.apart()
            width, dtype = self.backbone.width, self.backbone.head_dtype
            self.low = nn.ModuleDict(_low_levels(config.low_level, width, self.layouts))
        self.start: nn.ModuleDict | None = None
        """The low level as a run began with it, where the KL is taken to that."""
        self.low_input = LowInput(_pooled(config), width)
        for part in (self.high, self.low, self.low_input):
            part.to(self.backbone.device, dtype)
        self._dtype = dtype
        self.reads = isinstance(config.low_level, ReadingLowLevel) or not isinstance(self.high, Constant)
        """Whether anything depends on the question."""

    def read(self, questions: Sequence[Question], noise: torch.Generator | None = None) -> Reading:
        """`noise` drives dropout; None where nothing is learnt from the reading."""
        if not self.reads:
            nothing = torch.zeros(len(questions), self.backbone.width, device=self.backbone.device).to(self._dtype)
            return Reading(nothing, self.high(nothing))
        if isinstance(self.backbone, FeaturesBackbone):
            pooled = evidence = self.backbone(self._prompt.render(questions), questions, noise)
        else:
            pooled, evidence = self.backbone.read(self._prompt.render(questions))
        if self.low_backbone is not None:
            pooled = self._low_states(questions)
        return Reading(self._low_input(pooled, noise), self.high(evidence))

    def _low_states(self, questions: Sequence[Question]) -> Tensor:
        """Pooled states for the low level where nothing else is wanted."""
        reader = self.backbone if self.low_backbone is None else self.low_backbone
        texts = self._prompt.render(questions)
        pooled: Tensor = reader(texts, questions, None) if isinstance(reader, FeaturesBackbone) else reader(texts)
        return pooled

    def _low_input(self, pooled: Tensor, noise: torch.Generator | None) -> Tensor:
        self._standardise()
        read: Tensor = self.low_input(pooled, noise)
        return read

    @torch.no_grad()
    def _standardise(self) -> None:
        """Before the first step, and before a checkpoint brings its own: not at all where nobody asks."""
        if self.low_input.taken:
            return
        parts = [self._training[at : at + CHUNK] for at in range(0, len(self._training), CHUNK)]
        self.low_input.take(torch.cat([self._low_states(part) for part in parts]))

    def truncated(self, questions: Sequence[Question]) -> int:
        """How many routing prompts are cut; features do not count what an encoder leaves out."""
        if isinstance(self.backbone, FeaturesBackbone):
            return 0
        return self.backbone.truncated(self._prompt.render(questions))

    def adapter_values(self, reading: Reading, name: str, rows: Sequence[int]) -> Tensor:
        """Flat adapters (len(rows), P) of candidate `name` for those questions of the reading; of a low level of one
        part alone."""
        (part,) = self.parts(reading, name, rows)
        return part.values.expand(len(rows), -1) if part.shares else part.values

    def parts(self, reading: Reading, name: str, rows: Sequence[int]) -> list[Part]:
        """The parts of candidate `name`'s adapters for those questions of the reading."""
        return _parts(self.low, reading.pooled, name, rows)

    @torch.no_grad()
    def route(
        self,
        questions: Sequence[Question],
        episodes: int,
        seed: int,
        version: int,
        noise: torch.Generator | None = None,
        everyone: bool = False,
    ) -> Routes:
        """Draw `episodes` assignments per question; `episodes` 0 takes the likeliest one. `noise` as in `read`.
        `everyone`: with the adapters of every candidate."""
        reading = self.read(questions, noise)
        generator = torch.Generator().manual_seed(seed)
        distribution = reading.distribution
        drawn = distribution.sample(episodes, generator) if episodes else distribution.best()
        used = [[self.names]] * len(questions) if everyone else drawn
        adapters = self._adapters(self.low, reading.pooled, used)
        return Routes(
            version=version,
            assignments=tuple(tuple(row) for row in drawn),
            log_probabilities=_nested(distribution.log_probability(drawn)),
            marginals=_nested(distribution.marginals()),
            adapters=adapters,
            references={} if self.start is None else self._adapters(self.start, reading.pooled, used),
            adapter_norm=adapter_norm(adapters.values()),
        )

    @torch.no_grad()
    def all_adapters(self, questions: Sequence[Question]) -> dict[tuple[int, str], Adapter]:
        """Adapters of every candidate that takes any, for every question."""
        everyone = [[self.names]] * len(questions)
        return self._adapters(self.low, self._low_input(self._low_states(questions), None), everyone)

    @torch.no_grad()
    def adapters_of(self, reading: Reading, assignments: Sequence[Assignment]) -> dict[tuple[int, str], Adapter]:
        """Adapters of a reading's questions, of who plays in the assignment of each."""
        return self._adapters(self.low, reading.pooled, [[assignment] for assignment in assignments])

    def _adapters(
        self, low: nn.ModuleDict, pooled: Tensor, drawn: Sequence[Sequence[Assignment]]
    ) -> dict[tuple[int, str], Adapter]:
        adapters: dict[tuple[int, str], Adapter] = {}
        for name, rows in users(drawn, self.layouts):
            parts = _parts(low, pooled, name, rows)
            for row, adapter in zip(rows, _assembled(self.layouts[name], parts, len(rows)), strict=True):
                adapters[row, name] = adapter
        return adapters

    def levels(self) -> dict[Level, list[nn.Parameter]]:
        """Parameters that learn, by the learning rate they take: `high` (with the backbone) and `low` (with its own
        copy of the backbone, where it has one)."""
        high = [*self.backbone.parameters(), *self.high.parameters()]
        low = [*self.low.parameters(), *(self.low_backbone.parameters() if self.low_backbone is not None else ())]
        return {"high": [p for p in high if p.requires_grad], "low": [p for p in low if p.requires_grad]}

    def learned(self) -> dict[str, Tensor]:
        """What training changes; the rest comes from the backbone's source again."""
        return {name: p.detach() for name, p in self.named_parameters() if p.requires_grad}

    def fitted(self) -> dict[str, Tensor]:
        """What was taken before the first step, and stays: what features were fitted on, an LM's prior, and how the
        low level's input is standardised."""
        self._standardise()
        found = {f"{POOLED}{name}": value for name, value in self.low_input.fitted().items()}
        if self.start is not None:
            found |= {f"{START}{name}": value.cpu() for name, value in self.start.state_dict().items()}
        if isinstance(self.backbone, FeaturesBackbone):
            found |= self.backbone.fitted()
        if isinstance(self.high, Lm) and self.high.calibrated:
            found[_PRIOR] = self.high.prior.cpu()
        return found

    def refit(self, fitted: Mapping[str, Tensor]) -> None:
        """Read texts as another router does. Raises ValueError where that does not fit this one.

        Without statistics of the low level's input, which a router that has none can lend, they are taken anew.
        """
        rest = {name: value for name, value in fitted.items() if not name.startswith((POOLED, START))}
        pooled, began = (
            {name.removeprefix(kind): value for name, value in fitted.items() if name.startswith(kind)}
            for kind in (POOLED, START)
        )
        self._restart(began)
        if pooled:
            self.low_input.refit(pooled)
        else:
            self.low_input.forget()
        prior = rest.pop(_PRIOR, None)
        if isinstance(self.backbone, FeaturesBackbone):
            self.backbone.refit(rest)
        calibrated = isinstance(self.high, Lm) and self.high.calibrated
        if (prior is not None) != calibrated:
            got, needs = (_PRIOR if there else "nothing" for there in (prior is not None, calibrated))
            raise ValueError(f"got {got}, needs {needs}: an lm without a prior has routing.high_level.ids: names")
        if prior is not None:
            assert isinstance(self.high, Lm)
            self.high.prior = prior.to(self.high.prior)

    def _restart(self, began: Mapping[str, Tensor]) -> None:
        """Raises ValueError where these are not the low level's."""
        self.start = None
        if not began:
            return
        start = copy.deepcopy(self.low).requires_grad_(False)
        try:
            start.load_state_dict(dict(began))
        except RuntimeError as error:
            raise ValueError(f"the low level that it began with is another ({error})") from error
        self.start = start


def _parts(low: nn.ModuleDict, pooled: Tensor, name: str, rows: Sequence[int]) -> list[Part]:
    module: Any = low[_key(name)]
    found: list[Part] = module.parts(pooled[torch.tensor(list(rows), device=pooled.device)])
    return found


def _low_levels(config: LowLevel, width: int, layouts: Mapping[str, AdapterLayout]) -> dict[str, nn.Module]:
    if isinstance(config, NoLowLevel):
        return {}
    return {_key(name): build_low_level(config, width, layout) for name, layout in layouts.items()}


def _assembled(layout: AdapterLayout, parts: Sequence[Part], count: int) -> list[Adapter]:
    """Of `count` questions; what they share is one object, so that it travels once."""
    found: list[Adapter | None] = [None] * count
    for part in reversed(parts):
        values = [part.values.cpu()] * count if part.shares else list(part.values.cpu())
        mixes = [None] * count if part.mix is None else list(part.mix.cpu())
        same = len({id(base) for base in found}) == 1 and part.shares and part.mix is None
        if same:
            found = [Adapter(layout, values[0], found[0], None, part.learns)] * count
            continue
        found = [
            Adapter(layout, own, base, mix, part.learns) for own, base, mix in zip(values, found, mixes, strict=True)
        ]
    return [adapter for adapter in found if adapter is not None]


def _pooled(config: RoutingConfig) -> PooledConfig:
    return config.low_level.pooled if isinstance(config.low_level, ReadingLowLevel) else PooledConfig()


def _high_level(
    config: RoutingConfig,
    prompt: RoutingPrompt,
    names: tuple[str, ...],
    features: Callable[[], FeaturesBackbone] | None,
) -> tuple[Backbone | LmBackbone | FeaturesBackbone, Head | Constant | Lm]:
    """The backbone, and what decides from its reading. LMs are imported where one is asked for: features need none."""
    high, roles = config.high_level, [role.name for role in prompt.roles]
    stem = prompt.stem if _pooled(config).of == "question" else None
    if not isinstance(config.backbone, BackboneConfig):
        assert features is not None
        assert not isinstance(high, LmHighLevel)
        over = features()
        return over, build_high_level(high, over.width, len(roles), names)
    if not isinstance(high, LmHighLevel):
        from haps_search.routing.backbone import Backbone

        plain = Backbone.load(config.backbone, stem)
        return plain, build_high_level(high, plain.width, len(roles), names)
    from haps_search.routing.lm import LmBackbone

    lm = LmBackbone.load(config.backbone, high, roles, names, stem)
    decides = Lm(high, len(roles), names, lm.joint, lm.learns)
    if high.ids == "single_token":
        with torch.no_grad():
            decides.take_prior(lm.read(prompt.without_content())[1])
    return lm, decides


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
