"""What is stored of references gives the same scores as the whole model, is computed once, and outlives its process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from experiments import tiny_experiment
from families import AFTER, FAMILIES, build_family
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from haps_search.candidates import stored
from haps_search.candidates.activation_store import ActivationStore, _size, weights_digest
from haps_search.candidates.activations import Activations
from haps_search.candidates.exact import exact
from haps_search.candidates.frozen_lm import FrozenLM
from haps_search.config.candidates import CandidateConfig, PathSource
from haps_search.config.routing import LastLayers, LoraConfig, RoutingConfig
from haps_search.engines.placement.memory import stored_bytes
from haps_search.evaluation.flops import Shape, Tokens, reference_flops
from haps_search.lora.adapter import matrices
from haps_search.lora.spec import resolve
from haps_search.types import Adapter, GivenCompletion, Message, ScoreRequest, Scores

ATTENDED = (
    "llama",
    "qwen2",
    "qwen3",
    "mistral",
    "mistral-sliding",
    "mistral-late",
    "gemma3_text",
    "phi",
    "granite",
    "opt",
)
"""Families whose last attention can be left out; bloom adds to the residual stream inside of it."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: build_family(tmp_path_factory.mktemp(name), name) for name in FAMILIES}


def lm_config(folder: Path, **how: Any) -> CandidateConfig:
    return CandidateConfig(name="lm", source=PathSource(path=str(folder)), dtype="float64", device="cpu", **how)


def load(folder: Path, **how: Any) -> FrozenLM:
    return FrozenLM.load(lm_config(folder, **how))


def under(lm: FrozenLM, config: LoraConfig, seed: int = 0) -> Adapter:
    layout = resolve(config, lm.table)
    draw = torch.Generator().manual_seed(seed)
    return Adapter(layout, 0.2 * torch.randn(layout.size, generator=draw, dtype=torch.float64))


def references(adapter: Adapter, keep: bool = True, asked: bool = True) -> list[ScoreRequest]:
    texts = {"why": ("so",), "a longer question than that": ("a longer answer", "x"), "x": ("",)}
    return [
        ScoreRequest(
            tuple(GivenCompletion((Message("user", q),), a, -0.3 * asked) for a in answers),
            adapter,
            keep=keep,
            match=asked,
        )
        for q, answers in texts.items()
    ]


