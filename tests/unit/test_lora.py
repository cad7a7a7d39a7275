"""Which modules are patched, how a flat adapter is laid out, and how far an update goes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from made import layout, module, normal
from torch import nn

from haps_search.config.routing import LoraConfig
from haps_search.errors import ConfigError
from haps_search.lora.adapter import bounded, flattened, matrices, relative_norms
from haps_search.lora.spec import module_table, resolve
from haps_search.types import Adapter, AdapterLayout, LinearModule, ModuleTable


def four_layers() -> ModuleTable:
    found = []
    for layer in range(4):
        found += [module(layer, 8, 8, "q_proj"), module(layer, 8, 6, "o_proj")]
        found.append(LinearModule(f"model.layers.{layer}.mlp.up_proj", layer, 6, 12, 1.0))
    return ModuleTable("nina", 4, tuple(found))


def chosen(**described: Any) -> list[tuple[int, str]]:
    found = resolve(LoraConfig.model_validate(described), four_layers())
    return [(t.layer, t.name.rsplit(".", 1)[-1]) for t in found.targets]


def problem(**described: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        chosen(**described)
    return str(caught.value)


@pytest.mark.parametrize(
    ("layers", "wanted"),
    [
        ({"last": 1}, [3]),
        ({"last": 3}, [1, 2, 3]),
        ({"last": 4}, [0, 1, 2, 3]),
        ("all", [0, 1, 2, 3]),
        ([2, 0], [0, 2]),
    ],
)
def test_layers(layers: object, wanted: list[int]) -> None:
    assert chosen(layers=layers) == [(layer, "o_proj") for layer in wanted]


def test_targets_stand_in_the_order_of_the_model_and_once_each() -> None:
    targets = ["up_proj", "self_attn.q_proj", "q_proj", "model.layers.3.self_attn.o_proj"]
    assert chosen(layers={"last": 2}, targets=targets) == [
        (2, "q_proj"), (2, "up_proj"), (3, "q_proj"), (3, "o_proj"), (3, "up_proj"),
    ]  # fmt: skip


def test_a_target_is_a_whole_name_ending_not_any_ending() -> None:
    assert "'proj' names no linear module" in problem(targets=["proj"])


def test_rank_and_scaling_reach_the_layout() -> None:
    found = resolve(LoraConfig(rank=3, scaling=0.25), four_layers())
    assert (found.rank, found.scaling, found.size) == (3, 0.25, 3 * (8 + 6))


def test_every_unknown_target_is_named_with_its_nearest_spelling() -> None:
    message = problem(targets=["o_porj", "o_proj", "wqkv"])
    assert "2 problems" in message
    assert "'o_porj' names no linear module of candidate nina; did you mean o_proj?" in message
    assert "'wqkv'" in message
    assert "(it has o_proj, q_proj, up_proj)" in message


@pytest.mark.parametrize(
    ("layers", "wanted"),
    [
        ({"last": 5}, "last 5 of candidate nina, which has 4 layers"),
        ([1, 4, 9], r"nina has layers 0 to 3, got [4, 9]"),
        ([-1], r"got [-1]"),
    ],
)
def test_layers_that_are_not_there_are_refused(layers: object, wanted: str) -> None:
    assert wanted in problem(layers=layers)


def test_a_table_holds_the_linear_modules_of_numbered_layers() -> None:
    block = nn.ModuleDict({"o_proj": nn.Linear(5, 3), "norm": nn.LayerNorm(3)})
    model = nn.ModuleDict({"layers": nn.ModuleList([block, nn.ModuleDict({"up": nn.Linear(3, 4)})])})
    found = module_table("m", nn.ModuleDict({"model": model, "lm_head": nn.Linear(4, 9)}))
    assert [(m.name, m.layer, m.d_in, m.d_out) for m in found.modules] == [
        ("model.layers.0.o_proj", 0, 5, 3),
        ("model.layers.1.up", 1, 3, 4),
    ]
    assert found.layers == 2
    assert found.modules[0].weight_norm == pytest.approx(float(block["o_proj"].weight.detach().square().sum().sqrt()))


def test_a_flat_adapter_is_a_then_b_row_by_row_target_by_target() -> None:
    spec = layout(2, 1.0, (module(0, 3, 2), module(1, 1, 2)))
    assert spec.size == 2 * (3 + 2) + 2 * (1 + 2)
    (a0, b0), (a1, b1) = matrices(spec, torch.arange(spec.size))
    assert a0.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert b0.tolist() == [[6, 7], [8, 9]]
    assert a1.tolist() == [[10], [11]]
    assert b1.tolist() == [[12, 13], [14, 15]]


def test_matrices_keep_leading_dimensions_and_view_the_flat_adapter() -> None:
    spec = layout()
    values = normal(2, 4, spec.size)
    (a, b), _ = matrices(spec, values)
    assert (a.shape, b.shape) == ((2, 4, 2, 5), (2, 4, 3, 2))
    torch.testing.assert_close(a[1, 2], matrices(spec, values[1, 2])[0][0])
    assert a.data_ptr() == values.data_ptr()


def dense_norms(spec: AdapterLayout, values: torch.Tensor) -> list[float]:
    pairs = zip(spec.targets, matrices(spec, values), strict=True)
    return [float((spec.scaling * b @ a).norm()) / t.weight_norm for t, (a, b) in pairs]


@pytest.mark.parametrize(("rank", "scaling"), [(1, 1.0), (2, 0.5), (7, 3.0)])
def test_relative_norms_are_those_of_the_dense_update(rank: int, scaling: float) -> None:
    spec = layout(rank, scaling)
    values = normal(3, spec.size)
    found = relative_norms(spec, values)
    assert found.shape == (3, 2)
    for row in range(3):
        assert found[row].tolist() == pytest.approx(dense_norms(spec, values[row]))


def test_a_bound_shortens_only_what_is_too_long_and_only_b() -> None:
    spec = layout()
    values = normal(spec.size)
    short, long = sorted(dense_norms(spec, values))
    limit = (short + long) / 2
    within = bounded(spec, values, limit)
    assert sorted(dense_norms(spec, within)) == pytest.approx([short, limit])
    for (a, b), (a_within, b_within) in zip(matrices(spec, values), matrices(spec, within), strict=True):
        assert torch.equal(a, a_within)
        ratio = b_within / b
        torch.testing.assert_close(ratio, ratio[0, 0].expand_as(ratio))


def test_the_gradient_of_a_bounded_adapter_is_the_true_one() -> None:
    spec = layout()
    for limit in (0.1, 100.0):
        assert torch.autograd.gradcheck(
            lambda v, limit=limit: bounded(spec, v, limit), normal(spec.size).requires_grad_()
        )


def test_a_zero_adapter_stays_zero_with_a_finite_gradient() -> None:
    values = torch.zeros(layout().size, requires_grad=True)
    within = bounded(layout(), values, 0.5)
    within.sum().backward()
    assert not within.any()
    assert values.grad is not None
    assert values.grad.tolist() == [1.0] * layout().size


def test_parts_become_one_that_does_what_they_do_together() -> None:
    base = Adapter(layout(3, 0.7, (module(0), module(2, 4, 4, "k_proj"))), normal(3 * (5 + 3) + 3 * 8, seed=1))
    bank, mix = normal(2, layout().size, seed=2), normal(2, seed=3)
    whole = Adapter(layout(), bank, base, mix)
    flat = flattened(whole)
    assert (flat.layout.rank, flat.layout.scaling, flat.parts) == (5, 1.0, (flat,))
    dense: dict[str, torch.Tensor] = {}
    for part, values in ((whole, mix @ bank), (base, base.values)):
        for target, (a, b) in zip(part.layout.targets, matrices(part.layout, values), strict=True):
            dense[target.name] = dense.get(target.name, 0.0) + part.layout.scaling * b @ a
    assert {t.name for t in flat.layout.targets} == set(dense)
    for target, (a, b) in zip(flat.layout.targets, matrices(flat.layout, flat.values), strict=True):
        torch.testing.assert_close(b @ a, dense[target.name])
    assert flattened(base) is base
