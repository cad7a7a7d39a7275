"""A row of a batch is what it would be alone, and the model is left as it was."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from experiments import tiny_experiment

from haps_search.candidates.frozen_lm import FrozenLM
from haps_search.candidates.prompt_cache import PromptCache
from haps_search.config.routing import LastLayers, LoraConfig
from haps_search.errors import CandidateError
from haps_search.lora.injection import RowAdapters, injected
from haps_search.lora.spec import resolve
from haps_search.types import Adapter, AdapterLayout, Message, Request, Response, Sampling

SPECS = [
    LoraConfig(rank=3, scaling=0.5),
    LoraConfig(rank=1, scaling=2.0, targets=("k_proj", "down_proj"), layers="all"),
    LoraConfig(rank=5, targets=("o_proj", "up_proj"), layers=(0,)),
]


@pytest.fixture(scope="module", params=["llama", "qwen2"])
def candidate(request: pytest.FixtureRequest, tiny_lms: dict[str, Path]) -> FrozenLM:
    configs = {c.name: c for c in tiny_experiment(tiny_lms).candidates}
    return FrozenLM.load(configs[request.param])


def random_adapter(layout: AdapterLayout, seed: int, size: float = 0.3) -> Adapter:
    generator = torch.Generator().manual_seed(seed)
    return Adapter(layout, size * torch.randn(layout.size, generator=generator, dtype=torch.float64))


def request(text: str, seed: int, adapter: Adapter | None, temperature: float = 1.0) -> Request:
    wants = adapter is not None and temperature > 0
    sampling = Sampling(4 + seed % 3, temperature, seed, top_k=40 if seed % 2 else 0)
    return Request((Message("user", text),), sampling, adapter, gradient=wants, kl=wants)


def test_a_batch_of_eight_is_eight_batches_of_one(candidate: FrozenLM) -> None:
    layouts = [resolve(spec, candidate.table) for spec in SPECS]
    requests = [
        request("hello" + "o" * row, row, None if row == 5 else random_adapter(layouts[row % 3], row))
        for row in range(8)
    ]
    together = candidate.respond(requests)
    alone = [candidate.respond([r])[0] for r in requests]
    assert len({a.text for a in alone}) > 4
    for row, (a, b) in enumerate(zip(together, alone, strict=True)):
        assert a.token_ids == b.token_ids, row
        assert a.log_likelihood == pytest.approx(b.log_likelihood, abs=1e-10)
        assert (a.gradient is None) == (b.gradient is None) == (row == 5)
        if a.gradient is not None:
            assert float(a.gradient.norm()) > 1e-6
            torch.testing.assert_close(a.gradient, b.gradient, rtol=1e-9, atol=1e-10)
            torch.testing.assert_close(a.kl_gradient, b.kl_gradient, rtol=1e-9, atol=1e-10)
            assert a.kl == pytest.approx(b.kl, abs=1e-10)


def test_the_gradient_points_uphill(candidate: FrozenLM) -> None:
    """A small move along the returned gradient raises the likelihood of the same text by its squared norm."""
    layout = resolve(SPECS[1], candidate.table)
    adapter = random_adapter(layout, 1)
    asked = request("uphill", 2, adapter)
    said = candidate.respond([asked])[0]
    assert said.gradient is not None
    step = 1e-5 / float(said.gradient.norm())
    moved = Adapter(layout, adapter.values + step * said.gradient)
    after = candidate.respond([request("uphill", 2, moved)])[0]
    assert after.token_ids == said.token_ids
    expected = step * float(said.gradient.square().sum())
    assert after.log_likelihood - said.log_likelihood == pytest.approx(expected, rel=1e-3)


def test_a_adapter_changes_what_is_said(candidate: FrozenLM) -> None:
    layout = resolve(LoraConfig(rank=4, layers=LastLayers(last=2)), candidate.table)
    frozen = candidate.respond([request(f"q{i}", i, None) for i in range(6)])
    patched = candidate.respond([request(f"q{i}", i, random_adapter(layout, i, 1.0)) for i in range(6)])
    assert sum(a.token_ids != b.token_ids for a, b in zip(frozen, patched, strict=True)) >= 4


def test_a_zero_b_is_the_frozen_model(candidate: FrozenLM) -> None:
    layout = resolve(SPECS[0], candidate.table)
    values = torch.zeros(layout.size, dtype=torch.float64)
    target = layout.targets[0]
    values[: layout.rank * target.d_in] = 1.0
    for temperature in (0.0, 1.0):
        asked = request("same", 3, Adapter(layout, values), temperature)
        frozen = candidate.respond([request("same", 3, None, temperature)])[0]
        said = candidate.respond([asked])[0]
        assert said.text == frozen.text
        assert said.log_likelihood == pytest.approx(frozen.log_likelihood, abs=1e-12)
        if said.kl is not None:
            assert said.kl == pytest.approx(0.0, abs=1e-12)


def test_hooks_go_also_when_the_body_raises(candidate: FrozenLM) -> None:
    model = candidate._lm.model
    before = {k: v.clone() for k, v in model.state_dict().items()}
    layout = resolve(SPECS[0], candidate.table)
    rows = RowAdapters([random_adapter(layout, 0)], model.dtype, model.device)
    seen = []

    def raises() -> None:
        with injected(model, rows):
            seen.append(any(m._forward_hooks for m in model.modules()))
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        raises()
    assert seen == [True]
    assert not any(m._forward_hooks for m in model.modules())
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_a_adapter_of_another_candidate_is_refused(candidate: FrozenLM) -> None:
    layout = resolve(SPECS[0], candidate.table)
    foreign = AdapterLayout(3, 1.0, tuple(type(t)("model.layers.7.q", 7, 9, 9, 1.0) for t in layout.targets))
    with pytest.raises(CandidateError, match="generated for another candidate"):
        candidate.respond([request("x", 1, Adapter(foreign, torch.zeros(foreign.size)))])


def test_too_long_a_prompt_is_refused_with_the_numbers(candidate: FrozenLM) -> None:
    with pytest.raises(CandidateError, match="300 tokens and 5 new ones exceed its 256 positions"):
        candidate.respond([request("x" * 300, 1, None)])


def test_a_row_that_does_not_fit_alone_is_tried_again_when_caches_are_cleared(
    candidate: FrozenLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    candidate = FrozenLM(candidate._config, candidate._lm)
    respond, held = candidate._respond, [True]
    monkeypatch.setattr(PromptCache, "clear", lambda self: held.clear())

    def small(these: list[Request], prompts: list[list[int]]) -> list[Response]:
        if held or these[0].sampling.max_new_tokens > 5:
            raise torch.OutOfMemoryError("on purpose")
        return respond(these, prompts)

    monkeypatch.setattr(candidate, "_respond", small)
    assert candidate.respond([request("hello", 1, None)])[0].token_ids
    with pytest.raises(torch.OutOfMemoryError):
        candidate.respond([Request((Message("user", "hello"),), Sampling(9))])


def test_on_a_cpu_no_batch_grows_beyond_what_was_said(candidate: FrozenLM) -> None:
    """There a process that takes too much is killed, and nobody could halve."""
    bounded = FrozenLM(candidate._config.model_copy(update={"batch_tokens": 20}), candidate._lm)
    bounded.respond([request("hello", seed, None) for seed in range(4)])
    assert bounded.room == 20


def test_out_of_memory_halves_the_batch_and_changes_nothing(
    candidate: FrozenLM, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    layout = resolve(SPECS[0], candidate.table)
    requests = [request("hello" + "o" * row, row, random_adapter(layout, row)) for row in range(5)]
    whole = candidate.respond(requests)
    respond, sizes = candidate._respond, list[int]()

    def small(these: list[Request], prompts: list[list[int]]) -> list[Response]:
        sizes.append(len(these))
        if len(these) > 2:
            raise torch.OutOfMemoryError("on purpose")
        return respond(these, prompts)

    monkeypatch.setattr(candidate, "_respond", small)
    halved = candidate.respond(requests)
    assert sizes == [5, 2, 3, 1, 2]
    said = [line.partition("; ")[0] for line in caplog.messages]
    assert said == [f"candidate {candidate.table.candidate}: out of memory with {rows} rows" for rows in (5, 3)]
    for a, b in zip(whole, halved, strict=True):
        assert a.token_ids == b.token_ids
        torch.testing.assert_close(a.gradient, b.gradient, rtol=1e-9, atol=1e-10)
