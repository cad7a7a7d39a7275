"""Which modules are patched, how a flat adapter is laid out, and how far an update goes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from made import layout, module, normal
from torch import nn

from haps_search.config.routing import LoraConfig
from haps_search.errors import ConfigError
from haps_search.lora.adapter import bounded, flattened, matrices, relative_norms, relative_spectral_norms
from haps_search.lora.spec import EXACT, module_table, resolve, spectral_norm
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
    class TopRouter(nn.Linear):
        """As families with experts have it: a linear module by its weights, whose call returns several things."""

    block = nn.ModuleDict({"o_proj": nn.Linear(5, 3), "norm": nn.LayerNorm(3), "router": TopRouter(5, 2)})
    model = nn.ModuleDict({"layers": nn.ModuleList([block, nn.ModuleDict({"up": nn.Linear(3, 4)})])})
    found = module_table("m", nn.ModuleDict({"model": model, "lm_head": nn.Linear(4, 9)}))
    assert [(m.name, m.layer, m.d_in, m.d_out) for m in found.modules] == [
        ("model.layers.0.o_proj", 0, 5, 3),
        ("model.layers.1.up", 1, 3, 4),
    ]
    assert found.layers == 2
    weight = block["o_proj"].weight.detach()
    assert found.modules[0].weight_norm == pytest.approx(float(weight.square().sum().sqrt()))
    assert found.modules[0].spectral_norm == pytest.approx(float(torch.linalg.svdvals(weight)[0]))


def test_a_table_leaves_the_number_of_threads_as_it_was() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        module_table("m", nn.ModuleDict({"layers": nn.ModuleList([nn.Linear(3, 4)])}))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_on_the_meta_device_there_are_no_norms() -> None:
    with torch.device("meta"):
        model = nn.ModuleDict({"layers": nn.ModuleList([nn.ModuleDict({"up": nn.Linear(3, 4)})])})
    (up,) = module_table("m", nn.ModuleDict({"model": model})).modules
    assert math.isnan(up.weight_norm)
    assert up.spectral_norm is None


@pytest.mark.parametrize("shape", [(EXACT + 64, EXACT + 300), (EXACT + 300, EXACT + 64)])
def test_the_spectral_norm_of_a_large_weight_is_within_a_hundredth_and_never_too_large(shape: tuple[int, int]) -> None:
    """A Gaussian matrix is the hardest, one of a single direction the easiest."""
    gaussian = normal(*shape, seed=3)
    truth = float(torch.linalg.svdvals(gaussian)[0])
    assert truth >= spectral_norm(gaussian) > 0.99 * truth
    single = torch.outer(normal(shape[0]), normal(shape[1], seed=1))
    assert spectral_norm(single) == pytest.approx(float(single.norm()))


def test_taking_a_spectral_norm_leaves_the_random_numbers_of_others_alone() -> None:
    torch.manual_seed(5)
    wanted = torch.rand(2).tolist()
    torch.manual_seed(5)
    spectral_norm(torch.ones(EXACT + 1, EXACT + 1))
    assert torch.rand(2).tolist() == wanted


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


def spectral_norms(spec: AdapterLayout, values: torch.Tensor) -> list[float]:
    """Of the dense updates, by the definition."""
    pairs = zip(spec.targets, matrices(spec, values), strict=True)
    return [float(torch.linalg.svdvals(spec.scaling * b @ a)[0]) / (t.spectral_norm or 0) for t, (a, b) in pairs]


@pytest.mark.parametrize(("rank", "scaling"), [(1, 1.0), (2, 0.5), (7, 3.0)])
def test_relative_spectral_norms_are_those_of_the_dense_update(rank: int, scaling: float) -> None:
    spec = layout(rank, scaling)
    values = normal(3, spec.size)
    found = relative_spectral_norms(spec, values)
    assert found.shape == (3, 2)
    for row in range(3):
        assert found[row].tolist() == pytest.approx(spectral_norms(spec, values[row]))


def of_singular_values(*wanted: float) -> tuple[AdapterLayout, torch.Tensor]:
    """An adapter for one weight of spectral norm 1.5, whose update is 0.5 * B A with these singular values."""
    spec = layout(len(wanted), 0.5, (module(0, 7, 6),))
    u, v = (torch.linalg.qr(normal(n, len(wanted), seed=n)).Q for n in (6, 7))
    mixed = torch.eye(len(wanted), dtype=torch.float64) + 0.3 * normal(len(wanted), len(wanted), seed=9)
    b = u @ torch.diag(torch.tensor(wanted, dtype=torch.float64) / 0.5) @ mixed
    a = torch.linalg.solve(mixed, v.mT)
    return spec, torch.cat([a.flatten(), b.flatten()])


def test_the_spectral_norm_of_a_known_update() -> None:
    spec, values = of_singular_values(0.3, 1.2, 0.6)
    assert relative_spectral_norms(spec, values).tolist() == pytest.approx([1.2 / 1.5])
    within = bounded(spec, values, spectral=0.5)
    ((a, b),) = matrices(spec, within)
    assert torch.linalg.svdvals(0.5 * b @ a)[:3].tolist() == pytest.approx([0.75, 0.375, 0.1875])


@pytest.mark.parametrize(
    "singular", [(0.3, 1.2, 0.6), (0.6, 1.2, 0.6), (0.0, 1.2, 0.0), (0.1, 0.1, 0.1), (0.0, 0.0, 0.0)]
)
def test_the_spectral_bounds_gradient_is_the_true_one_where_the_largest_value_is_alone_or_within(
    singular: tuple[float, ...],
) -> None:
    spec, values = of_singular_values(*singular)
    assert torch.autograd.gradcheck(lambda v: bounded(spec, v, spectral=0.5), values.requires_grad_())


def test_where_several_singular_values_are_largest_the_gradient_is_a_subgradient() -> None:
    """The spectral norm is convex in the update: f(x + h) >= f(x) + <g, h> up to what is of second order in h."""
    spec, values = of_singular_values(1.2, 1.2, 1.2)
    values.requires_grad_()
    (gradient,) = torch.autograd.grad(relative_spectral_norms(spec, values).sum(), values)
    assert bool(gradient.isfinite().all())
    assert float(gradient.norm()) > 0.1
    with torch.no_grad():
        here = relative_spectral_norms(spec, values).sum()
        for seed in range(50):
            h = 1e-4 * normal(spec.size, seed=seed)
            assert relative_spectral_norms(spec, values + h).sum() >= here + gradient @ h - 1e-6
    (moved,) = torch.autograd.grad(bounded(spec, values, spectral=0.5).square().sum(), values)
    assert bool(moved.isfinite().all())


def test_of_two_bounds_both_hold() -> None:
    spec, values = of_singular_values(0.3, 1.2, 0.6)
    for frobenius, spectral in ((0.2, 0.5), (0.5, 0.1), (0.5, None), (None, 0.5)):
        within = bounded(spec, values, frobenius, spectral)
        reached = [(relative_norms(spec, within), frobenius), (relative_spectral_norms(spec, within), spectral)]
        shares = [float(norm) / limit for norm, limit in reached if limit is not None]
        assert max(shares) == pytest.approx(1.0)


def test_a_frobenius_bound_lets_an_update_of_rank_one_exceed_the_weight_itself() -> None:
    """Why there are two: 64 equal singular values have 8 times the norm of one."""
    weight = torch.eye(64)
    target = LinearModule("model.layers.0.up", 0, 64, 64, float(weight.norm()), spectral_norm(weight))
    spec = layout(1, 1.0, (target,))
    values = bounded(spec, 100 * normal(spec.size), 0.5)
    assert float(relative_spectral_norms(spec, values)) == pytest.approx(4.0)


def test_numbers_that_are_not_finite_stay_so_without_an_error() -> None:
    spec, values = of_singular_values(0.3, 1.2)
    values[0] = math.inf
    assert not bool(relative_spectral_norms(spec, values).isfinite().all())


def test_a_weight_without_a_spectral_norm_is_named() -> None:
    bare = LinearModule("model.layers.0.up", 0, 3, 4, 1.0)
    with pytest.raises(ValueError, match=r"layers\.0\.up: the spectral norm"):
        bounded(layout(1, 1.0, (bare,)), normal(7), spectral=0.5)


@pytest.mark.parametrize("limits", [{"frobenius": 0.5}, {"spectral": 0.5}, {"frobenius": 0.5, "spectral": 0.5}])
def test_a_zero_adapter_stays_zero_with_a_finite_gradient(limits: dict[str, float]) -> None:
    values = torch.zeros(layout().size, requires_grad=True)
    within = bounded(layout(), values, **limits)
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
