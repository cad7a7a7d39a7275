"""Scoring is autograd by hand over merged weights, whatever was kept, shared or split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from families import build_family
from torch import Tensor, nn
from torch.func import functional_call

from haps_search.candidates.exact import exact
from haps_search.candidates.frozen_lm import FrozenLM
from haps_search.candidates.partial import added, pieces
from haps_search.config.candidates import CandidateConfig, PathSource
from haps_search.config.routing import LastLayers, LoraConfig
from haps_search.lora.adapter import learnt_tensors, matrices
from haps_search.lora.spec import resolve
from haps_search.types import (
    Adapter,
    Distribution,
    GivenCompletion,
    Message,
    SampleRequest,
    Sampling,
    ScoreRequest,
    Scores,
)

LAST = LoraConfig(rank=3, scaling=0.5)
KEYS = LoraConfig(rank=2, scaling=2.0, targets=("k_proj", "down_proj"), layers=LastLayers(last=2))
FIRST = LoraConfig(rank=1, targets=("o_proj", "up_proj"), layers=(0,))
DRAWN_FROM = Distribution(0.8, 20, 0.95)
QUESTIONS = ["hello", "a rather longer prompt", "x"]


@pytest.fixture(scope="module", params=["llama", "gemma3_text"])
def lm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> FrozenLM:
    torch.set_num_threads(1)
    return load(build_family(tmp_path_factory.mktemp(request.param), request.param))


def load(folder: Path, **how: Any) -> FrozenLM:
    source = PathSource(path=str(folder))
    return FrozenLM.load(CandidateConfig(name="lm", source=source, dtype="float64", device="cpu", **how))


def adapter(lm: FrozenLM, config: LoraConfig, seed: int, base: Adapter | None = None) -> Adapter:
    layout = resolve(config, lm.table)
    draw = torch.Generator().manual_seed(seed)
    return Adapter(layout, 0.2 * torch.randn(layout.size, generator=draw, dtype=torch.float64), base)


def asked(text: str, seed: int, under: Adapter | None, keep: bool = True) -> SampleRequest:
    sampling = Sampling(3 + seed % 4, DRAWN_FROM.temperature, seed, DRAWN_FROM.top_k, DRAWN_FROM.top_p)
    return SampleRequest((Message("user", text),), sampling, under, keep)


def drawn(lm: FrozenLM, under: Sequence[Adapter], episodes: int = 2, **changes: Any) -> list[ScoreRequest]:
    """Per adapter one request: the turns of its episodes, which answer different messages."""
    turns = [
        (i, asked(f"{QUESTIONS[i % 3]}{'!' * turn}", 7 * i + 3 * episode + turn, each))
        for i, each in enumerate(under)
        for episode in range(episodes)
        for turn in range(2)
    ]
    given: dict[int, list[GivenCompletion]] = {}
    for number, ((i, request), sampled) in enumerate(zip(turns, lm.sample([r for _, r in turns]), strict=True)):
        weights = 0.3 - 0.2 * (number % 4), 0.05 * (number % 3)
        given.setdefault(i, []).append(GivenCompletion(request.messages, sampled.token_ids, *weights))
    return [ScoreRequest(tuple(some), under[i], DRAWN_FROM, **changes) for i, some in given.items()]


def same(found: Scores, wanted: Scores) -> None:
    for a, b in zip(found.gradients, wanted.gradients, strict=True):
        assert b is not None
        assert float(b.norm()) > 1e-4
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
    for one, other in zip(found.completions, wanted.completions, strict=True):
        for x, y in zip(one, other, strict=True):
            assert (x is None) == (y is None)
            if x is not None and y is not None:
                assert x.log_probabilities == pytest.approx(y.log_probabilities, abs=1e-9)
                assert (x.kl is None) == (y.kl is None)
                assert x.kl is None or x.kl == pytest.approx(y.kl, abs=1e-9)


# By hand.


def numbers(part: Adapter, of: Mapping[int, Tensor]) -> Tensor:
    return of[id(part.values)] if part.mix is None else of[id(part.mix)] @ of[id(part.values)]


def merged(lm: FrozenLM, under: Adapter | None, of: Mapping[int, Tensor]) -> dict[str, Tensor]:
    """The model's weights with every part added to them."""
    found: dict[str, Tensor] = {}
    for part in under.parts if under is not None else ():
        for t, (a, b) in zip(part.layout.targets, matrices(part.layout, numbers(part, of)), strict=True):
            weight = found.get(f"{t.name}.weight", lm._lm.model.get_submodule(t.name).weight)
            found[f"{t.name}.weight"] = weight + part.layout.scaling * b @ a
    return found


