"""Packed prefill is padded prefill, and texts that share a prompt's keys and values say what they would with copies."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from families import build_family
from torch.testing import assert_close
from transformers import AttentionInterface, AutoModelForCausalLM, DynamicCache
from transformers.cache_utils import DynamicSlidingWindowLayer
from verbs import same, sampled_and_scored

from haps_search.candidates import lying, row_attention
from haps_search.candidates.activations import Kept, keeping
from haps_search.candidates.fixed import FixedPlan
from haps_search.candidates.frozen_lm import FrozenLM
from haps_search.candidates.lying import ByRows, by_rows
from haps_search.candidates.prefill import prefill
from haps_search.candidates.row_attention import SharedLayer
from haps_search.config.candidates import CandidateConfig, PathSource
from haps_search.config.routing import LoraConfig
from haps_search.lora.spec import resolve
from haps_search.types import Adapter, Message, SampleRequest, Sampling

FAMILIES = ["llama", "gemma3_text", "mistral-late", "phi", "opt"]
"""All heads alike and not, windows that have moved on in the prompt and that do later (there nothing is shared, as all
layers have one), projections of other names."""
CPU = torch.device("cpu")
LENGTHS = [5, 23, 9, 9, 1, 14]


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return build_family(tmp_path_factory.mktemp(request.param), request.param)


def load(folder: Path, **how: Any) -> FrozenLM:
    source = PathSource(path=str(folder))
    return FrozenLM.load(CandidateConfig(name="lm", source=source, dtype="float64", device="cpu", **how))


def adapters(lm: FrozenLM, layers: tuple[int, ...], count: int) -> list[Adapter]:
    modules = tuple({m.name.rsplit(".", 1)[-1] for m in lm.table.modules} & {"k_proj", "down_proj", "fc2", "dense"})
    layout = resolve(LoraConfig(rank=2, targets=modules, layers=layers), lm.table)
    draw = torch.Generator().manual_seed(0)
    return [Adapter(layout, 0.3 * torch.randn(layout.size, generator=draw, dtype=torch.float64)) for _ in range(count)]


@pytest.mark.parametrize("layers", [(2,), (1, 2), (0, 2)], ids=str)
def test_packed_prompts_are_read_as_padded_ones(
    folder: Path, layers: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = load(folder)
    decoder = lm._decoder
    assert decoder.attends.packs
    assert decoder.layers is not None
    draw = torch.Generator().manual_seed(1)
    prompts = [tuple(torch.randint(3, 200, (length,), generator=draw).tolist()) for length in LENGTHS]
    prompts.append(prompts[1])
    one, two, three = adapters(lm, layers, 3)
    under = [one, two, one, None, three, two, two]
    passed: list[int] = []
    read = []
    with decoder.layers[0].register_forward_hook(lambda m, args, out: passed.append(args[0].shape[:2].numel())):
        for share in (0.0, 1.0):
            monkeypatch.setattr(lying, "PACKED_UNDER", share)
            kept = Kept(first=2)
            kept.reads(range(len(prompts)))
            with torch.no_grad(), keeping(decoder.layers, kept):
                found = prefill(decoder, prompts, under, kept)
            tails = [False] * len(prompts)
            read.append((found, kept.activations(range(len(prompts)), prompts, [(1,)] * len(prompts), tails)))
    (padded, beside), (packed, after) = read
    distinct, live = len(LENGTHS), sum(LENGTHS)
    assert passed == [distinct * max(LENGTHS), live], "each prompt once, and in one of the two no padding"
    assert torch.equal(packed.mask, padded.mask)
    assert_close(packed.logits, padded.logits, rtol=0, atol=1e-9)
    for one_layer, other in zip(packed.cache.layers, padded.cache.layers, strict=True):
        for kind in ("keys", "values"):
            columns = padded.mask[:, -getattr(other, kind).shape[-2] :]
            found_at, wanted_at = (getattr(each, kind).transpose(1, 2)[columns] for each in (one_layer, other))
            assert_close(found_at, wanted_at, rtol=0, atol=1e-9)
    for found_one, wanted_one in zip(after, beside, strict=True):
        assert_close(found_one.tensors, wanted_one.tensors, rtol=0, atol=1e-9)


def requests(lm: FrozenLM, count: int = 10) -> list[SampleRequest]:
    """Three questions, whose rows stand in no order; texts end one after the other."""
    texts = ["what is it that we ask here", "a short one", "and the third question, which is longer than the others"]
    under = [*adapters(lm, (1, 2), 2), None]
    order = [0, 2, 0, 1, 1, 2, 0, 0, 2, 0][:count]
    return [
        SampleRequest((Message("user", texts[which]),), Sampling(2 + 2 * row, 0.9, row), under[which])
        for row, which in enumerate(order)
    ]


@pytest.mark.parametrize("how", [{}, {"batch_rows": 4}, {"decode": "static"}], ids=["eager", "joining", "static"])
def test_rows_that_share_their_prompt_say_what_they_would_with_copies(
    folder: Path, how: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = load(folder, **how)
    assert lm._decoder.attends.shares
    asked, seen = requests(lm), list[tuple[int, int]]()
    attention = SharedLayer.attention

    def noted(layer: SharedLayer, query: Any, *given: Any) -> Any:
        seen.append((len(query), layer.prompts))
        return attention(layer, query, *given)

    monkeypatch.setattr(SharedLayer, "attention", noted)
    start, placed = FixedPlan.start, list[bool]()

    def begun(plan: FixedPlan, read: Any, *given: Any) -> None:
        placed.extend(isinstance(layer, SharedLayer) for layer in read.cache.layers)
        start(plan, read, *given)

    monkeypatch.setattr(FixedPlan, "start", begun)
    monkeypatch.setattr(row_attention, "SHARED_FROM", math.inf)
    wanted = sampled_and_scored(lm, asked)
    assert not seen
    assert not any(placed)
    lm._clear()
    monkeypatch.setattr(row_attention, "SHARED_FROM", 0)
    same(sampled_and_scored(lm, asked), wanted)
    every_window = all(
        type(layer) is DynamicSlidingWindowLayer for layer in DynamicCache(config=lm._lm.model.config).layers
    )
    if lm._decoder.plans is not None:
        assert any(placed)
    elif not every_window:
        assert seen
        assert all(prompts <= 3 for _, prompts in seen)
        assert len({rows for rows, _ in seen}) > 2, "rows have left"
    if not how and not every_window:
        assert seen[0] == (10, 3)
        assert seen[-1][1] == 1, "whose rows have all left is there no more"


def test_a_family_with_attention_of_its_own_keeps_it(tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(build_family(tmp_path, "bloom"))
    before = model.config._attn_implementation
    assert by_rows(model, 0) == ByRows(packs=False, shares=False)
    assert model.config._attn_implementation == before


@pytest.fixture
def restored() -> Iterator[None]:
    """What a test registers for all models is gone after it."""
    yield
    AttentionInterface.register(row_attention.NAME, row_attention._attention)


@pytest.mark.usefixtures("restored")
def test_a_window_that_attention_is_not_told_of_is_not_packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = AutoModelForCausalLM.from_pretrained(build_family(tmp_path, "gemma3_text"))
    attention = row_attention._attention

    def untold(*given: Any, **kwargs: Any) -> Any:
        return attention(*given, **{**kwargs, "sliding_window": None})

    with monkeypatch.context() as patch:
        patch.setattr(row_attention, "_attention", untold)
        assert by_rows(model, 0) == ByRows(packs=False, shares=True)


class Stumbles(Exception):
    """Nothing that anybody expects."""


@pytest.mark.usefixtures("restored")
@pytest.mark.parametrize("wrong", [Stumbles("so"), NotImplementedError("s_aux"), None], ids=str)
def test_a_family_that_stumbles_or_computes_something_else_keeps_its_attention(
    wrong: Exception | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = AutoModelForCausalLM.from_pretrained(build_family(tmp_path, "llama"))
    attention, sdpa = row_attention._attention, row_attention.sdpa_attention_forward

    def other(module: Any, query: Any, key: Any, *given: Any, **kwargs: Any) -> Any:
        of = attention if row_attention.packed_now() or key.shape[2] < 3 else sdpa
        if of is sdpa:
            return sdpa(module, query, key, *given, **kwargs)
        if wrong is not None:
            raise wrong
        return attention(module, 2.0 * query, key, *given, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(row_attention, "_attention", other)
        assert by_rows(model, 0) == ByRows(packs=False, shares=False)
    assert model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("name", row_attention._FOREIGN)
def test_what_is_added_to_attention_is_left_to_who_adds_it(name: str) -> None:
    query = torch.zeros(1, 2, 3, 4)
    with row_attention.packed(row_attention.Packing.of([3], CPU)), pytest.raises(NotImplementedError, match=name):
        row_attention._attention(torch.nn.Module(), query, query, query, None, **{name: 1.0})


def test_a_mask_that_a_model_made_itself_is_not_packed_over() -> None:
    query, mask = torch.zeros(1, 2, 3, 4), torch.ones(1, 1, 3, 3, dtype=torch.bool)
    with row_attention.packed(row_attention.Packing.of([3], CPU)), pytest.raises(NotImplementedError, match="mask"):
        row_attention._attention(torch.nn.Module(), query, query, query, mask)


def test_sixteen_bits_are_told_from_a_mistake(tmp_path: Path) -> None:
    folder = build_family(tmp_path, "llama", layers=8)
    for dtype in (torch.bfloat16, torch.float16):
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
        assert by_rows(model, 0) == ByRows(packs=True, shares=False)


@pytest.mark.parametrize("rows", [(3, 3, 3), (20, 1, 1, 1)], ids=["even", "uneven"])
def test_however_rows_are_spread_over_prompts(rows: tuple[int, ...]) -> None:
    draw = torch.Generator().manual_seed(0)
    owners = [owner for owner, count in enumerate(rows) for _ in range(count)]
    order = torch.randperm(len(owners), generator=draw).tolist()
    owners = [owners[place] for place in order]

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    keys, values = drawn(len(rows), 2, 5, 64), drawn(len(rows), 2, 5, 6)
    own_keys, own_values, query = (
        drawn(len(owners), 2, 1, 64),
        drawn(len(owners), 2, 1, 6),
        drawn(len(owners), 4, 1, 64),
    )
    layer = SharedLayer(keys, values, owners)
    found = layer.attention(query, layer.update(own_keys, own_values)[1], None, 64**-0.5)
    every = [
        torch.cat([part[owners], own], 2).repeat_interleave(2, 1)
        for part, own in ((keys, own_keys), (values, own_values))
    ]
    wanted = torch.nn.functional.scaled_dot_product_attention(query, *every)
    assert_close(found, wanted.transpose(1, 2), rtol=0, atol=1e-9)
