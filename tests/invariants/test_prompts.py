"""Prompts are read once: below the patched layers for everybody, and across batches within a memory budget."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from families import build_family
from verbs import same, sampled_and_scored

from haps_search.candidates.frozen_lm import FrozenLM
from haps_search.candidates.prompt_cache import Below, PromptCache
from haps_search.candidates.row_attention import packed_now
from haps_search.config.candidates import CandidateConfig, PathSource
from haps_search.config.routing import LastLayers, LoraConfig
from haps_search.lora.spec import resolve
from haps_search.types import Adapter, AdapterLayout, Message, SampleRequest, Sampling

AFTER = {"bloom": ("dense",)}
TEXTS = ["hello", "hello", "a rather longer prompt", "x", "hello", "frozen"]


@pytest.fixture(scope="module", params=["llama", "gemma3_text", "mistral-sliding", "bloom"])
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    torch.set_num_threads(1)
    return request.param, build_family(tmp_path_factory.mktemp(request.param), request.param)


def load(folder: Path, cache_gb: float, suffix: bool = True) -> FrozenLM:
    config = CandidateConfig(
        name="lm", source=PathSource(path=str(folder)), dtype="float64", device="cpu",
        prompt_cache_gb=cache_gb, suffix_replay=suffix,
    )  # fmt: skip
    return FrozenLM.load(config)


def layout_of(name: str, lm: FrozenLM, layers: int) -> AdapterLayout:
    return resolve(LoraConfig(rank=2, targets=AFTER.get(name, ("o_proj",)), layers=LastLayers(last=layers)), lm.table)


def requests(layout: AdapterLayout, seed: int, texts: list[str] = TEXTS) -> list[SampleRequest]:
    """Two episodes under one adapter, the same prompt under another, and a row without an adapter."""
    generator = torch.Generator().manual_seed(seed)
    adapters = [
        Adapter(layout, 0.3 * torch.randn(layout.size, generator=generator, dtype=torch.float64)) for _ in texts
    ]
    owners = [adapters[0], adapters[0], *adapters[2:-1], None]
    return [
        SampleRequest((Message("user", text),), Sampling(3 + i, 0.9, seed=i), adapter)
        for i, (text, adapter) in enumerate(zip(texts, owners, strict=True))
    ]


@pytest.mark.parametrize("layers", [1, 2])
def test_what_is_said_is_the_same_whether_prompts_are_known_or_not(family: tuple[str, Path], layers: int) -> None:
    name, folder = family
    plain, keeping, whole = load(folder, 0.0), load(folder, 0.1), load(folder, 0.0, suffix=False)
    layout = layout_of(name, plain, layers)
    for seed in (1, 2):  # other adapters, as of another step or trial
        # In the second round some prompts are known and one is not.
        asked = requests(layout, seed, TEXTS if seed == 1 else ["hello", "hello", "y", "x", TEXTS[2], "frozen"])
        found, wanted = sampled_and_scored(keeping, asked), sampled_and_scored(whole, asked)
        same(found, wanted)
        same(sampled_and_scored(plain, asked), wanted)
        assert [said.sampled.prompt_known for said in found] == [
            seed == 2 and r.messages[0].content != "y" for r in asked
        ]


def prompts_in(states: torch.Tensor) -> int:
    packing = packed_now()
    return len(states) if packing is None else len(packing.lengths)


def test_prompts_that_are_known_pass_no_lower_layer_again(family: tuple[str, Path]) -> None:
    name, folder = family
    lm = load(folder, 0.1)
    layers = lm._decoder.layers
    assert layers is not None
    passed: list[tuple[int, int]] = []  # layer, rows of a pass over prompts
    for number in (0, 2):
        layers[number].register_forward_hook(
            lambda m, args, out, number=number: (
                passed.append((number, prompts_in(args[0]))) if args[0].shape[1] > 1 else None
            )
        )
    layout = layout_of(name, lm, 1)
    asked = requests(layout, 1)
    lm.sample(asked)
    assert passed == [(0, 4), (2, 5)], "below once per prompt, above once per prompt and adapter"
    passed.clear()
    lm.sample(asked)
    assert passed == [(2, 5)]


def below(tokens: int) -> Below:
    """16 bytes a token."""
    states = torch.zeros(tokens, 2, dtype=torch.float32)
    return Below(states, ((torch.zeros(1, tokens, 1), torch.zeros(1, tokens, 1)),))


def test_the_least_recently_used_leaves_first_and_the_budget_is_kept() -> None:
    cache = PromptCache(budget=48)
    keys = [(1, (number,)) for number in range(4)]
    for key in keys[:3]:
        cache.put(key, below(1))
    assert cache.get(keys[0]) is not None
    cache.put(keys[3], below(1))
    assert [cache.get(key) is not None for key in keys] == [True, False, True, True]
    cache.put(keys[3], below(2))
    assert cache.size == 48
    assert [cache.get(key) is not None for key in keys] == [False, False, True, True]
    cache.put(keys[0], below(4))
    assert cache.get(keys[0]) is None
    cache.clear()
    assert (cache.size, cache.get(keys[2])) == (0, None)


def test_another_first_patched_layer_is_another_entry(family: tuple[str, Path]) -> None:
    name, folder = family
    lm = load(folder, 0.1)
    for layers in (1, 2):
        assert not any(r.prompt_known for r in lm.sample(requests(layout_of(name, lm, layers), 1)))