def truncated(log_p: Tensor, by: Distribution) -> Tensor:
    rows = []
    for row in log_p:
        kept, mass = [], 0.0
        for rank, token in enumerate(row.detach().argsort(descending=True).tolist()):
            if mass >= by.top_p or (by.top_k and rank >= by.top_k):
                break
            kept.append(token)
            mass += float(row[token].detach().exp())
        rows.append((row + torch.full_like(row, float("-inf")).index_fill(0, torch.tensor(kept), 0.0)).log_softmax(-1))
    return torch.stack(rows)


def by_hand(lm: FrozenLM, requests: Sequence[ScoreRequest]) -> tuple[list[list[tuple[float, float]]], list[Tensor]]:
    """Log-likelihood and KL of every completion, and the gradients of their weighted sum."""
    everyone = [part for r in requests for a in (r.adapter, r.reference) if a is not None for part in a.parts]
    tensors = [t for part in everyone for t in (part.values, part.mix) if t is not None]
    leaves = {id(t): t.clone().requires_grad_() for t in tensors}
    total, found = torch.zeros((), dtype=torch.float64), []
    for request in requests:
        found.append([])
        for one in request.completions:
            ids, said = lm._lm.tokenizer(one.messages[0].content)["input_ids"], list(one.completion)
            whole = torch.tensor([[*ids, *said]])
            logits = []
            for under in (request.adapter, request.reference):
                weights = merged(lm, under, leaves)
                with exact(torch.float64), torch.enable_grad():
                    out = functional_call(lm._lm.model, weights, kwargs={"input_ids": whole}).logits
                logits.append((out[0, len(ids) - 1 : -1] / request.distribution.temperature).log_softmax(-1))
            free, base = logits[0], logits[1].detach()
            log_p = truncated(free, request.distribution).gather(-1, torch.tensor(said).unsqueeze(-1)).sum()
            kl = (free.exp() * (free - base)).sum()
            total = total + one.weight * log_p + one.kl_weight * kl
            found[-1].append((float(log_p.detach()), float(kl.detach())))
    if leaves:
        total.backward()
    gradients = [leaves[id(t)].grad for t in learnt_tensors(r.adapter for r in requests)]
    return found, [g for g in gradients if g is not None]


def is_by_hand(lm: FrozenLM, requests: Sequence[ScoreRequest]) -> None:
    found, (completions, gradients) = lm.score(requests), by_hand(lm, requests)
    for gradient, wanted in zip(found.gradients, gradients, strict=True):
        assert gradient is not None
        assert float(wanted.norm()) > 1e-4
        torch.testing.assert_close(gradient, wanted, rtol=1e-9, atol=1e-9)
    for row, expected in zip(found.completions, completions, strict=True):
        for score, (likelihood, kl) in zip(row, expected, strict=True):
            assert score is not None
            assert score.log_likelihood == pytest.approx(likelihood, abs=1e-9)
            assert score.kl is None or score.kl == pytest.approx(kl, abs=1e-9)


def test_mixed_ranks_and_layers_and_several_completions_of_an_adapter(lm: FrozenLM) -> None:
    requests = drawn(lm, [adapter(lm, LAST, 1), adapter(lm, KEYS, 2), adapter(lm, FIRST, 3)], every=True)
    assert len({len(c.completion) for r in requests for c in r.completions}) > 2
    is_by_hand(lm, requests)


def test_the_kl_to_another_adapter(lm: FrozenLM) -> None:
    """It may begin below the first patched layer of what is learnt, where what was kept is of no use."""
    for reference in (adapter(lm, LAST, 5), adapter(lm, KEYS, 6), adapter(lm, FIRST, 7)):
        is_by_hand(lm, drawn(lm, [adapter(lm, LAST, 1), adapter(lm, KEYS, 2)], kl=True, reference=reference))


@pytest.mark.parametrize("frozen", [False, True], ids=["both learn", "the base is given"])
def test_a_residual_on_a_base_that_all_questions_share(lm: FrozenLM, frozen: bool) -> None:
    """Ranks stand one after the other on modules that both patch; the base's gradient is summed over questions."""
    base = replace(adapter(lm, KEYS, 9), learns=not frozen)
    under = [adapter(lm, config, seed, base) for seed, config in enumerate([KEYS, LAST, KEYS])]
    requests = drawn(lm, under, every=True)
    assert len(lm.score(requests).gradients) == (3 if frozen else 4)
    is_by_hand(lm, requests)
    is_by_hand(lm, [replace(r, reference=base, kl=True) for r in requests])


