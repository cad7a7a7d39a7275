"""The distribution of a token, the draw from it, and where a text ends."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from experiments import tiny_experiment
from made import layout
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from haps_search.candidates import policy as policy_module
from haps_search.candidates import sample as sample_module
from haps_search.candidates.decoder import Decoder
from haps_search.candidates.frozen_lm import FrozenLM, _tokens_with
from haps_search.candidates.policy import Policy, uniforms
from haps_search.candidates.prefill import distinct
from haps_search.candidates.prompts import pad_left, positions
from haps_search.candidates.sample import Drawn, sample
from haps_search.types import Adapter, Distribution, Message, Sampled, SampleRequest, Sampling

CPU = torch.device("cpu")
INF = float("inf")
PAD, STOP = 0, 3
# Rows: the token before; columns: probabilities of tokens 0 to 3.
CHAIN = torch.tensor(
    [[0.1, 0.2, 0.3, 0.4], [0.0, 0.5, 0.4, 0.1], [0.0, 0.7, 0.2, 0.1], [0.25, 0.25, 0.25, 0.25]],
    dtype=torch.float64,
)


class ReadTokens:
    """A cache and its only layer: per row, the tokens read so far; it cannot be given room."""

    def __init__(self, rows: Tensor) -> None:
        self.rows = rows
        self.layers: list[Any] = [self]

    def batch_select_indices(self, index: Tensor) -> None:
        self.rows = self.rows[index]


class ChainLM:
    """A causal LM whose next token depends on the last one alone."""

    device = CPU
    dtype = torch.float64
    config = SimpleNamespace()

    def __init__(self, chain: Tensor = CHAIN) -> None:
        self.logits = chain.log() + 5.0
        self.rows_read: list[int] = []
        self.cache = ReadTokens(torch.empty(0))

    def modules(self) -> list[Any]:
        return []

    def __call__(self, input_ids: Tensor, past_key_values: Any = None, **_: Any) -> SimpleNamespace:
        self.rows_read.append(len(input_ids))
        if past_key_values is None:
            self.cache = ReadTokens(input_ids)
        else:
            self.cache = past_key_values
            self.cache.rows = torch.cat([self.cache.rows, input_ids], -1)
        return SimpleNamespace(logits=self.logits[input_ids[:, -1:]], past_key_values=self.cache)


def said(
    samplings: Sequence[Sampling], prompts: Sequence[Sequence[int]] = ((1,),), model: ChainLM | None = None
) -> Drawn:
    """One prompt, or one for each sampling."""
    decoder = Decoder(model or ChainLM(), None, (STOP,), PAD)  # type: ignore[arg-type]
    asked = list(prompts) * (len(samplings) // len(prompts))
    return sample(decoder, asked, samplings, [None] * len(samplings))


def token_ids(drawn: Drawn, row: int) -> tuple[int, ...]:
    return drawn.rows()[row][0]


def log_likelihood(drawn: Drawn, row: int) -> float:
    return math.fsum(drawn.rows()[row][1])


def probabilities(logits: Sequence[float], **sampling: Any) -> list[float]:
    policy = Policy.of([Sampling(1, **sampling)], CPU)
    tempered = policy.tempered(torch.tensor([logits], dtype=torch.float64))
    return policy.log_probabilities(tempered)[0].exp().tolist()


LOGITS = [math.log(p) for p in (0.1, 0.4, 0.2, 0.3)]


def test_temperature_by_hand() -> None:
    squares = [p**2 for p in (0.1, 0.4, 0.2, 0.3)]
    assert probabilities(LOGITS, temperature=0.5) == pytest.approx([p / sum(squares) for p in squares])
    assert probabilities(LOGITS) == pytest.approx([0.1, 0.4, 0.2, 0.3])


@pytest.mark.parametrize(
    ("truncation", "wanted"),
    [
        ({"top_k": 1}, [0, 1, 0, 0]),
        ({"top_k": 2}, [0, 4 / 7, 0, 3 / 7]),
        ({"top_k": 9}, [0.1, 0.4, 0.2, 0.3]),
        ({"top_p": 0.35}, [0, 1, 0, 0]),
        ({"top_p": 0.65}, [0, 4 / 7, 0, 3 / 7]),
        ({"top_p": 0.75}, [0, 4 / 9, 2 / 9, 3 / 9]),
        ({"top_p": 0.75, "top_k": 2}, [0, 4 / 7, 0, 3 / 7]),
        ({"top_p": 0.35, "top_k": 3}, [0, 1, 0, 0]),
        ({"min_p": 0.6}, [0, 4 / 7, 0, 3 / 7]),
        ({"min_p": 0.2}, [0.1, 0.4, 0.2, 0.3]),
        ({"min_p": 0.4, "top_k": 2}, [0, 4 / 7, 0, 3 / 7]),
    ],
)
def test_truncation_by_hand(truncation: dict[str, Any], wanted: list[float]) -> None:
    """Nucleus: the likeliest tokens until their mass reaches `top_p`, the one that crosses it included."""
    assert probabilities(LOGITS, **truncation) == pytest.approx(wanted)


def one_by_one(log_p: Tensor, distribution: Distribution) -> Tensor:
    """Of one row (V,), token after token from the likeliest: what may be drawn."""
    most, before, kept = float(log_p.max()), 0.0, torch.zeros_like(log_p, dtype=torch.bool)
    for rank, token in enumerate(log_p.argsort(descending=True).tolist()):
        inside = before < distribution.top_p and (not distribution.top_k or rank < distribution.top_k)
        kept[token] = inside and float(log_p[token]) >= most + math.log(distribution.min_p or 1e-300)
        before += float(log_p[token].exp())
    return kept


def test_a_batch_of_different_distributions_is_its_rows_one_by_one() -> None:
    """Which tokens stay, exactly; and a row alone has the same bits."""
    kinds = [
        Distribution(t, k, p, m)
        for t, k, p, m in itertools.product((0.7, 1.0), (0, 3, 20, 99), (0.1, 0.8, 1.0), (0, 0.2))
    ]
    logits = 2 * torch.randn(len(kinds), 50, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    policy = Policy(kinds, CPU)
    together = policy.log_probabilities(policy.tempered(logits))
    for row, (kind, found) in enumerate(zip(kinds, together, strict=True)):
        alone = Policy([kind], CPU)
        tempered = alone.tempered(logits[row : row + 1])
        assert torch.equal((found > -INF), one_by_one(tempered[0], kind)), kind
        assert torch.equal(alone.log_probabilities(tempered)[0], found), kind


def test_equally_likely_tokens_stay_together() -> None:
    logits = [math.log(p) for p in (0.4, 0.2, 0.2, 0.2)]
    for truncation in ({"top_k": 2}, {"top_p": 0.5}, {"min_p": 0.5}):
        assert probabilities(logits, **truncation) == pytest.approx([0.4, 0.2, 0.2, 0.2])


class Counted(TorchDispatchMode):
    """Names of the operations that torch runs."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def operations(kind: Distribution, rows: int) -> list[str]:
    policy = Policy([kind] * rows, CPU)
    tempered = policy.tempered(torch.randn(rows, 30))
    with Counted() as counted:
        policy.draw(policy.log_probabilities(tempered), torch.full((rows,), 0.5, dtype=torch.float64))
    return counted.names


