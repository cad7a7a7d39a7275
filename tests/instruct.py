"""Tiny random instruct LMs: a chat template with end-of-turn tokens, sliding windows, plain text without any."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast

TURN, END_TURN = "<|turn|>", "<|end|>"
TEMPLATE = (
    "{% for message in messages %}<|turn|>{{ message['role'] }}\n{{ message['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|turn|>assistant\n{% endif %}"
)
SHAPES: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {},
    "gemma3_text": {"sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"]},
}


def chat_tokenizer(template: str | None = TEMPLATE) -> PreTrainedTokenizerFast:
    """One token per byte, and special tokens around turns."""
    from haps_search.candidates.zoo.recipes import build_tokenizer

    tokenizer = build_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": [TURN, END_TURN]})
    tokenizer.chat_template = template
    return tokenizer


def build_instruct(folder: Path, architecture: str, template: str | None = TEMPLATE) -> Path:
    """Two layers, random weights, saved as a folder."""
    from transformers import AutoConfig, AutoModelForCausalLM

    tokenizer = chat_tokenizer(template)
    config = AutoConfig.for_model(
        architecture, vocab_size=len(tokenizer), hidden_size=16, intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, head_dim=8, max_position_embeddings=400, bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, **SHAPES[architecture],
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(len(architecture))
        model = AutoModelForCausalLM.from_config(config)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