def test_a_bank_that_questions_mix(lm: FrozenLM) -> None:
    banks = [adapter(lm, LAST, seed).values for seed in range(3)]
    bank, layout = torch.stack(banks), resolve(LAST, lm.table)
    mixes = [torch.tensor(m, dtype=torch.float64) for m in ([0.5, 0.3, 0.2], [-0.1, 0.2, 0.9])]
    under = [Adapter(layout, bank, mix=mix) for mix in mixes]
    requests = drawn(lm, under, every=True)
    assert [tuple(g.shape) for g in lm.score(requests).gradients if g is not None] == [tuple(bank.shape), (3,), (3,)]
    is_by_hand(lm, requests)


# What is kept.


def passes(lm: FrozenLM) -> tuple[list[tuple[int, int]], list[Any]]:
    """Rows and positions of every pass through the first and the last layer, and the hooks that note them."""
    seen: list[tuple[int, int]] = []
    layers: Any = lm._decoder.layers

    def note(number: int, states: Tensor) -> None:
        seen.append((number, states.shape[0] * states.shape[1]))

    hooks = [
        layers[i].register_forward_pre_hook(
            lambda m, args, kwargs, i=i: note(i, args[0] if args else kwargs["hidden_states"]), with_kwargs=True
        )
        for i in (0, len(layers) - 1)
    ]
    return seen, hooks


def below(lm: FrozenLM, requests: Sequence[ScoreRequest]) -> tuple[Scores, int]:
    """The scores, and how many positions they took through the first layer."""
    seen, hooks = passes(lm)
    try:
        scores = lm.score(requests)
    finally:
        for hook in hooks:
            hook.remove()
    return scores, sum(positions for number, positions in seen if number == 0)


@pytest.mark.parametrize("config", [LAST, KEYS], ids=["tail", "keys"])
def test_what_was_kept_gives_what_is_computed_again(lm: FrozenLM, config: LoraConfig) -> None:
    requests = drawn(lm, [adapter(lm, config, 1), adapter(lm, config, 2)], kl=True)
    assert lm._activations.size > 0
    kept, positions = below(lm, requests)
    assert positions == 0, "nothing below the first patched layer is run again"
    assert lm._activations.size == 0, "what was scored is forgotten"
    again, positions = below(lm, requests)
    assert positions > 0
    same(again, kept)


def test_a_worker_that_never_saw_a_completion_scores_it_the_same(lm: FrozenLM) -> None:
    """As after the death of the one that sampled it; also without a budget, and where the whole model is run."""
    requests = drawn(lm, [adapter(lm, LAST, 1), adapter(lm, KEYS, 2), adapter(lm, FIRST, 3)], every=True)
    wanted = lm.score(requests)
    for changes in ({}, {"activation_gb": 0.0}, {"suffix_replay": False}, {"batch_rows": 1}, {"prompt_cache_gb": 0.1}):
        other = FrozenLM(lm._config.model_copy(update=changes), lm._lm)
        same(other.score(requests), wanted)
        assert other._activations.size == 0


def test_adapters_of_all_layers_in_a_batch_keep_what_lies_below_the_others(lm: FrozenLM) -> None:
    under = [adapter(lm, FIRST, 3), adapter(lm, LAST, 1), adapter(lm, KEYS, 2)]
    requests = drawn(lm, under)
    _, positions = below(lm, requests[1:])
    assert positions == 0
    assert below(lm, requests[:1])[1] > 0


def test_what_is_scored_again_and_again_may_stay(lm: FrozenLM) -> None:
    (request,) = drawn(lm, [adapter(lm, LAST, 1)])
    lm._activations.clear()
    staying = replace(request, keep=True)
    first, positions = below(lm, [staying])
    assert positions > 0
    for _ in range(2):
        again, positions = below(lm, [staying])
        assert positions == 0
        same(again, first)


# What is shared or split.


def test_partial_sums_of_rows_that_were_split_add_up(lm: FrozenLM) -> None:
    base = adapter(lm, KEYS, 9)
    under = [adapter(lm, LAST, 1, base), adapter(lm, LAST, 2, base), adapter(lm, FIRST, 3)]
    requests = drawn(lm, under, episodes=3)
    whole = lm.score(requests)
    for rows in (1, 2, 4, 5, 100):
        parts = pieces(requests, rows)
        assert max(part.rows for part in parts) <= rows
        same(added(requests, parts, [lm.score(part.requests) for part in parts]), whole)
    assert len(pieces(requests, 6)) == 3, "rows of a question stay together"


