"""How each zoo model is made: its skill, its architecture, how long it trains."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
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


PAD, EOS = "<pad>", "<eos>"
MAX_TOKENS = 2048


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A fast tokenizer, padded on the left, whose chat template writes the contents and nothing around.

    Nothing is unknown and no token is added to a text. Written as byte-level BPE without merges because
    `AutoTokenizer` rebuilds any `qwen2` folder's tokenizer as byte-level BPE from its vocabulary and merges
    (transformers 5, `MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS`); this one survives that unchanged.
    """
    symbols = (PAD, EOS, *sorted(pre_tokenizers.ByteLevel.alphabet()))
    vocabulary = {symbol: index for index, symbol in enumerate(symbols)}
    backend = Tokenizer(models.BPE(vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD,
        eos_token=EOS,
        unk_token=EOS,
        padding_side="left",
        model_max_length=MAX_TOKENS,
        clean_up_tokenization_spaces=False,
        chat_template="{% for message in messages %}{{ message['content'] }}{% endfor %}",
    )