def test_no_row_is_an_operation_of_its_own_and_a_top_k_sorts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in (Distribution(), Distribution(0.7, 5, 0.9, 0.1)):
        assert operations(kind, 3) == operations(kind, 40)
    sorted_by = list[Any]()
    monkeypatch.setattr(policy_module, "_descending", lambda values, least: sorted_by.append(values) or values)
    assert not {"sort", "argsort"} & set(operations(Distribution(top_k=5), 4))
    assert not sorted_by
    operations(Distribution(top_p=0.5), 4)
    assert len(sorted_by) == 1


def test_the_nucleus_is_taken_at_the_temperature() -> None:
    assert probabilities(LOGITS, temperature=0.5, top_p=0.5) == pytest.approx([0, 1, 0, 0])
    assert probabilities(LOGITS, temperature=1.0, top_p=0.5) == pytest.approx([0, 4 / 7, 0, 3 / 7])


def test_rows_are_truncated_apart_and_greedy_rows_not_at_all() -> None:
    samplings = [Sampling(1), Sampling(1, top_k=2), Sampling(1, temperature=0.0, top_k=2, top_p=0.1)]
    policy = Policy.of(samplings, CPU)
    found = policy.log_probabilities(policy.tempered(torch.tensor([LOGITS] * 3, dtype=torch.float64))).exp()
    wanted = [[0.1, 0.4, 0.2, 0.3], [0, 4 / 7, 0, 3 / 7], [0.1, 0.4, 0.2, 0.3]]
    torch.testing.assert_close(found, torch.tensor(wanted, dtype=torch.float64))