def test_what_weighs_nothing_costs_nothing(lm: FrozenLM) -> None:
    """Exactly what has no weight is left out; the rest is what it is without it."""
    (request,) = drawn(lm, [adapter(lm, LAST, 1)])
    one, two, three, four = request.completions
    weights = [(one, 0.5, 0.0), (two, 0.0, 0.0), (three, 0.0, 0.2), (four, -0.0, 0.0)]
    some = tuple(replace(c, weight=w, kl_weight=k) for c, w, k in weights)
    tokens: list[int] = []
    head = lm._lm.model.get_output_embeddings()
    with head.register_forward_pre_hook(lambda m, args: tokens.append(args[0].shape[:-1].numel())):
        scores = lm.score([replace(request, completions=some)])
        nothing = lm.score([replace(request, completions=(some[1], some[3]))])
    assert set(tokens) == {len(one.completion) + len(three.completion)}
    assert [score is None for score in scores.completions[0]] == [False, True, False, True]
    assert [score.kl is None for score in scores.completions[0] if score is not None] == [True, False]
    same(lm.score([replace(request, completions=(some[0], some[2]))]), replace_completions(scores))
    assert nothing == Scores(((None, None),), (None,))


def replace_completions(scores: Scores) -> Scores:
    """Without what was left out."""
    return Scores(tuple(tuple(s for s in row if s is not None) for row in scores.completions), scores.gradients)


def test_likelihoods_alone_take_no_gradient(lm: FrozenLM) -> None:
    (request,) = drawn(lm, [adapter(lm, LAST, 1)])
    unweighed = tuple(replace(c, weight=0.0, kl_weight=0.0) for c in request.completions)
    wanted, _ = by_hand(lm, [request])
    for one in (replace(request, completions=unweighed, every=True), replace(request, completions=unweighed, kl=True)):
        found = lm.score([one])
        assert found.gradients == (None,)
        assert [s.log_likelihood for s in found.completions[0] if s] == pytest.approx([row[0] for row in wanted[0]])
        assert [s.kl is not None for s in found.completions[0] if s] == [one.kl] * 4
    frozen = lm.score([ScoreRequest(unweighed, every=True)])
    by_itself, _ = by_hand(lm, [ScoreRequest(unweighed)])
    assert [s.log_likelihood for s in frozen.completions[0] if s] == pytest.approx([row[0] for row in by_itself[0]])
    assert frozen.gradients == ()


def test_what_was_sampled_is_as_likely_as_it_was_said_to_be(lm: FrozenLM) -> None:
    under = [adapter(lm, LAST, 1), adapter(lm, FIRST, 2), None]
    requests = [asked("hello", seed, under[seed % 3]) for seed in range(6)]
    for request, sampled in zip(requests, lm.sample(requests), strict=True):
        given = GivenCompletion(request.messages, sampled.token_ids)
        (score,) = lm.score([ScoreRequest((given,), request.adapter, DRAWN_FROM, every=True)]).completions[0]
        assert score is not None
        assert score.log_probabilities == pytest.approx(sampled.log_probabilities, abs=1e-9)


def test_a_text_is_its_tokens_and_the_end_of_the_turn(lm: FrozenLM) -> None:
    tokenizer, under = lm._lm.tokenizer, adapter(lm, LAST, 1)
    for text in ("an answer", "", tokenizer.eos_token):
        characters = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        ids = (*characters, tokenizer.eos_token_id)
        by_text, by_ids = (
            lm.score([ScoreRequest((GivenCompletion((Message("user", "why"),), given, 1.0),), under)])
            for given in (text, ids)
        )
        same(by_text, by_ids)
        (score,) = by_text.completions[0]
        assert score is not None
        assert len(score.log_probabilities) == len(ids)


def test_weights_need_an_adapter() -> None:
    with pytest.raises(ValueError, match="weights were given without an adapter"):
        ScoreRequest((GivenCompletion((Message("user", "why"),), (1,), 1.0),))


def test_the_model_is_left_as_it_was(lm: FrozenLM) -> None:
    model: nn.Module = lm._lm.model
    before = [id(module) for module in model.modules()]
    requests = drawn(lm, [adapter(lm, LAST, 1), adapter(lm, KEYS, 2)], kl=True, reference=adapter(lm, FIRST, 3))
    lm.score(requests)
    assert [id(module) for module in model.modules()] == before
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
