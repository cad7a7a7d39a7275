"""What is kept between sampling and scoring: shared by completions of a prompt, within a budget of bytes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from haps_search.candidates.activations import ActivationCache, Activations, Kept

HIDDEN = 2
A, B, C = (1, 2, 3), (4, 5), (6,)
SAID, ALSO = (7, 8), (9, 9, 9)


def states(tokens: int, value: float = 0.0) -> Tensor:
    """8 bytes a token."""
    return torch.full((tokens, HIDDEN), value, dtype=torch.float32)


def kept(prompt: tuple[int, ...], tokens: tuple[int, ...], first: int = 1) -> Activations:
    return Activations(first, states(len(prompt)), states(len(tokens) - 1))


def tail(prompt: tuple[int, ...], tokens: tuple[int, ...], first: int = 2) -> Activations:
    keys = torch.zeros(1, len(prompt) - 1, HIDDEN, dtype=torch.float32)
    return Activations(first, states(1), states(len(tokens) - 1), (keys, keys))


def test_completions_of_a_prompt_share_its_part() -> None:
    cache = ActivationCache(1000)
    cache.put(A, SAID, kept(A, SAID))
    assert cache.size == 8 * (3 + 1)
    cache.put(A, ALSO, kept(A, ALSO))
    assert cache.size == 8 * (3 + 1 + 2)
    one, other = cache.get(A, SAID, 1, False), cache.get(A, ALSO, 1, False)
    assert one is not None
    assert other is not None
    assert one.prompt is other.prompt
    assert (len(one.text), len(other.text)) == (1, 2)
    cache.put(A, ALSO, kept(A, ALSO))
    assert cache.size == 8 * (3 + 1 + 2), "the same once more"


def test_what_was_not_used_for_longest_leaves_first_with_all_of_its_completions() -> None:
    cache = ActivationCache(8 * 10)
    cache.put(A, SAID, kept(A, SAID))
    cache.put(A, ALSO, kept(A, ALSO))
    cache.put(B, SAID, kept(B, SAID))
    assert cache.size == 8 * 9
    assert cache.get(A, SAID, 1, False) is not None
    cache.put(C, SAID, kept(C, SAID))
    assert [cache.get(p, SAID, 1, False) is not None for p in (A, B, C)] == [True, False, True]
    cache.put(B, ALSO, kept(B, ALSO))
    assert [cache.get(p, t, 1, False) is not None for p, t in ((A, SAID), (A, ALSO), (B, ALSO), (C, SAID))] == [
        False, False, True, True,
    ]  # fmt: skip
    assert cache.size == 8 * (2 + 2 + 1 + 1)


@pytest.mark.parametrize("budget", [0, 8 * 3])
def test_what_does_not_fit_is_not_kept(budget: int) -> None:
    cache = ActivationCache(budget)
    cache.put(A, SAID, kept(A, SAID))
    assert cache.size == 0
    assert cache.get(A, SAID, 1, False) is None


def test_states_serve_adapters_that_patch_nothing_below_them() -> None:
    cache = ActivationCache(1000)
    cache.put(A, SAID, kept(A, SAID, first=1))
    assert [cache.get(A, SAID, first, True) is not None for first in (0, 1, 2)] == [False, True, True]


def test_keys_and_values_serve_adapters_that_patch_nothing_that_feeds_them() -> None:
    cache = ActivationCache(1000)
    cache.put(A, SAID, tail(A, SAID))
    assert cache.get(A, SAID, 2, False) is None
    found = cache.get(A, SAID, 2, True)
    assert found is not None
    assert found.prompt_tokens == len(A)
    cache.put(A, SAID, kept(A, SAID, first=2))
    whole = cache.get(A, SAID, 2, False)
    assert whole is not None
    assert whole.past is None
    assert cache.size == 8 * (1 + 4 + 1) + 8 * (3 + 1)


def test_what_was_scored_is_forgotten_in_every_form_and_the_prompt_with_its_last() -> None:
    cache = ActivationCache(1000)
    for each in (tail(A, SAID), kept(A, SAID, first=2)):
        cache.put(A, SAID, each)
    cache.put(A, ALSO, tail(A, ALSO))
    cache.drop(A, SAID)
    assert cache.get(A, SAID, 2, True) is None
    assert cache.size == 8 * (1 + 4 + 2)
    cache.drop(A, ALSO)
    assert cache.size == 0
    cache.drop(B, SAID)
    cache.put(A, SAID, kept(A, SAID))
    cache.clear()
    assert (cache.size, cache.get(A, SAID, 1, True)) == (0, None)


def test_a_batch_leaves_each_row_its_own_without_padding() -> None:
    """Two prompts, the first for two rows; the second row had left when the last token was fed."""
    batch = Kept(first=1)
    batch.reads(range(3))
    batch.add(torch.stack([torch.cat([states(1), states(2, 1.0)]), states(3, 2.0)]))
    batch.prefilled([0, 0, 1], Layers())
    batch.writes(torch.arange(3))
    batch.add(torch.stack([states(1, value) for value in (3.0, 4.0, 5.0)]))
    batch.writes(torch.tensor([0, 2]))
    batch.add(torch.stack([states(1, value) for value in (6.0, 7.0)]))
    prompts, completions = [B, B, A], [(1, 1, 1), (1, 1), (1, 1, 1)]
    one, two, three = batch.activations(range(3), prompts, completions, [False] * 3)
    assert one.prompt is two.prompt
    assert [row.prompt[:, 0].tolist() for row in (one, three)] == [[1.0, 1.0], [2.0, 2.0, 2.0]]
    assert [row.text[:, 0].tolist() for row in (one, two, three)] == [[3.0, 6.0], [4.0], [5.0, 7.0]]
    (again,) = batch.activations([1], [B], [(1, 1)], [True])
    assert again.past is None, "layer 1 of three is not the last"
    assert again.text[:, 0].tolist() == [4.0]


class Layers:
    """A cache of three layers that nobody looks into."""

    layers = (None,) * 3