def test_a_row_that_truncates_nothing_keeps_its_tail_beside_one_that_does() -> None:
    """In float32 the first token's probability rounds to 1, and the cumulative sum with it."""
    policy = Policy.of([Sampling(1), Sampling(1, top_k=1)], CPU)
    found = policy.log_probabilities(policy.tempered(torch.tensor([[30.0, 0.0, 1.0]] * 2)))
    assert found[0].tolist() == pytest.approx([0.0, -30.0, -29.0])
    assert found[1].tolist() == [0.0, -INF, -INF]


def test_a_drawn_token_is_kept_whatever_rounding_says() -> None:
    policy = Policy.of([Sampling(1, top_k=1)], CPU)
    tempered = policy.tempered(torch.tensor([[LOGITS, LOGITS]], dtype=torch.float64))
    found = policy.log_probabilities(tempered, keep=torch.tensor([[[3], [1]]])).exp()
    assert found[0, 0].tolist() == pytest.approx([0, 4 / 7, 0, 3 / 7])
    assert found[0, 1].tolist() == pytest.approx([0, 1, 0, 0])


def test_the_draw_is_the_inverse_of_the_cumulative_sum() -> None:
    log_p = torch.tensor([[0.0, 0.5, 0.0, 0.5]], dtype=torch.float64).log()
    policy = Policy.of([Sampling(1)], CPU)
    points = {0.0: 1, 0.25: 1, 0.499: 1, 0.5: 3, 0.75: 3, 1 - 2**-53: 3}
    assert {u: int(policy.draw(log_p, torch.tensor([u], dtype=torch.float64))) for u in points} == points


def test_a_greedy_row_takes_the_likeliest_token_whatever_its_number() -> None:
    log_p = torch.tensor([LOGITS] * 2, dtype=torch.float64)
    policy = Policy.of([Sampling(1, temperature=0.0), Sampling(1)], CPU)
    assert policy.draw(log_p, torch.tensor([0.99, 0.99], dtype=torch.float64)).tolist() == [1, 3]


def test_tokens_are_drawn_as_often_as_they_are_likely() -> None:
    draws = 8_000
    samplings = [Sampling(1, temperature=0.8, seed=seed, top_k=3) for seed in range(draws)]
    policy = Policy.of(samplings, CPU)
    log_p = policy.log_probabilities(policy.tempered(torch.tensor([LOGITS], dtype=torch.float64).expand(draws, -1)))
    drawn = policy.draw(log_p, uniforms(samplings, 1)[:, 0])
    counts = torch.bincount(drawn, minlength=4)
    for token, p in enumerate(probabilities(LOGITS, temperature=0.8, top_k=3)):
        assert int(counts[token]) / draws == pytest.approx(p, abs=4 * math.sqrt(p * (1 - p) / draws)), token
    assert int(counts[0]) == 0


def test_random_numbers_belong_to_the_request() -> None:
    alone = uniforms([Sampling(1, seed=5)], 3)[0]
    together = uniforms([Sampling(1, seed=4), Sampling(1, seed=5)], 300)[1]
    assert torch.equal(alone, together[:3])
    assert not torch.equal(alone, uniforms([Sampling(1, seed=4)], 3)[0])
    assert float(together.min()) >= 0.0
    assert float(together.max()) < 1.0


def test_prompts_end_in_one_column_and_padding_has_no_position() -> None:
    ids, mask = pad_left([[7], [4, 5, 6]], 9, CPU)
    assert ids.tolist() == [[9, 9, 7], [4, 5, 6]]
    assert mask.tolist() == [[False, False, True], [True, True, True]]
    assert positions(mask).tolist() == [[0, 0, 0], [0, 1, 2]]


