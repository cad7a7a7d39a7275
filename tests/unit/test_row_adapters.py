"""Rows of a batch under adapters of their own, against a linear module whose weight was changed by hand."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from made import layout, module, normal
from torch import Tensor, nn

from haps_search.lora import stacks
from haps_search.lora.adapter import matrices
from haps_search.lora.injection import injected, patched
from haps_search.lora.row_adapters import RowAdapters, on_cpu
from haps_search.lora.stacks import Stack
from haps_search.types import Adapter

D_IN, D_OUT, T = 5, 3, 4
CPU = torch.device("cpu")


class Model(nn.Module):
    """One linear module under the name that layouts of these tests patch."""

    def __init__(self) -> None:
        super().__init__()
        self.o_proj = nn.Linear(D_IN, D_OUT, bias=False, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.o_proj(x)
        return out


def adapter(seed: int, rank: int = 2, scaling: float = 0.5, base: Adapter | None = None) -> Adapter:
    target = module(0, D_IN, D_OUT)
    spec = layout(rank, scaling, (type(target)("o_proj", 0, D_IN, D_OUT, 1.0),))
    return Adapter(spec, normal(spec.size, seed=seed), base)


def update(under: Adapter | None) -> Tensor:
    """(D_OUT, D_IN), the sum of the parts' updates."""
    found = torch.zeros(D_OUT, D_IN, dtype=torch.float64)
    for part in under.parts if under is not None else ():
        values = part.values if part.mix is None else part.mix @ part.values
        ((a, b),) = matrices(part.layout, values)
        found = found + part.layout.scaling * b @ a
    return found


ONE, TWO, WIDE = adapter(1), adapter(2), adapter(3, rank=4, scaling=2.0)
ON_BASE = [adapter(seed, rank=1, base=WIDE) for seed in (5, 6)]
BANK = Adapter(ONE.layout, torch.stack([ONE.values, TWO.values]), mix=torch.tensor([0.3, -0.7], dtype=torch.float64))
BATCHES: dict[str, Sequence[Adapter | None]] = {
    "one for all": [ONE] * 5,
    "each its own": [ONE, TWO, adapter(4)],
    "episodes of questions": [ONE, TWO, ONE, TWO, TWO, ONE],
    "most rows share one": [ONE] * 7 + [TWO, adapter(4), adapter(7)],
    "ranks, and a row without": [ONE, WIDE, None, ONE, WIDE],
    "residuals on a shared base": [ON_BASE[0], ON_BASE[1], ON_BASE[0], ON_BASE[1]],
    "a base with and without residual": [ON_BASE[0], WIDE, ON_BASE[1], ONE, None],
    "residual of one question": [ON_BASE[0]] * 3,
    "a bank beside a part of the same shape": [BANK, ONE, BANK, TWO],
}


@pytest.fixture(params=[0, 2**20], ids=["grouped", "copied"], autouse=True)
def small(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(stacks, "SMALL", request.param)
    return int(request.param)


@pytest.mark.parametrize("batch", list(BATCHES.values()), ids=list(BATCHES))
def test_every_row_runs_under_its_own(batch: Sequence[Adapter | None]) -> None:
    model, x = Model(), normal(len(batch), T, D_IN, seed=9)
    wanted = torch.stack([row @ (model.o_proj.weight + update(each)).T for row, each in zip(x, batch, strict=True)])
    rows = RowAdapters(batch, torch.float64, CPU)
    with injected(model, rows), torch.no_grad():
        torch.testing.assert_close(model(x), wanted.detach(), rtol=0, atol=1e-12)
        flattened = model(x.reshape(-1, D_IN))
    torch.testing.assert_close(flattened, wanted.detach().reshape(-1, D_OUT), rtol=0, atol=1e-12)


@pytest.mark.parametrize("batch", list(BATCHES.values()), ids=list(BATCHES))
def test_rows_may_leave_again_and_again(batch: Sequence[Adapter | None]) -> None:
    model, left = Model(), list(enumerate(batch))
    x = normal(len(batch), T, D_IN, seed=9)
    with patched(model, RowAdapters(batch, torch.float64, CPU).stacks()) as (one,), torch.no_grad():
        while len(left) > 1:
            stays = torch.tensor([i % 3 != 1 for i in range(len(left))])
            one.keep(stays)
            left = [pair for pair, here in zip(left, stays.tolist(), strict=True) if here]
            some = x[[i for i, _ in left]]
            wanted = [row @ (model.o_proj.weight + update(each)).T for row, (_, each) in zip(some, left, strict=True)]
            torch.testing.assert_close(model(some), torch.stack(wanted), rtol=0, atol=1e-12)


@pytest.mark.parametrize("batch", list(BATCHES.values()), ids=list(BATCHES))
def test_a_tensor_has_one_gradient_whoever_shares_it(batch: Sequence[Adapter | None]) -> None:
    model, x = Model(), normal(len(batch), T, D_IN, seed=9)
    model.requires_grad_(False)
    along = normal(len(batch), T, D_OUT, seed=11)
    rows = RowAdapters(batch, torch.float64, CPU)
    rows.require_gradients()
    with injected(model, rows):
        found = rows.gradients(model(x), along)
    leaves = {id(t): t.clone().requires_grad_() for each in batch if each is not None for t in each.learnt}
    total = torch.zeros((), dtype=torch.float64)
    for row, each, direction in zip(x, batch, along, strict=True):
        if each is not None:
            total = total + ((row @ update(on(each, leaves)).T) * direction).sum()
    total.backward()
    assert len(found) == len(leaves) == len(rows.learnt)
    for tensor, gradient in zip(rows.learnt, found, strict=True):
        torch.testing.assert_close(gradient, leaves[id(tensor)].grad, rtol=0, atol=1e-12)


def on(each: Adapter, leaves: dict[int, Tensor]) -> Adapter:
    """The same adapter over leaves of a graph."""
    mix = None if each.mix is None else leaves[id(each.mix)]
    return Adapter(each.layout, leaves[id(each.values)], None if each.base is None else on(each.base, leaves), mix)


def test_rows_that_share_are_grouped_and_copied_where_that_is_little_or_most_of_a_group_would_be_empty(
    small: int,
) -> None:
    a, b = normal(4, 2, D_IN), normal(4, D_OUT, 2)
    even = Stack.of([3, 1, 0, 2, 1, 0, 2, 3], a, b)
    assert (even.a is a, even.width) == ((True, 2) if small == 0 else (False, 1))
    assert Stack.of([0, 1, 2, 3], a, b).slots is None
    skewed = Stack.of([0] * 9 + [1, 2, 3], a, b)
    assert (skewed.slots, len(skewed.a)) == (None, 12)


def test_gradients_come_to_the_cpu_in_one_transfer_for_each_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    given = [torch.full((2,), 1.0), None, torch.full((3, 1), 2.0), torch.full((2,), 3.0)]
    moved = list[torch.Size]()
    monkeypatch.setattr(Tensor, "cpu", lambda self: moved.append(self.shape) or self)
    found = on_cpu(given)
    assert moved == [(2, 2), (1, 3, 1)]
    assert found[1] is None
    assert [None if each is None else each.tolist() for each in found] == [[1, 1], None, [[2]] * 3, [3, 3]]
