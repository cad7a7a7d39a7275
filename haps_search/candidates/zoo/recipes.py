"""How each zoo model is made: its skill, its architecture, how long it trains."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from haps_search.candidates.zoo.tokenizer import MAX_TOKENS
from haps_search.tasks.skills import Skill


@dataclass(frozen=True)
class Recipe:
    """How one zoo model is made."""

    skill: Skill
    build: Callable[[PreTrainedTokenizerFast], PreTrainedModel]
    steps: int
    batch: int = 128
    learning_rate: float = 4e-3
    seed: int = 0


def _adder(tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    return LlamaForCausalLM(LlamaConfig(**_sizes(tokenizer, hidden=64, key_value_heads=4)))


def _reverser(tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    return Qwen2ForCausalLM(Qwen2Config(**_sizes(tokenizer, hidden=80, key_value_heads=2)))


def _sorter(tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    sizes = _sizes(tokenizer, hidden=96, key_value_heads=2)
    return MistralForCausalLM(MistralConfig(sliding_window=None, **sizes))


def _sizes(tokenizer: PreTrainedTokenizerFast, hidden: int, key_value_heads: int) -> dict[str, Any]:
    # Heads x head_dim is 64 in all three, so o_proj is square in the adder alone.
    return {
        "hidden_size": hidden,
        "intermediate_size": 192,
        "num_attention_heads": 4,
        "num_key_value_heads": key_value_heads,
        "head_dim": 16,
        "vocab_size": len(tokenizer),
        "num_hidden_layers": 3,
        "max_position_embeddings": MAX_TOKENS,
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


RECIPES: dict[str, Recipe] = {
    "adder": Recipe("add", _adder, steps=1500),
    "reverser": Recipe("reverse", _reverser, steps=1000),
    "sorter": Recipe("sort", _sorter, steps=1500),
}