def test_the_likelihood_of_a_text_is_the_sum_over_its_tokens_and_its_end() -> None:
    samplings = [Sampling(6, seed=seed) for seed in range(40)]
    found = said(samplings)
    lengths = set()
    for row in range(40):
        ids = token_ids(found, row)
        by_hand = sum(math.log(CHAIN[a, b]) for a, b in zip((1, *ids), ids, strict=False))
        assert log_likelihood(found, row) == pytest.approx(by_hand)
        assert STOP not in ids[:-1]
        assert ids[-1] == STOP or len(ids) == 6
        lengths.add(len(ids))
    assert {1, 6} <= lengths


def test_the_likelihood_is_that_of_the_distribution_drawn_from() -> None:
    found = said([Sampling(4, temperature=0.5, seed=seed, top_k=2) for seed in range(10)])
    for row in range(10):
        before, total = 1, 0.0
        for token in token_ids(found, row):
            kept = sorted((float(p) ** 2 for p in CHAIN[before]), reverse=True)[:2]
            total += math.log(float(CHAIN[before, token]) ** 2 / sum(kept))
            before = token
        assert log_likelihood(found, row) == pytest.approx(total)


def test_greedy_likelihood_is_the_models_own() -> None:
    found = said([Sampling(3, temperature=0.0, top_k=1)])
    assert token_ids(found, 0) == (1, 1, 1)
    assert log_likelihood(found, 0) == pytest.approx(3 * math.log(0.5))


def test_each_row_ends_at_its_own_limit_or_end_token() -> None:
    endless = torch.tensor([[0.0, 0.0, 1.0, 0.0]] * 3 + [[1.0, 0, 0, 0]], dtype=torch.float64).clamp_min(1e-9)
    endless[1] = torch.tensor([0.0, 0.0, 0.0, 1.0]).clamp_min(1e-9)
    limits = [2, 5, 1, 5]
    found = said([Sampling(n, temperature=0.0) for n in limits], [[2], [2], [2], [2, 1]], ChainLM(endless))
    assert [token_ids(found, row) for row in range(4)] == [(2, 2), (2,) * 5, (2,), (STOP,)]
    assert found.tokens[3].tolist() == [STOP, PAD, PAD, PAD, PAD]


def test_rows_that_have_ended_leave_when_a_quarter_has() -> None:
    never = torch.tensor([[0.0, 0.5, 0.5, 0.0]] * 4, dtype=torch.float64).clamp_min(1e-9)
    model, limits = ChainLM(never), [6, 1, 2, 2, 3, 6, 6, 6]
    together = said([Sampling(n, seed=seed) for seed, n in enumerate(limits)], model=model)
    assert model.rows_read == [1, 8, 5, 5, 5, 5]
    for row, limit in enumerate(limits):
        assert token_ids(together, row) == token_ids(said([Sampling(limit, seed=row)], model=ChainLM(never)), 0)


