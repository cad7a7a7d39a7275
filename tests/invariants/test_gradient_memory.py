"""What the gradient needs: logits a piece at a time, and nothing of the layers below the patched ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from families import AFTER, FAMILIES, build_family
from torch import Tensor, nn

from haps_search.candidates import score as score_module
from haps_search.candidates.activations import Kept
from haps_search.candidates.decoder import Decoder
from haps_search.candidates.exact import exact
from haps_search.candidates.sample import sample
from haps_search.candidates.score import Row, RowScores, score
from haps_search.candidates.sources import LoadedLM, load_lm
from haps_search.candidates.stack import Head
from haps_search.candidates.suffix import decoder_layers, tail_suffices
from haps_search.config.candidates import Dtype, PathSource
from haps_search.config.routing import LoraConfig
from haps_search.lora.spec import module_table, resolve
from haps_search.types import Adapter, Sampling

PROMPTS = [(5, 6, 7, 8), (9, 10), (11, 12, 13)]
Build = Callable[..., LoadedLM]


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    torch.set_num_threads(1)

    def loaded(family: str = "llama", dtype: Dtype = "float64", layers: int = 3) -> LoadedLM:
        folder = build_family(tmp_path_factory.mktemp(family), family, layers)
        return load_lm("lm", PathSource(path=str(folder)), dtype, "cpu", False)

    return loaded


class Drawn:
    """A batch that was sampled, each row under its own adapter, and its scores by the suffix or by the whole model."""

    def __init__(
        self, lm: LoadedLM, steps: int = 7, rows: int = 3, top_k: int = 0, targets: tuple[str, ...] = ("o_proj",)
    ) -> None:
        model = lm.model
        layers = decoder_layers(model)
        assert layers is not None
        self.decoder = Decoder(model, layers, (), 0)
        layout = resolve(LoraConfig(rank=2, targets=targets), module_table("lm", model))
        draw = torch.Generator().manual_seed(0)
        values = [0.3 * torch.randn(layout.size, generator=draw, dtype=torch.float64) for _ in range(rows)]
        adapters = [Adapter(layout, v) for v in values]
        samplings = [Sampling(steps - row, 0.8, row, top_k=top_k) for row in range(rows)]
        kept = Kept(layout.targets[0].layer)
        with exact(model.dtype):
            drawn = sample(self.decoder, PROMPTS[:rows], samplings, adapters, kept).rows()
        self.rows = [
            Row(prompt, ids, sampling.distribution, adapter)
            for prompt, (ids, _), sampling, adapter in zip(PROMPTS, drawn, samplings, adapters, strict=False)
        ]
        tails = [tail_suffices(layout.targets, len(layers))] * rows
        self.activations = kept.activations(range(rows), PROMPTS[:rows], [row.tokens for row in self.rows], tails)

    def scores(self, suffix: bool = True, kl_weight: float = 0.4, decoder: Decoder | None = None) -> RowScores:
        decoder, kl = decoder or self.decoder, kl_weight != 0.0
        rows = [replace(row, weight=1.0, kl_weight=kl_weight, kl=kl) for row in self.rows]
        with exact(decoder.model.dtype):
            return score(decoder, rows, self.activations if suffix else None)


def same(a: RowScores, b: RowScores) -> None:
    for x, y in zip(a.gradients, b.gradients, strict=True):
        assert float(x.norm()) > 1e-4
        torch.testing.assert_close(x, y, rtol=1e-9, atol=1e-9)
    for found, wanted in zip(a.rows, b.rows, strict=True):
        assert found.log_probabilities == pytest.approx(wanted.log_probabilities, abs=1e-9)
        assert found.kl == pytest.approx(wanted.kl, abs=1e-9)


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "granite"])
@pytest.mark.parametrize(("top_k", "suffix"), [(0, True), (0, False), (20, True)])
def test_logits_in_pieces_give_the_gradient_of_all_at_once(
    build: Build, monkeypatch: pytest.MonkeyPatch, family: str, top_k: int, suffix: bool
) -> None:
    drawn = Drawn(build(family), top_k=top_k)
    at_once = drawn.scores(suffix)
    formed: list[int] = []
    head = drawn.decoder.model.get_output_embeddings()
    tokens, vocabulary = sum(len(row.tokens) for row in drawn.rows), head.weight.shape[0]

    def note(_: nn.Module, args: tuple[Tensor], out: Tensor) -> None:
        formed.append(out.numel() // vocabulary)
        assert args[0].is_contiguous(), "torch would read the whole head once per row"

    with head.register_forward_hook(note):
        monkeypatch.setattr(score_module, "LOGITS", 8 * vocabulary + 1)
        same(drawn.scores(suffix), at_once)
        assert formed == [8, 8, 8, 8, 2, 2], "with the adapter and without; of 7 + 6 + 5 tokens and of no padding"
        assert sum(formed) == 2 * tokens
        formed.clear()
        monkeypatch.setattr(score_module, "LOGITS", 1)
        same(drawn.scores(suffix), at_once)
        assert formed == [1] * 2 * tokens


def test_a_head_that_cannot_be_had_apart_gives_the_same_gradients(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = build()
    wanted = Drawn(lm).scores()
    monkeypatch.setattr(lm.model, "get_decoder", lambda: nn.Linear(2, 2))
    whole = Head.of(lm.model)
    assert whole.logits(states := torch.zeros(1)) is states
    same(Drawn(lm).scores(), wanted)


def saved_bytes(drawn: Drawn, suffix: bool) -> int:
    """What autograd keeps for the backward pass, the model's own weights apart."""
    weights, kept = {p.data_ptr() for p in drawn.decoder.model.parameters()}, [0]

    def pack(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in weights:
            kept[0] += tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        drawn.scores(suffix, kl_weight=0.0)
    return kept[0]


def test_what_is_kept_for_the_gradient_does_not_grow_with_the_layers(build: Build) -> None:
    """Neither at once nor per token: with the last layer patched, depth is free whatever the length."""
    saved = {
        (layers, steps): saved_bytes(Drawn(lm, steps, rows=1), suffix=True)
        for layers, lm in ((3, build(layers=3)), (6, build(layers=6)))
        for steps in (8, 32)
    }
    assert saved[3, 8] == saved[6, 8]
    assert saved[3, 32] == saved[6, 32] > saved[3, 8]


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_the_suffix_errs_in_bf16_no_more_than_twice_what_the_whole_pass_does(build: Build, family: str) -> None:
    low = build(family, dtype="bfloat16")
    drawn = Drawn(low, steps=12, targets=AFTER.get(family, ("o_proj",)))
    by_suffix, by_whole = drawn.scores(kl_weight=0.0), drawn.scores(suffix=False, kl_weight=0.0)
    low.model.float()  # the same weights, exactly
    precise = drawn.scores(suffix=False, kl_weight=0.0, decoder=Decoder(low.model, None, (), 0))

    def error(found: RowScores) -> float:
        pairs = zip(found.gradients, precise.gradients, strict=True)
        return max(float((a - b).norm() / b.norm()) for a, b in pairs)

    assert all(g.dtype == torch.float32 for g in by_suffix.gradients)
    assert 0 < error(by_whole) < 0.3
    assert error(by_suffix) <= 2 * error(by_whole)
