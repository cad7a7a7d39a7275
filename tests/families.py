"""Tiny random LMs of the families whose suffix is replayed, three layers unless said otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"head_dim": 8},
    "qwen2": {"head_dim": 8},
    "qwen3": {"head_dim": 8},
    "mistral": {"head_dim": 8, "sliding_window": None},
    "mistral-sliding": {"head_dim": 8, "sliding_window": 6},
    "mistral-late": {"head_dim": 8, "sliding_window": 18},  # moves on while the text is spoken
    "gemma3_text": {
        "head_dim": 8, "sliding_window": 7,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    },
    "phi": {},
    "granite": {"embedding_multiplier": 12.0, "logits_scaling": 3.0},
    "opt": {"ffn_dim": 40, "word_embed_proj_dim": 32, "dropout": 0.0},
    "bloom": {"n_head": 4},
}  # fmt: skip
AFTER = {"phi": ("dense", "fc2"), "opt": ("out_proj", "fc2"), "bloom": ("dense", "dense_4h_to_h")}
"""What comes after a layer's keys and values, where it is not called o_proj and down_proj."""


def build_family(folder: Path, family: str, layers: int = 3) -> Path:
    """Random weights, saved as a folder."""
    from transformers import AutoConfig, AutoModelForCausalLM

    from haps_search.candidates.zoo.recipes import build_tokenizer

    tokenizer = build_tokenizer()
    config = AutoConfig.for_model(
        family.partition("-")[0], vocab_size=len(tokenizer), hidden_size=32, intermediate_size=40,
        num_hidden_layers=layers, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=128,
        bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        **FAMILIES[family],
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