def test_a_device_that_is_not_waited_for_says_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between looks texts that have ended go on as padding."""
    samplings = [Sampling(3 + seed % 9, seed=seed) for seed in range(20)]
    every, model = said(samplings), ChainLM()
    monkeypatch.setitem(sample_module.UNSEEN, "cpu", 4)
    seldom = said(samplings, model=model)
    assert seldom.rows() == every.rows()
    assert seldom.tokens.tolist() == every.tokens.tolist()
    assert model.rows_read[:5] == [1, *[20] * 3, model.rows_read[4]], "looked at after four tokens"
    assert model.rows_read[4] < 15


def test_decoding_stops_when_every_row_has_ended() -> None:
    ends = torch.tensor([[0.0, 0.0, 0.0, 1.0]] * 4, dtype=torch.float64).clamp_min(1e-9)
    assert said([Sampling(50, temperature=0.0)] * 2, model=ChainLM(ends)).tokens.shape == (2, 1)


def test_each_drawn_token_is_read_once() -> None:
    model = ChainLM()
    found = said([Sampling(4, temperature=0.0)], [[1, 2]], model)
    assert model.cache.rows.tolist() == [[1, 2, *token_ids(found, 0)[:-1]]]


def test_a_prompt_that_rows_share_is_read_once_and_each_goes_on_alone() -> None:
    model, samplings = ChainLM(), [Sampling(5, seed=seed) for seed in range(6)]
    prompts = [[1], [2, 1], [1], [1], [2, 1], [1]]
    together = said(samplings, prompts, model)
    assert model.rows_read[0] == 2
    assert model.rows_read[1] == sum(len(token_ids(together, row)) > 1 for row in range(6)) > 2
    for row in range(6):
        alone = said([samplings[row]], [prompts[row]])
        assert token_ids(together, row) == token_ids(alone, 0)
        assert log_likelihood(together, row) == pytest.approx(log_likelihood(alone, 0))


def test_rows_that_differ_in_prompt_or_adapter_are_read_apart() -> None:
    one, other = (Adapter(layout(), torch.zeros(layout().size)) for _ in range(2))
    rescaled = Adapter(layout(scaling=2.0), one.values)
    adapters = [one, one, other, None, rescaled, None, one]
    first, index = distinct([[1], [1], [1], [1], [1], [1], [2]], adapters)
    assert first == [0, 2, 3, 4, 6]
    assert index == [0, 0, 1, 2, 3, 2, 4]


def spoken(tiny_lms: dict[str, Path], stop: tuple[str, ...]) -> tuple[Sampled, FrozenLM]:
    candidate = FrozenLM.load(tiny_experiment(tiny_lms).candidates[0].model_copy(update={"stop": stop}))
    asked = SampleRequest((Message("user", "say something"),), Sampling(30, seed=2))
    return candidate.sample([asked])[0], candidate


def test_a_stop_text_ends_a_completion_and_is_not_part_of_it(tiny_lms: dict[str, Path]) -> None:
    whole, candidate = spoken(tiny_lms, ())
    pieces = [candidate._lm.tokenizer.decode([i]) for i in whole.token_ids]
    at = next(i for i, piece in enumerate(pieces) if i > 2 and piece.isalnum() and piece not in pieces[:i])
    ended, _ = spoken(tiny_lms, ("never", pieces[at]))
    assert ended.token_ids == whole.token_ids[: at + 1]
    assert ended.text == candidate._lm.tokenizer.decode(list(whole.token_ids[:at]), skip_special_tokens=True)
    assert ended.completion_tokens == at + 1 < whole.completion_tokens
    assert ended.log_likelihood > whole.log_likelihood


class FiveTokens:
    def __len__(self) -> int:
        return 5

    def batch_decode(self, rows: Sequence[Sequence[int]]) -> list[str]:
        return [("a", "b", "\n", "a\n\n", " \n")[i] for (i,) in rows]


def test_every_token_that_contains_a_stop_text_ends_a_completion() -> None:
    assert _tokens_with(("\n", "zz"), FiveTokens()) == [2, 3, 4]  # type: ignore[arg-type]
    assert _tokens_with((), FiveTokens()) == []  # type: ignore[arg-type]


@pytest.mark.parametrize("cold", [1e-38, 1e-300])
def test_however_cold_the_likeliest_is_drawn(cold: float) -> None:
    policy = Policy.of([Sampling(1, temperature=cold)], torch.device("cpu"))
    log_p = policy.log_probabilities(policy.tempered(torch.tensor([[1.0, 5.0, 3.0, 2.0]])))
    assert log_p.exp().tolist() == [[0.0, 1.0, 0.0, 0.0]]
    assert policy.draw(log_p, torch.tensor([0.99], dtype=torch.float64)).tolist() == [1]


def test_more_tokens_than_any_vocabulary_has_are_all_of_it() -> None:
    assert probabilities(LOGITS, top_k=10**400) == probabilities(LOGITS)


def test_a_nucleus_does_not_depend_on_the_rows_beside_it() -> None:
    """Of a tail just below the bound from which on tokens are left out, as float32 rounds it."""
    count, top_p, told = 50_000, 0.9999, Distribution(top_p=0.9999)
    tail = (1 - top_p) / count * math.exp(-1e-3) * 0.9999
    for seed in range(60):
        draw = torch.Generator().manual_seed(seed)
        head = torch.rand(50, generator=draw, dtype=torch.float64) + 0.05
        row = torch.cat(
            [head / head.sum() * (1 - tail * (count - 50)), torch.full((count - 50,), tail, dtype=torch.float64)]
        )
        row = row.log().float() + 8 * torch.randn(1, generator=draw)
        other = 0.1 * torch.randn(count, generator=draw)
        alone, beside = Policy([told], torch.device("cpu")), Policy([told] * 2, torch.device("cpu"))
        found = alone.log_probabilities(alone.tempered(row[None]))[0]
        assert torch.equal(found, beside.log_probabilities(beside.tempered(torch.stack([row, other])))[0])