def same(found: Scores, wanted: Scores) -> None:
    assert any(g is not None and float(g.norm()) > 1e-4 for g in wanted.gradients)
    for a, b in zip(found.gradients, wanted.gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
    for one, other in zip(found.completions, wanted.completions, strict=True):
        for x, y in zip(one, other, strict=True):
            assert x is not None
            assert y is not None
            assert x.log_probabilities == pytest.approx(y.log_probabilities, abs=1e-9)
            assert x.match == y.match


def placements(family: str) -> dict[str, LoraConfig]:
    output, last = AFTER.get(family, ("o_proj", "down_proj"))
    return {
        "output": LoraConfig(rank=2, targets=(output,)),
        "after": LoraConfig(rank=2, targets=(output, last)),
        "queries": LoraConfig(rank=2, targets=("query_key_value" if family == "bloom" else "q_proj",)),
        "two layers": LoraConfig(rank=1, targets=(output, last), layers=LastLayers(last=2)),
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_stored_activations_score_as_the_whole_model(folders: dict[str, Path], family: str) -> None:
    whole, lm = load(folders[family], suffix_replay=False), load(folders[family])
    assert (lm._decoder.attention is not None) == (family in ATTENDED)
    for name, config in placements(family).items():
        adapter = under(lm, config)
        wanted = whole.score(references(adapter, keep=False))
        for _ in range(2):
            same(lm.score(references(adapter)), wanted)
        kinds = {kind for kind, _ in lm._store._held}
        assert ("2-attended" in kinds) == (family in ATTENDED), name


def test_what_is_stored_is_what_the_placement_needs(folders: dict[str, Path]) -> None:
    """The last layer's o_proj: per position of the answer what enters it and the residual, and nothing of prompts."""
    lm = load(folders["llama"])
    for name, kind, numbers in (
        ("output", "2-attended", {"prompt": (1, 32), "attended": (3, 32)}),
        ("queries", "2-past", {"prompt": (1, 32), "keys": (2, 2, 8), "values": (2, 2, 8)}),
        ("two layers", "1-states", {"prompt": (3, 32)}),
    ):
        lm.score(references(under(lm, placements("llama")[name])))
        held = {k: e for (found, k), e in lm._store._held.items() if found == kind}
        shortest = min(held.values(), key=lambda e: (len(e.text) != 2, e.prompt_tokens))
        assert {n: tuple(t.shape) for n, t in shortest.tensors.items()} == numbers | {"text": (2, 32)}


def test_the_plan_counts_what_is_stored(folders: dict[str, Path]) -> None:
    lm = load(folders["llama"])
    for name in ("output", "queries", "two layers"):
        lm._store.clear()
        config = placements("llama")[name]
        lm.score([references(under(lm, config))[1]])
        prompt, answer = ("a longer question than that", "a longer answer")
        tokens = (len(lm._lm.tokenizer(text)["input_ids"]) for text in (prompt, answer))
        size = max(_size(entered) for entered in lm._store._held.values())
        planned = stored_bytes(lm._lm.model, lm.table, RoutingConfig(lora=config), next(tokens), next(tokens) + 1)
        assert size == planned, name


class Counted:
    """How many rows were computed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rows, computed = 0, stored._computed

        def counted(decoder: Any, wanted: Any, rows: Sequence[Any]) -> list[Activations]:
            self.rows += len(rows)
            return computed(decoder, wanted, rows)

        monkeypatch.setattr(stored, "_computed", counted)


def test_eight_trials_and_a_later_process_read_once(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HAPS_CACHE", str(tmp_path))
    counted, lm = Counted(monkeypatch), load(folders["llama"])
    adapters = [under(lm, placements("llama")["output"], seed) for seed in range(8)]
    together = [request for adapter in adapters for request in references(adapter)]
    reading = lm.score([replace(r, match=False) for r in references(adapters[0], asked=False)])
    assert counted.rows == 4
    assert reading.completions == ((None,), (None, None), (None,)), "nothing is asked but that it be read"
    first = lm.score(together)
    again = load(folders["llama"], stored_gb=0).score(together)
    assert counted.rows == 4
    same(again, first)
    assert again.completions == first.completions, "to the last bit"


def test_what_a_lower_placement_stored_serves_the_higher_ones(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HAPS_CACHE", str(tmp_path))
    counted, lm, whole = (
        Counted(monkeypatch),
        load(folders["gemma3_text"]),
        load(folders["gemma3_text"], suffix_replay=False),
    )
    lm.score(references(under(lm, placements("gemma3_text")["two layers"])))
    assert counted.rows == 4
    for name in ("output", "after", "everything"):
        config = placements("gemma3_text").get(name) or LoraConfig(rank=2, targets=("k_proj", "o_proj"))
        adapter = under(lm, config)
        same(lm.score(references(adapter)), whole.score(references(adapter, keep=False)))
    assert counted.rows == 4, "nothing was read again"
    assert {kind for kind, _ in lm._store._held} == {"1-states", "2-attended", "2-states"}


def test_without_disk_and_memory_it_is_computed_each_time(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    counted, lm = Counted(monkeypatch), load(folders["llama"], stored_gb=0, stored_disk_gb=0)
    asked = references(under(lm, placements("llama")["output"]))
    same(lm.score(asked), lm.score(asked))
    assert counted.rows == 8


def test_other_weights_and_another_precision_are_stored_apart(folders: dict[str, Path], tmp_path: Path) -> None:
    one, same_again = (load(folders["llama"])._lm.model for _ in range(2))
    other, half = load(folders["mistral"])._lm.model, load(folders["llama"])._lm.model.float()
    assert weights_digest(one) == weights_digest(same_again)
    assert len({weights_digest(m) for m in (one, other, half)}) == 3
    with torch.no_grad():
        same_again.model.layers[0].mlp.up_proj.weight[3, 5] += 1e-9
    assert weights_digest(one) != weights_digest(same_again)


# Fewer words than the vocabulary has.


def over_fewer_words(adapter: Adapter, count: int) -> list[ScoreRequest]:
    return [replace(request, shortlist=count) for request in references(adapter)]


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "granite"])
def test_a_shortlist_of_all_words_is_the_vocabulary(folders: dict[str, Path], family: str) -> None:
    lm = load(folders[family])
    adapter = under(lm, placements(family)["after"])
    assert lm._decoder.head.narrows
    same(lm.score(over_fewer_words(adapter, lm._decoder.head.width)), lm.score(references(adapter)))


def test_a_shortlist_is_a_softmax_over_each_rows_own_words(folders: dict[str, Path]) -> None:
    """By hand from the whole vocabulary's logits, gradient included; and whoever shares the batch."""
    lm = load(folders["llama"])
    model, ids = lm._lm.model, lm._lm.tokenizer
    before = [id(module) for module in model.modules()]
    adapter = under(lm, placements("llama")["output"])
    together = lm.score(over_fewer_words(adapter, 3))
    (target,), values = adapter.layout.targets, adapter.values.clone().requires_grad_()
    ((a, b),) = matrices(adapter.layout, values)
    merged = {f"{target.name}.weight": model.get_submodule(target.name).weight + adapter.layout.scaling * b @ a}
    total, found = torch.zeros((), dtype=torch.float64), []
    for request in references(adapter):
        for given in request.completions:
            prompt = ids(given.messages[0].content)["input_ids"]
            said = [*ids(given.completion)["input_ids"], ids.eos_token_id]
            inputs = {"input_ids": torch.tensor([[*prompt, *said]])}
            with exact(torch.float64):
                frozen = model(**inputs).logits[0, len(prompt) - 1 : -1]
                logits = functional_call(model, merged, kwargs=inputs).logits[0, len(prompt) - 1 : -1]
            words = {*said, *lm._decoder.stop_ids, *frozen.topk(3, -1).indices.flatten().tolist()}
            other = torch.tensor([word not in words for word in range(logits.shape[-1])])
            log_p = logits.masked_fill(other, float("-inf")).log_softmax(-1)
            log_p = log_p.gather(-1, torch.tensor(said).unsqueeze(-1)).squeeze(-1)
            total = total + given.weight * log_p.sum()
            found.append(log_p.tolist())
    total.backward()
    rows = [score for row in together.completions for score in row]
    assert [s.log_probabilities for s in rows if s is not None] == [pytest.approx(log_p, abs=1e-9) for log_p in found]
    torch.testing.assert_close(together.gradients[0], values.grad, rtol=1e-9, atol=1e-9)
    alone = [lm.score([request]).completions[0] for request in over_fewer_words(adapter, 3)]
    for one, other_one in zip(alone, together.completions, strict=True):
        for x, y in zip(one, other_one, strict=True):
            assert x is not None
            assert y is not None
            assert x.log_probabilities == pytest.approx(y.log_probabilities, abs=1e-12)
    assert [id(module) for module in model.modules()] == before
    whole = load(folders["llama"], suffix_replay=False)
    same(whole.score(over_fewer_words(adapter, 3)), whole.score(references(adapter)))


# The store alone.


def entry(number: int, length: int = 3) -> Activations:
    draw = torch.Generator().manual_seed(number)
    return Activations(4, torch.randn(1, 5, generator=draw), torch.randn(length - 1, 5, generator=draw))


def test_two_writers_share_a_folder_and_find_what_the_other_wrote(tmp_path: Path) -> None:
    one, other = (ActivationStore(tmp_path, 10**6, 10**6) for _ in range(2))
    one.put("4-states", {"a": entry(1), "b": entry(2, 1)})
    other.put("4-states", {"a": entry(1), "b": entry(2, 1)})
    other.put("4-states", {"c": entry(3)})
    assert set(one.get("4-states", ["a", "b", "c", "d"])) == {"a", "b", "c"}
    assert one.get("3-states", ["a"]) == {}
    assert len(list(tmp_path.rglob("*"))) == 3, (
        "a folder and two files: equal batches are one, and nothing is left aside"
    )
    found = ActivationStore(tmp_path, 0, 10**6).get("4-states", ["b", "c"])
    for key, number, length in (("b", 2, 1), ("c", 3, 3)):
        assert found[key].first == 4
        assert all(torch.equal(t, entry(number, length).tensors[n]) for n, t in found[key].tensors.items())


def test_memory_holds_what_was_used_last_and_disk_no_more_than_it_may(tmp_path: Path) -> None:
    size = 4 * 15
    store = ActivationStore(tmp_path, 2 * size, 3 * size)
    for key in "abcd":
        store.put("k", {key: entry(ord(key))})
    assert [key for _, key in store._held] == ["c", "d"]
    assert set(store.get("k", "dabc")) == set("abcd")
    assert set(ActivationStore(tmp_path, 0, 0).get("k", "abcd")) == set("abc")
    assert store._size <= 2 * size


def test_a_broken_file_is_passed_over(tmp_path: Path) -> None:
    ActivationStore(tmp_path, 0, 10**6).put("k", {"a": entry(1)})
    (file,) = tmp_path.rglob("*.safetensors")
    file.write_bytes(file.read_bytes()[:20])
    assert ActivationStore(tmp_path, 0, 10**6).get("k", ["a"]) == {}
    file.unlink()
    file.mkdir()
    store = ActivationStore(tmp_path, 10**6, 10**6)
    store.put("k", {"a": entry(1)})
    assert set(store.get("k", ["a"])) == {"a"}, "what cannot be written stays in memory"


class Products(TorchDispatchMode):
    """Counts the operations of every matrix product that is computed, forward and backward."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        count = flop_registry.get(func._overloadpacket)
        if count is not None:
            self.flops += count(*args, **(kwargs or {}), out_val=out)
        return out


@pytest.mark.parametrize("placement", ["output", "after", "two layers"])
def test_a_step_over_stored_activations_computes_the_products_that_are_counted_on_shapes(
    folders: dict[str, Path], tiny_lms: dict[str, Path], placement: str
) -> None:
    """But for attention, which is one kernel here, whose operations torch does not tell."""
    lm, config = load(folders["llama"]), placements("llama")[placement]
    adapter = under(lm, config)
    asked = [
        ScoreRequest((GivenCompletion((Message("user", f"question {n}"),), "answer", -0.3),), adapter, keep=True)
        for n in range(4)
    ]
    lm.score(asked)
    with Products() as computed:
        lm.score(asked)
    prompt = len(lm._prompts([asked[0].completions[0].messages])[0])
    tokens = Tokens(4 * prompt, 4 * (len("answer") + 1), 0, 4)
    of = tiny_experiment(tiny_lms, routing__lora=config, routing__low_level={"type": "static"})
    found = reference_flops(of, {"lm": replace(Shape.of(lm_config(folders["llama"])), attention=0)}, {"lm": tokens})
    assert computed.flops == found.forward + found.backward
