"""Decoding in tensors of one shape says what decoding in growing ones says. Here without a graph, on a CPU."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from families import build_family
from verbs import same, sampled_and_scored

from haps_search.candidates import fixed as fixed_module
from haps_search.candidates import sample as sample_module
from haps_search.candidates.frozen_lm import FrozenLM
from haps_search.config.candidates import CandidateConfig, PathSource
from haps_search.config.routing import LoraConfig
from haps_search.lora import stacks
from haps_search.lora.spec import resolve
from haps_search.types import Adapter, Message, SampleRequest, Sampling

SPECS = [LoraConfig(rank=2), LoraConfig(rank=3, targets=("k_proj", "down_proj"), layers=(1,))]


@pytest.fixture(scope="module", params=["llama", "qwen3", "phi"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return build_family(tmp_path_factory.mktemp(request.param), request.param)


def load(folder: Path, **how: object) -> FrozenLM:
    source = PathSource(path=str(folder))
    return FrozenLM.load(CandidateConfig(name="lm", source=source, dtype="float64", device="cpu", **how))  # type: ignore[arg-type]


def requests(lm: FrozenLM, texts: list[str], seed: int, steps: int = 6) -> list[SampleRequest]:
    """Two ranks and sets of modules in one batch, early stops, a row without an adapter."""
    names = {m.name.rsplit(".", 1)[-1] for m in lm.table.modules}
    specs = SPECS if "o_proj" in names else [LoraConfig(rank=2, targets=("dense",)), LoraConfig(targets=("k_proj",))]
    layouts = [resolve(spec, lm.table) for spec in specs]
    draw = torch.Generator().manual_seed(seed)
    asked = []
    for row, text in enumerate(texts):
        layout = layouts[row % 2]
        adapter = Adapter(layout, 0.3 * torch.randn(layout.size, generator=draw, dtype=torch.float64))
        learns = row != len(texts) - 1
        sampling = Sampling(steps + row, 0.9, seed=row)
        asked.append(SampleRequest((Message("user", text),), sampling, adapter if learns else None))
    return asked


def same_decoding(fixed: FrozenLM, grown: FrozenLM, asked: list[SampleRequest]) -> None:
    found, wanted = sampled_and_scored(fixed, asked), sampled_and_scored(grown, asked)
    assert len({said.sampled.token_ids for said in wanted}) > 2
    same(found, wanted)


def test_static_decoding_is_eager_decoding(folder: Path) -> None:
    fixed, grown = load(folder, decode="static"), load(folder, decode="eager")
    assert fixed._decoder.plans is not None
    assert grown._decoder.plans is None
    long = ["a question of some length " * 3, "short", "x", "the last one"]
    batches = [long, ["hello", "x", "why", "frozen"], ["other words", "y", "so", "z"], ["one", "more", "word"]]
    for seed, texts in enumerate(batches):
        asked = requests(fixed, texts, seed)
        same_decoding(fixed, grown, asked)
    # The third batch found the plan of the second, with its keys, values and adapters still in it.
    assert len(fixed._decoder.plans._plans) == 2


def test_batches_of_up_to_a_power_of_two_rows_share_a_plan_and_all_plans_their_memory(folder: Path) -> None:
    fixed, grown = load(folder, decode="static"), load(folder, decode="eager")
    plans = fixed._decoder.plans
    assert plans is not None
    texts = ["a question of some length " * 3, *["hello", "x", "why", "frozen", "so", "z"]]
    one, *_ = (request.adapter for request in requests(fixed, texts, 0))

    def decoded(count: int, start: int) -> None:
        asked = [replace(r, adapter=one) for r in requests(fixed, texts, count)[start : start + count]]
        same(sampled_and_scored(fixed, asked, kl=False), sampled_and_scored(grown, asked, kl=False))

    decoded(7, 0)
    (plan,) = plans._plans.values()
    for layer in plan._cache.layers:
        layer.keys.fill_(torch.nan)
        layer.values.fill_(torch.nan)
    decoded(5, 0)
    assert list(plans._plans.values()) == [plan], "five rows are what seven are"
    decoded(3, 1)
    decoded(1, 1)
    assert len(plans._plans) == 3
    held = {
        tensor.untyped_storage().data_ptr()
        for each in plans._plans.values()
        for layer in each._cache.layers
        for tensor in (layer.keys, layer.values)
    }
    assert len(held) == 2 * len(plan._cache.layers)


def test_episodes_that_share_adapters_decode_the_same_in_groups(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two batches in one plan, whose rows are grouped otherwise."""
    fixed, grown = load(folder, decode="static"), load(folder, decode="eager")
    texts = ["hello", "x", "why", "frozen", "so"]
    one, _, other, *_ = (request.adapter for request in requests(fixed, texts, 0))
    batches = [(one, other, one, other, one), (one, one, other, other, one)]
    asked = [
        [replace(r, adapter=own) for r, own in zip(requests(fixed, texts, 0), owners, strict=True)]
        for owners in batches
    ]
    copied = [sampled_and_scored(grown, each) for each in asked]
    monkeypatch.setattr(stacks, "SMALL", 0)
    for each, wanted in zip(asked, copied, strict=True):
        same(sampled_and_scored(fixed, each), wanted)
        same(sampled_and_scored(grown, each), wanted)
    assert fixed._decoder.plans is not None
    assert len(fixed._decoder.plans._plans) == 1


