"""Replaying the patched layers only gives what a full second pass gives, family by family."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from families import AFTER, FAMILIES, build_family
from verbs import same, sampled_and_scored

from haps_search.candidates import reuse, sample
from haps_search.candidates.decode import _Growing
from haps_search.candidates.frozen_lm import FrozenLM
from haps_search.candidates.suffix import Replay, decoder_layers
from haps_search.config.candidates import CandidateConfig, PathSource
from haps_search.config.routing import LastLayers, LoraConfig
from haps_search.lora.spec import resolve
from haps_search.types import Adapter, AdapterLayout, Message, SampleRequest, Sampling

KEYS = {"bloom": ("query_key_value",)}
LAYERS: list[Any] = [LastLayers(last=1), LastLayers(last=2), "all"]


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    return request.param, build_family(tmp_path_factory.mktemp(request.param), request.param)


def load(folder: Path, suffix: bool) -> FrozenLM:
    source = PathSource(path=str(folder))
    return FrozenLM.load(CandidateConfig(name="lm", source=source, dtype="float64", device="cpu", suffix_replay=suffix))


def requests(layout: AdapterLayout) -> list[SampleRequest]:
    """Ragged prompts, two episodes of one question, a row without an adapter, early stops by length."""
    generator = torch.Generator().manual_seed(1)
    adapters = [
        Adapter(layout, 0.1 * torch.randn(layout.size, generator=generator, dtype=torch.float64)) for _ in range(4)
    ]
    texts = ["hello", "hello", "a longer prompt", "x", "frozen"]
    owners = [adapters[0], adapters[0], adapters[1], adapters[2], None]
    return [
        SampleRequest((Message("user", text),), Sampling(3 + 2 * i, 0.9, seed=i), adapter)
        for i, (text, adapter) in enumerate(zip(texts, owners, strict=True))
    ]


@pytest.mark.parametrize("layers", LAYERS, ids=lambda x: x if isinstance(x, str) else f"last{x.last}")
@pytest.mark.parametrize("targets", [("o_proj", "down_proj"), ("k_proj", "q_proj")], ids=["after", "keys"])
def test_suffix_replay_equals_the_full_second_pass(
    family: tuple[str, Path], layers: Any, targets: tuple[str, ...]
) -> None:
    name, folder = family
    targets = (AFTER if "o_proj" in targets else KEYS).get(name, targets)
    suffix, whole = load(folder, suffix=True), load(folder, suffix=False)
    layout = resolve(LoraConfig(rank=2, targets=targets, layers=layers), suffix.table)
    found, wanted = (sampled_and_scored(lm, requests(layout)) for lm in (suffix, whole))
    assert [a.sampled for a in found] == [b.sampled for b in wanted]
    same(found, wanted)


@pytest.mark.parametrize("layers", [1, 3])
def test_of_many_layers_that_give_tuples_most_are_left_out(layers: int, tmp_path: Path) -> None:
    """Whoever takes the first of a bare tensor takes a row, then a position, then a number, and only then fails."""
    folder = build_family(tmp_path, "bloom", layers=6)
    suffix, whole = load(folder, suffix=True), load(folder, suffix=False)
    assert decoder_layers(suffix._lm.model) is not None
    layout = resolve(LoraConfig(rank=2, targets=AFTER["bloom"], layers=LastLayers(last=layers)), suffix.table)
    found, wanted = (sampled_and_scored(lm, requests(layout)) for lm in (suffix, whole))
    same(found, wanted)


@pytest.mark.parametrize("targets", [("o_proj", "down_proj"), ("k_proj", "q_proj")], ids=["after", "keys"])
def test_rows_that_leave_early_change_nothing(
    family: tuple[str, Path], targets: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    name, folder = family
    targets = (AFTER if "o_proj" in targets else KEYS).get(name, targets)
    lm = load(folder, suffix=True)
    layout = resolve(LoraConfig(rank=2, targets=targets, layers=LastLayers(last=1)), lm.table)
    left: list[int] = []
    keep = _Growing.keep
    monkeypatch.setattr(_Growing, "keep", lambda self, rows: left.append(int(rows.sum())) or keep(self, rows))
    leaving = sampled_and_scored(lm, requests(layout))
    assert left == [3, 2, 1]
    monkeypatch.setattr(sample, "SHRINK", 0.0)
    staying = sampled_and_scored(lm, requests(layout))
    assert len(left) == 3
    same(leaving, staying)


def test_leaving_prompt_positions_out_would_be_wrong_where_keys_are_patched(
    family: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rule in `tail_suffices` carries weight: break it, and the gradients differ by far."""
    name, folder = family
    if "sliding" in name or name == "gemma3_text":
        pytest.skip("the window has moved on, so the tail cannot be replayed at all")
    suffix, whole = load(folder, suffix=True), load(folder, suffix=False)
    layout = resolve(LoraConfig(rank=2, targets=KEYS.get(name, ("k_proj",))), suffix.table)
    monkeypatch.setattr(reuse, "tail_suffices", lambda targets, layers: True)
    a, b = (sampled_and_scored(lm, requests(layout))[2] for lm in (suffix, whole))
    assert a.gradient is not None
    assert b.gradient is not None
    assert float((a.gradient - b.gradient).norm() / b.gradient.norm()) > 0.05


def test_the_model_is_left_as_it_was(family: tuple[str, Path]) -> None:
    name, folder = family
    lm = load(folder, suffix=True)
    before = [id(module) for module in lm._lm.model.modules()]
    layout = resolve(LoraConfig(rank=2, targets=AFTER.get(name, ("o_proj",))), lm.table)
    sampled_and_scored(lm, requests(layout))
    assert [id(module) for module in lm._lm.model.modules()] == before
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in lm._lm.model.modules())


def test_an_unrecognised_stack_is_replayed_whole_and_said_once(
    family: tuple[str, Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    _, folder = family
    model = load(folder, suffix=True)._lm.model
    assert decoder_layers(model) is not None
    monkeypatch.setattr(model.config, model.config.attribute_map.get("num_hidden_layers", "num_hidden_layers"), 4)
    assert decoder_layers(model) is None
    assert "gradients replay the whole model" in caplog.text


def test_a_stack_whose_replay_gives_other_logits_is_replayed_whole(
    family: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Were states to enter by the embeddings, as in a model that scales these, the probe would notice."""
    _, folder = family
    model = load(folder, suffix=True)._lm.model
    right = Replay.hidden
    monkeypatch.setattr(Replay, "hidden", lambda self: 1.5 * right(self))
    assert decoder_layers(model) is None


def test_episodes_of_a_question_read_its_prompt_once(family: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    _, folder = family
    lm = load(folder, suffix=True)
    read: list[int] = []
    embed = lm._lm.model.get_input_embeddings()
    embed.register_forward_hook(lambda m, args, out: read.append(args[0].numel()) if args[0].shape[1] > 1 else None)
    asked = SampleRequest((Message("user", "the same prompt"),), Sampling(2, 1.0, seed=0))
    lm.sample([asked] * 6)
    assert read == [len("the same prompt")]
