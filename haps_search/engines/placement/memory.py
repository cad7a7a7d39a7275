"""What a process needs in memory, from configurations alone: models stand on the meta device, without numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from haps_search.candidates.attention import Attention, output_of
from haps_search.candidates.score import LOGITS
from haps_search.candidates.sources import meta_encoder, meta_lm
from haps_search.candidates.suffix import tail_suffices
from haps_search.config.candidates import BALANCED, CandidateConfig, EndpointSource, TableSource
from haps_search.config.learning import LearningConfig
from haps_search.config.routing import (
    BackboneConfig,
    BankLowLevel,
    FrozenTuning,
    LmHighLevel,
    NoLowLevel,
    RoutingConfig,
)
from haps_search.config.run import Experiment
from haps_search.engines.placement.needs import LIGHT_BYTES, Need
from haps_search.lora.spec import module_table, resolve
from haps_search.routing.backbone import tuned
from haps_search.routing.hypernetwork import build_low_level
from haps_search.types import ModuleTable

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_LOGIT_BYTES, _KL_BYTES = 14, 12
"""Per text token and word of the vocabulary while gradients are taken in bfloat16: logits, log-probabilities in
float32 and their gradients; with the KL the frozen model's and two products more. Counted on the operations."""
_PER_HIDDEN, _PER_INTERMEDIATE = 24, 8
"""Bytes in 16 bits that a layer keeps for its gradient, per token and hidden or MLP number. Counted by saved tensors
on two Llama shapes: 44.3 and 56.1 per hidden number where the MLP is 2.7 and 4 times as wide; float32 keeps a little
less than twice as much."""


