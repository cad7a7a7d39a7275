"""Tiny candidates with random weights, for tests of arithmetic rather than of skill."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

ARCHITECTURES = ("llama", "qwen2", "mistral")


def build_tiny(folder: Path, architecture: str, seed: int) -> Path:
    """A two-layer causal LM whose o_proj is not square, saved as a folder."""
    from transformers import AutoConfig, AutoModelForCausalLM

    from haps_search.candidates.zoo.recipes import build_tokenizer

    tokenizer = build_tokenizer()
    config = AutoConfig.for_model(
        architecture, vocab_size=len(tokenizer), hidden_size=24, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=8, max_position_embeddings=256,
        bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session", autouse=True)
def no_cache_of_the_users(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What is kept between runs is kept for this session alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HAPS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def tiny_lms(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folder per architecture; o_proj is 32 -> 24."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("tiny")
    return {name: build_tiny(root / name, name, seed) for seed, name in enumerate(ARCHITECTURES)}
