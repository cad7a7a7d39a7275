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
from haps_search.config.routing import (
    BackboneConfig,
    FixedHighLevel,
    FrozenTuning,
    FullTuning,
    GeneratedLowLevel,
    HighLevel,
    NoLowLevel,
    RandomHighLevel,
    ReadingLowLevel,
)
from haps_search.config.run import Experiment
from haps_search.errors import CandidateError
from haps_search.lora.spec import module_table, resolve
from haps_search.routing.hypernetwork import blocks
from haps_search.types import AdapterLayout, LinearModule, ModuleTable

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FULL, LORA = 4, 2
"""Per weight and token backward: gradients of activations and of weights, or of activations alone."""


@dataclass(frozen=True, slots=True)
class Shape:
    """One LM: its linear modules, width of attention (heads x head size), numbers of the output head, and how many
    words that has."""

    table: ModuleTable
    attention: int
    head: int
    words: int = 1

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
        words = int(text.vocab_size)
        return cls(table, int(text.num_attention_heads * width), int(words * text.hidden_size), words)

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


def reference_flops(experiment: Experiment, shapes: Mapping[str, Shape], taught: Mapping[str, Tokens]) -> Flops:
    """Of a step that learns from references, over activations that are stored: `taught` says per candidate what its
    lessons have together, prompts counted once for each text, and the routing prompts of the step.

    Reading the references once is not in it. A shortlist is counted as if no two places shared a word.
    """
    total = Flops(0.0, 0.0)
    for name, tokens in taught.items():
        total += _lessons(experiment, shapes[name], tokens)
    return total + _router(experiment, shapes, next(iter(taught.values())))


def _lessons(experiment: Experiment, shape: Shape, tokens: Tokens) -> Flops:
    learning, layout = experiment.learning, resolve(experiment.routing.lora, shape.table)
    first = min(layout.targets, key=shape.table.modules.index)
    run, ran, context = _over_stored(shape.table, layout.targets, first, tokens)
    layers = shape.forward(run, ran, context)
    whole, adapters = 2 * shape.head * tokens.completions, 2 * layout.size * ran
    listed = tokens.completions * (learning.references.shortlist + 1) / shape.words
    head = whole * (min(listed, 1.0) if learning.references.shortlist and not learning.kl_weight else 1.0)
    forward = layers + head + adapters
    if learning.kl_weight:  # what the KL is taken to
        forward += layers + whole + (adapters if learning.kl_to == "start" else 0.0)
    back = run[run.index(first) + 1 :]
    attention = 0.0 if _after_attention(first) else 4 * context * shape.attention
    above = len({m.layer for m in back} - {first.layer})
    backward = ran * (2 * _weights(back) + 2 * attention + 8 * above * context * shape.attention) + head
    # Nobody asks for the gradient of what enters the first module, whose lora_A is the first to read it.
    return Flops(forward, backward + 2 * adapters - 2 * layout.rank * first.d_in * ran)


def _over_stored(
    table: ModuleTable, targets: Sequence[LinearModule], first: LinearModule, tokens: Tokens
) -> tuple[list[LinearModule], float, float]:
    """The modules that are run, over how many tokens, and how many others each of these attends to."""
    last = table.layers - 1
    if all(t.layer == last and not _inside_attention(t) for t in targets):  # what enters the output is constant
        run = [m for m in table.modules if m.layer == last and not _inside_attention(m)]
        return run, tokens.completions, 0.0
    run = [m for m in table.modules if m.layer >= first.layer]
    if tail_suffices(targets, table.layers):
        return run, tokens.completions, tokens.context
    # The last token of a text predicts nothing, and is left out where the first layers' states are stored.
    left_out = tokens.count if first.layer else 0
    whole = tokens.prompts + tokens.completions - left_out
    return run, whole, (tokens.prompts + tokens.completions) / tokens.count / 2


def _inside_attention(module: LinearModule) -> bool:
    """In it, and not its output."""
    *_, parent, name = module.name.split(".")
    return ("attn" in parent or "attention" in parent) and name not in ("o_proj", "out_proj", "dense")


def _after_attention(module: LinearModule) -> bool:
    return tail_suffices([module], module.layer + 1) and not module.name.endswith("q_proj")


def _router(experiment: Experiment, shapes: Mapping[str, Shape], tokens: Tokens) -> Flops:
    """Routing reads the prompts once, the update once more with gradients."""
    routing, rows = experiment.routing, experiment.run.questions_per_step
    if not (isinstance(routing.low_level, ReadingLowLevel) or _reads(routing.high_level)):
        return Flops(0.0, 0.0)
    generated = 0
    if isinstance(routing.low_level, GeneratedLowLevel):
        low, width = routing.low_level, _width(routing.backbone)
        generated = sum(_generator(low, width, resolve(routing.lora, s.table)) for s in shapes.values())
    total = Flops(2 * 2 * generated * rows, FULL * generated * rows)
    backbone = routing.backbone
    if isinstance(backbone, BackboneConfig):
        weights = _weights(_backbone_table(backbone).modules) * (1 if routing.share_backbone else 2)
        learns = 0 if isinstance(backbone.tuning, FrozenTuning) else FULL if _whole(backbone) else LORA
        total += Flops(2 * 2 * weights * tokens.routing, learns * weights * tokens.routing)
    return total


def _whole(backbone: BackboneConfig) -> bool:
    return isinstance(backbone.tuning, FullTuning)


def _reads(high: HighLevel) -> bool:
    return not isinstance(high, FixedHighLevel | RandomHighLevel)


def _generator(low: GeneratedLowLevel, width: int, layout: AdapterLayout) -> int:
    """Numbers of the MLP that a candidate's adapter comes from, which are fewer where layers share."""
    numbers = sum(layout.rank * (block.d_in + block.d_out) for block in blocks(layout, low.sharing))
    widths = [width, *low.hidden, numbers]
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