def candidate_need(
    config: CandidateConfig,
    learning: LearningConfig,
    routing: RoutingConfig,
    prompt_tokens: int,
    new_tokens: int,
) -> tuple[Need, ModuleTable]:
    """One worker's need, and the modules that its adapters may patch.

    Raises:
        CandidateError: no such model.
    """
    nothing = ModuleTable(config.name, 0, ())
    if isinstance(config.source, TableSource):
        return Need(0, 0, 0, config.batch_rows, prompt_tokens, halves=True), nothing
    if isinstance(config.source, EndpointSource):
        return Need(0, 0, 0, config.source.concurrency, prompt_tokens, halves=True, process=LIGHT_BYTES), nothing
    model = meta_lm(config.name, config.source, config.dtype, config.trust_remote_code)
    text, size = model.config.get_text_config(), model.dtype.itemsize
    tokens = _at_most(text, prompt_tokens + new_tokens)
    per_row = tokens * (cache_bytes(model) + text.hidden_size * size)
    rows = max(1, min(config.batch_rows, config.batch_tokens // tokens))
    whole = rows * min(new_tokens, tokens) * text.vocab_size
    # On several devices the head is not had apart, so all logits of a batch are formed at once.
    logits = whole if config.device == BALANCED else max(min(LOGITS, whole), text.vocab_size)
    beside = logits * (_LOGIT_BYTES + (_KL_BYTES if learning.kl_weight > 0 else 0))
    kept = int((config.prompt_cache_gb + config.activation_gb) * 1e9)
    table = module_table(config.name, model)
    stored = 0
    if learning.signal == "references":
        stored = stored_bytes(model, table, routing, prompt_tokens, new_tokens) if config.suffix_replay else 0
        kept += int(config.stored_gb * 1e9) if config.device == "cpu" else 0  # a GPU's machine holds it elsewhere
    return Need(weight_bytes(model), 0, per_row, rows, tokens, True, beside, stored, kept), table


def stored_bytes(
    model: PreTrainedModel, table: ModuleTable, routing: RoutingConfig, prompt_tokens: int, new_tokens: int
) -> int:
    """What is kept of one reference for adapters of the experiment's placement; 0 where the first layer is patched.

    Raises ConfigError: targets or layers that the model does not have.
    """
    targets, last = resolve(routing.lora, table).targets, table.layers - 1
    first = min(target.layer for target in targets)
    found = output_of(model, model.get_submodule(_layer_of(targets[-1].name)))
    text, states = model.config.get_text_config(), model.config.get_text_config().hidden_size * model.dtype.itemsize
    if first == 0:
        return 0
    if found is not None and Attention(*found, 1).constant_under(targets, last):
        return int(new_tokens * (states + found[2].in_features * model.dtype.itemsize))
    past = tail_suffices(targets, table.layers)
    of_prompt = cache_bytes(model) // text.num_hidden_layers if past else states
    return int((prompt_tokens - 1) * of_prompt + new_tokens * states)


def _layer_of(module: str) -> str:
    """`model.layers.29` of `model.layers.29.self_attn.o_proj`."""
    parts = module.split(".")
    return ".".join(parts[: next(i for i, part in enumerate(parts) if part.isdigit()) + 1])


def router_need(experiment: Experiment, tables: dict[str, ModuleTable], prompt_tokens: int) -> Need:
    """The router of a trial at the experiment's own values, with gradients and AdamW's two moments, while it learns.

    Left out is what is small: the linear head of high level `head`, and a backbone of features.

    Raises:
        CandidateError: no such backbone. ConfigError: targets or layers that a model does not have.
    """
    routing, backbone = experiment.routing, experiment.routing.backbone
    if not isinstance(backbone, BackboneConfig):
        return Need(0, 0, 0, experiment.run.questions_per_step, prompt_tokens, halves=False)
    shapes = meta_encoder if backbone.type == "encoder" else meta_lm
    lm = shapes("router backbone", backbone.source, backbone.dtype, backbone.trust_remote_code)
    text = lm.config.get_text_config()
    with torch.device("meta"):
        body = tuned(lm if isinstance(routing.high_level, LmHighLevel) else lm.base_model, backbone)
        low = _low_levels(routing, int(text.hidden_size), torch.promote_types(torch.float32, lm.dtype), tables)
    parts = [body, *low] if routing.share_backbone else [body, lm.base_model, *low]
    learned = sum(weight_bytes(part, learned_only=True) for part in parts)
    tokens = _at_most(text, min(backbone.max_tokens, prompt_tokens))
    per_question = 0 if isinstance(backbone.tuning, FrozenTuning) else tokens * _kept_bytes(lm)
    return Need(
        weights=sum(weight_bytes(part) for part in parts),
        optimiser=3 * learned,
        per_row=per_question if routing.share_backbone else 2 * per_question,
        rows=experiment.run.questions_per_step,
        tokens=tokens,
        halves=False,
    )


def adapter_bytes(routing: RoutingConfig, table: ModuleTable) -> int:
    """Of what is one question's own in an adapter as it travels, or of what all questions share where nothing is, in
    the router's precision, which is float32 or more; 0 without a low level."""
    if isinstance(routing.low_level, NoLowLevel) or not table.modules:
        return 0
    low, precision = routing.low_level, 8 if getattr(routing.backbone, "dtype", "float32") == "float64" else 4
    return precision * resolve(routing.lora, table).size * (low.size if isinstance(low, BankLowLevel) else 1)


def weight_bytes(model: nn.Module, learned_only: bool = False) -> int:
    """Weights that are tied count once."""
    return sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad or not learned_only)


def cache_bytes(model: PreTrainedModel) -> int:
    """Keys and values of one token in all layers: layers x 2 x key-value heads x head size numbers."""
    text = model.config.get_text_config()
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return int(text.num_hidden_layers * 2 * heads * width * model.dtype.itemsize)


def _kept_bytes(model: PreTrainedModel) -> int:
    """What all layers keep of one token for the gradient."""
    text = model.config.get_text_config()
    hidden = int(text.hidden_size)
    inner = getattr(text, "intermediate_size", None) or 4 * hidden
    per_layer = _PER_HIDDEN * hidden + _PER_INTERMEDIATE * int(inner)
    return int(text.num_hidden_layers) * per_layer * model.dtype.itemsize // 2


def _low_levels(
    routing: RoutingConfig, width: int, dtype: torch.dtype, tables: dict[str, ModuleTable]
) -> list[nn.Module]:
    low = routing.low_level
    if isinstance(low, NoLowLevel):
        return []
    layouts = [resolve(routing.lora, table) for table in tables.values() if table.modules]
    return [build_low_level(low, width, layout).to(dtype) for layout in layouts]


def _at_most(text: object, tokens: int) -> int:
    positions = getattr(text, "max_position_embeddings", None)
    return tokens if positions is None else min(tokens, int(positions))
