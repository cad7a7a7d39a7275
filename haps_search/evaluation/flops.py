"""Floating-point operations of a training step, counted on shapes: what a row of the table costs, whatever machine.

A product of (a, b) and (b, c) counts 2abc. Counted are linear layers, attention, the output head, adapters and the
router's own reading; left out are norms, activation functions, embeddings and the optimiser.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from haps_search.candidates.sources import meta_encoder, meta_lm
from haps_search.candidates.suffix import tail_suffices
from haps_search.config.candidates import CandidateConfig, EndpointSource, TableSource
from haps_search.config.routing import BackboneConfig, FrozenTuning, FullTuning, GeneratedLowLevel, NoLowLevel
from haps_search.config.run import Experiment
from haps_search.errors import CandidateError
from haps_search.lora.spec import module_table, resolve
from haps_search.types import LinearModule, ModuleTable

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FULL, LORA = 4, 2
"""Per weight and token backward: gradients of activations and of weights, or of activations alone."""


@dataclass(frozen=True, slots=True)
class Shape:
    """One LM: its linear modules, width of attention (heads x head size), and numbers of the output head."""

    table: ModuleTable
    attention: int
    head: int

    @classmethod
    def of(cls, candidate: CandidateConfig) -> Shape:
        """From its config.json alone. Raises CandidateError: no such model, or none whose shape is known here."""
        source = candidate.source
        if isinstance(source, TableSource | EndpointSource):
            raise CandidateError(f"candidate {candidate.name}: nobody here knows the shape of a {source.type}'s model")
        model = meta_lm(candidate.name, source, candidate.dtype, candidate.trust_remote_code)
        text = model.config.get_text_config()
        width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        table = module_table(candidate.name, model)
        return cls(table, int(text.num_attention_heads * width), int(text.vocab_size * text.hidden_size))

    def forward(self, modules: Sequence[LinearModule], tokens: float, context: float) -> float:
        """Of `tokens` tokens that each look at `context` others, through these modules and the attention of their
        layers."""
        layers = len({module.layer for module in modules})
        return tokens * (2 * _weights(modules) + 4 * layers * context * self.attention)


@dataclass(frozen=True, slots=True)
class Tokens:
    """A step's tokens: prompts and completions of all candidates together, of the routing prompts, and how many
    completions there are."""

    prompts: float
    completions: float
    routing: float
    count: float

    @property
    def context(self) -> float:
        """What a token of a completion looks at, on average."""
        return (self.prompts + self.completions / 2) / self.count


@dataclass(frozen=True, slots=True)
class Flops:
    """Of one step."""

    forward: float
    backward: float

    def __add__(self, other: Flops) -> Flops:
        return Flops(self.forward + other.forward, self.backward + other.backward)


def step_flops(experiment: Experiment, shapes: Mapping[str, Shape], tokens: Tokens) -> Flops:
    """Of sampling, scoring and updating once; candidates share the tokens equally.

    Prompts are read once per question; completions are scored through the layers from the first patched one on, each
    with its prompt unless the patched modules feed no key or value. Backward goes to the first patched module.
    """
    share = Tokens(*(each / len(shapes) for each in (tokens.prompts, tokens.completions, tokens.routing, tokens.count)))
    total = Flops(0.0, 0.0)
    for shape in shapes.values():
        total += _candidate(experiment, shape, share)
    return total + _router(experiment, shapes, tokens)


def _candidate(experiment: Experiment, shape: Shape, tokens: Tokens) -> Flops:
    modules, head = shape.table.modules, 2 * shape.head * tokens.completions
    read = tokens.prompts / experiment.run.episodes_per_question + tokens.completions
    sampling = shape.forward(modules, read, tokens.context) + head
    if isinstance(experiment.routing.low_level, NoLowLevel):
        return Flops(sampling, 0.0)
    layout = resolve(experiment.routing.lora, shape.table)
    first = min(layout.targets, key=modules.index)
    replayed = [m for m in modules if m.layer >= first.layer]
    back = modules[modules.index(first) + 1 :]  # of the first one's input nobody asks for a gradient
    scored = tokens.completions + (0 if tail_suffices(layout.targets, shape.table.layers) else tokens.prompts)
    scoring = shape.forward(replayed, scored, tokens.context) + head
    # Scores and values of attention, each with two gradients: twice what they cost forward.
    attention = 0.0 if _after_attention(first) else 4 * tokens.context * shape.attention
    above = len({m.layer for m in back} - {first.layer})
    backward = scored * (2 * _weights(back) + 2 * attention + 8 * above * tokens.context * shape.attention) + head
    adapters = 2 * layout.size * scored  # lora_A and lora_B forward; backward twice that
    return Flops(sampling + scoring + adapters + 2 * layout.size * read, backward + 2 * adapters)


def _after_attention(module: LinearModule) -> bool:
    return tail_suffices([module], module.layer + 1) and not module.name.endswith("q_proj")


def _router(experiment: Experiment, shapes: Mapping[str, Shape], tokens: Tokens) -> Flops:
    """Routing reads the prompts once, the update once more with gradients."""
    routing, rows = experiment.routing, experiment.run.questions_per_step
    generated = 0
    if isinstance(routing.low_level, GeneratedLowLevel):
        low, width = routing.low_level, _width(routing.backbone)
        generated = sum(_generator(low, width, resolve(routing.lora, s.table).size) for s in shapes.values())
    total = Flops(2 * 2 * generated * rows, FULL * generated * rows)
    backbone = routing.backbone
    if isinstance(backbone, BackboneConfig):
        weights = _weights(_backbone_table(backbone).modules) * (1 if routing.share_backbone else 2)
        learns = 0 if isinstance(backbone.tuning, FrozenTuning) else FULL if _whole(backbone) else LORA
        total += Flops(2 * 2 * weights * tokens.routing, learns * weights * tokens.routing)
    return total


def _whole(backbone: BackboneConfig) -> bool:
    return isinstance(backbone.tuning, FullTuning)


def _generator(low: GeneratedLowLevel, width: int, size: int) -> int:
    """Numbers of the MLP that a candidate's adapter comes from."""
    widths = [width, *low.hidden, size]
    return sum(a * b for a, b in pairwise(widths))


def _width(backbone: object) -> int:
    if not isinstance(backbone, BackboneConfig):
        return 0
    return int(_meta(backbone).config.get_text_config().hidden_size)


def _backbone_table(backbone: BackboneConfig) -> ModuleTable:
    return module_table("router backbone", _meta(backbone))


def _meta(backbone: BackboneConfig) -> PreTrainedModel:
    make = meta_encoder if backbone.type == "encoder" else meta_lm
    return make("router backbone", backbone.source, backbone.dtype, backbone.trust_remote_code)


def _weights(modules: Sequence[LinearModule]) -> int:
    return sum(m.d_in * m.d_out for m in modules)