def test_what_a_batch_left_in_a_plan_does_not_reach_the_next(folder: Path) -> None:
    fixed, grown = load(folder, decode="static"), load(folder, decode="eager")
    asked = requests(fixed, ["hello", "x", "why", "frozen"], 0)
    sampled_and_scored(fixed, asked)
    assert fixed._decoder.plans is not None
    (plan,) = fixed._decoder.plans._plans.values()
    assert plan._kept is None, "states of a batch that has ended are held"
    for layer in plan._cache.layers:
        layer.keys.fill_(torch.nan)
        layer.values.fill_(torch.nan)
    same_decoding(fixed, grown, asked)


def test_no_more_is_fed_than_a_plan_has_room_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose text has ended is seen late on a GPU; the longest text ends all the same."""
    monkeypatch.setitem(sample_module.UNSEEN, "cpu", 8)
    fixed, grown = load(folder, decode="static"), load(folder, decode="eager")
    steps, around = 41, len(fixed._prompts([(Message("user", "x"),)])[0]) - 1
    text = "x" * (-(around + steps + 2) % fixed_module.WIDTH)
    asked = [SampleRequest((Message("user", text),), Sampling(steps, 0.9, seed=seed)) for seed in range(3)]
    assert [s.token_ids for s in fixed.sample(asked)] == [s.token_ids for s in grown.sample(asked)]
    assert max(len(s.token_ids) for s in fixed.sample(asked)) == steps, "none was as long as its room"


def test_shapes_that_were_not_used_lately_leave(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fixed_module, "PLANS", 3)
    fixed = load(folder, decode="static")
    plans = fixed._decoder.plans
    assert plans is not None
    for rows in (16, 8, 4, 2, 1):
        fixed.sample(requests(fixed, ["hello"] * rows, 0))
    assert [rows for rows, *_ in plans._plans] == [4, 2, 1]
    fixed.sample(requests(fixed, ["hello"] * 17, 0))
    assert [rows for rows, *_ in plans._plans] == [32], "they had their keys in memory that is too small"
    fixed._decoder.clear()
    assert not plans._plans


def test_a_model_with_sliding_windows_decodes_eagerly_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert load(build_family(tmp_path, "gemma3_text"), decode="static")._decoder.plans is None
    assert "decodes eagerly" in caplog.text
    assert load(tmp_path, decode="auto")._decoder.plans is None
