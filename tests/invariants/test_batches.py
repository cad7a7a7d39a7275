"""A row of a batch is what it would be alone, and the model is left as it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from experiments import tiny_experiment
from families import build_family
from torch import Tensor
from verbs import same, sampled_and_scored

from haps_search.candidates.activations import Ids
from haps_search.candidates.frozen_lm import FrozenLM
from haps_search.candidates.prompt_cache import PromptCache
from haps_search.candidates.sample import Drew
from haps_search.config.candidates import CandidateConfig
from haps_search.config.routing import LastLayers, LoraConfig
from haps_search.errors import CandidateError
from haps_search.lora.injection import injected
from haps_search.lora.row_adapters import RowAdapters
from haps_search.lora.spec import resolve
from haps_search.types import (
    Adapter,
    AdapterLayout,
    GivenCompletion,
    Message,
    Sampled,
    SampleRequest,
    Sampling,
    ScoreRequest,
)

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


def request(text: str, seed: int, adapter: Adapter | None, temperature: float = 1.0) -> SampleRequest:
    sampling = Sampling(4 + seed % 3, temperature, seed, top_k=40 if seed % 2 else 0)
    return SampleRequest((Message("user", text),), sampling, adapter)


def test_a_batch_of_eight_is_eight_batches_of_one(candidate: FrozenLM) -> None:
    layouts = [resolve(spec, candidate.table) for spec in SPECS]
    requests = [
        request("hello" + "o" * row, row, None if row == 5 else random_adapter(layouts[row % 3], row))
        for row in range(8)
    ]
    together = sampled_and_scored(candidate, requests)
    alone = [sampled_and_scored(candidate, [r])[0] for r in requests]
    assert len({a.sampled.text for a in alone}) > 4
    assert [a.gradient is None for a in together] == [row == 5 for row in range(8)]
    same(together, alone)
    for a in together:
        assert a.log_likelihood == pytest.approx(a.sampled.log_likelihood, abs=1e-10)


def test_the_gradient_points_uphill(candidate: FrozenLM) -> None:
    """A small move along the returned gradient raises the likelihood of the same text by its squared norm."""
    layout = resolve(SPECS[1], candidate.table)
    adapter = random_adapter(layout, 1)
    said = sampled_and_scored(candidate, [request("uphill", 2, adapter)])[0]
    assert said.gradient is not None
    step = 1e-5 / float(said.gradient.norm())
    moved = Adapter(layout, adapter.values + step * said.gradient)
    after = candidate.sample([request("uphill", 2, moved)])[0]
    assert after.token_ids == said.sampled.token_ids
    expected = step * float(said.gradient.square().sum())
    assert after.log_likelihood - said.log_likelihood == pytest.approx(expected, rel=1e-3)


def test_a_adapter_changes_what_is_said(candidate: FrozenLM) -> None:
    layout = resolve(LoraConfig(rank=4, layers=LastLayers(last=2)), candidate.table)
    frozen = candidate.sample([request(f"q{i}", i, None) for i in range(6)])
    patched = candidate.sample([request(f"q{i}", i, random_adapter(layout, i, 1.0)) for i in range(6)])
    assert sum(a.token_ids != b.token_ids for a, b in zip(frozen, patched, strict=True)) >= 4


def test_a_zero_b_is_the_frozen_model(candidate: FrozenLM) -> None:
    layout = resolve(SPECS[0], candidate.table)
    values = torch.zeros(layout.size, dtype=torch.float64)
    target = layout.targets[0]
    values[: layout.rank * target.d_in] = 1.0
    for temperature in (0.0, 1.0):
        asked = request("same", 3, Adapter(layout, values), temperature)
        frozen = candidate.sample([request("same", 3, None, temperature)])[0]
        said = sampled_and_scored(candidate, [asked])[0]
        assert said.sampled.text == frozen.text
        assert said.sampled.log_likelihood == pytest.approx(frozen.log_likelihood, abs=1e-12)
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
        candidate.sample([request("x", 1, Adapter(foreign, torch.zeros(foreign.size)))])
    scored = ScoreRequest(
        (GivenCompletion((Message("user", "x"),), (1,)),),
        reference=Adapter(foreign, torch.zeros(foreign.size)),
        kl=True,
    )
    with pytest.raises(CandidateError, match="generated for another candidate"):
        candidate.score([scored])


def test_too_long_a_prompt_is_refused_with_the_numbers(candidate: FrozenLM) -> None:
    with pytest.raises(CandidateError, match="300 tokens and 5 new ones exceed its 256 positions"):
        candidate.sample([request("x" * 300, 1, None)])
    given = GivenCompletion((Message("user", "x" * 255),), (1, 2))
    with pytest.raises(CandidateError, match="255 tokens and 2 new ones exceed its 256 positions"):
        candidate.score([ScoreRequest((given,), every=True)])


def test_where_a_long_text_changes_those_beside_it_none_is_so_long(tmp_path: Path) -> None:
    """Rotary frequencies that depend on the longest of a batch."""
    config = build_family(tmp_path, "llama") / "config.json"
    rope = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0, "original_max_position_embeddings": 64}
    config.write_text(json.dumps(json.loads(config.read_text()) | {"rope_parameters": rope}))
    source = {"type": "path", "path": str(tmp_path)}
    held = FrozenLM.load(CandidateConfig.model_validate({"name": "long", "source": source}))
    assert held.sample([request("x" * 40, 1, None)])
    with pytest.raises(CandidateError, match=r"exceed its 64 positions \(of 128: beyond them dynamic"):
        held.sample([request("x" * 60, 1, None)])


def test_a_row_that_does_not_fit_alone_is_tried_again_when_caches_are_cleared(
    candidate: FrozenLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    candidate = FrozenLM(candidate._config, candidate._lm)
    sample, held = candidate._sample, [True]
    monkeypatch.setattr(PromptCache, "clear", lambda self: held.clear())

    def small(these: list[SampleRequest], *rest: Any) -> list[Sampled]:
        if held or these[0].sampling.max_new_tokens > 5:
            raise torch.OutOfMemoryError("on purpose")
        return sample(these, *rest)

    monkeypatch.setattr(candidate, "_sample", small)
    assert candidate.sample([request("hello", 1, None)])[0].token_ids
    with pytest.raises(torch.OutOfMemoryError):
        candidate.sample([SampleRequest((Message("user", "hello"),), Sampling(9))])


def test_on_a_cpu_no_batch_grows_beyond_what_was_said(candidate: FrozenLM) -> None:
    """There a process that takes too much is killed, and nobody could halve."""
    bounded = FrozenLM(candidate._config.model_copy(update={"batch_tokens": 20}), candidate._lm)
    bounded.sample([request("hello", seed, None) for seed in range(4)])
    assert bounded.room == 20


def test_out_of_memory_lets_half_as_many_rows_decode_together_and_changes_nothing(
    candidate: FrozenLM, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    candidate = FrozenLM(candidate._config, candidate._lm)
    layout = resolve(SPECS[0], candidate.table)
    requests = [request("hello" + "o" * row, row, random_adapter(layout, row)) for row in range(5)]
    whole = sampled_and_scored(candidate, requests)
    run, sizes = candidate._sample, list[int]()

    def small(these: list[SampleRequest], prompts: list[Ids], together: int, drew: Drew | None) -> list[Sampled]:
        sizes.append(together)
        if together > 2:
            raise torch.OutOfMemoryError("on purpose")
        return run(these, prompts, together, drew)

    monkeypatch.setattr(candidate, "_sample", small)
    for _ in range(2):
        same(sampled_and_scored(candidate, requests), whole)
    assert sizes == [5, 2, 2], "what did not fit is not tried again"
    said = [line.partition("; ")[0] for line in caplog.messages]
    assert said == [f"candidate {candidate.table.candidate}: out of memory with 5 rows"]


def test_out_of_memory_halves_a_batch_that_is_scored_and_changes_nothing(
    candidate: FrozenLM, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    candidate = FrozenLM(candidate._config, candidate._lm)
    layout = resolve(SPECS[0], candidate.table)
    requests = [request("hello" + "o" * row, row, random_adapter(layout, row)) for row in range(5)]
    whole = sampled_and_scored(candidate, requests)
    run, sizes = candidate._score, list[int]()

    def small(*arguments: Any) -> Any:
        sizes.append(len(arguments[2]))
        if sizes[-1] > 2:
            raise torch.OutOfMemoryError("on purpose")
        return run(*arguments)

    monkeypatch.setattr(candidate, "_score", small)
    same(sampled_and_scored(candidate, requests), whole)
    assert sizes[:5] == [5, 2, 3, 1, 2]
    assert max(sizes[5:], default=0) <= 2, "what did not fit is not tried again"
    said = [line.partition("; ")[0] for line in caplog.messages]
    assert said == [f"candidate {candidate.table.candidate}: out of memory with {n} rows" for n in (5, 3)]


def test_out_of_memory_in_a_gradient_halves_that_batch_and_nothing_else(
    candidate: FrozenLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No text is drawn again, and as many rows as before are decoded together."""
    candidate = FrozenLM(candidate._config, candidate._lm)
    layout = resolve(SPECS[0], candidate.table)
    requests = [request("hello" + "o" * row, row, random_adapter(layout, row)) for row in range(5)]
    sample, gradients, sampled, weighed = candidate._sample, RowAdapters.gradients, list[int](), list[int]()

    def noted(these: list[SampleRequest], prompts: list[Ids], together: int, drew: Drew | None) -> list[Sampled]:
        sampled.append(together)
        return sample(these, prompts, together, drew)

    def small(self: RowAdapters, states: Tensor, along: Tensor) -> list[Tensor]:
        weighed.append(self.rows)
        if self.rows > 2:
            raise torch.OutOfMemoryError("on purpose")
        return gradients(self, states, along)

    monkeypatch.setattr(candidate, "_sample", noted)
    whole, room = sampled_and_scored(candidate, requests, kl=False), candidate.room
    monkeypatch.setattr(RowAdapters, "gradients", small)
    for _ in range(2):
        same(sampled_and_scored(candidate, requests, kl=False), whole)
    assert sampled == [5, 5, 5]
    assert candidate.room == room
    assert weighed[:5] == [5, 2, 3, 1, 2]
    assert max(weighed[5:]) <= 2
