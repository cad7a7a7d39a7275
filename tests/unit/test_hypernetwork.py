"""From a pooled state to LoRA weights: how they start, how layers share, how far they may go."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from made import layout, module, normal
from torch import Tensor, nn

from haps_search.config.routing import BankLowLevel, GeneratedLowLevel, StaticLowLevel
from haps_search.lora.adapter import flattened, matrices, relative_norms, relative_spectral_norms
from haps_search.routing.hypernetwork import ParameterGenerator, StaticAdapter, build_low_level
from haps_search.routing.router import _assembled

WIDTH = 6
TARGETS = (
    module(0, 5, 3, "o_proj", 2.0),
    module(0, 4, 4, "q_proj", 3.0),
    module(1, 5, 3, "o_proj", 5.0),
    module(1, 4, 4, "q_proj", 3.0),
    module(2, 5, 4, "o_proj", 3.0),
)
LAYOUT = layout(rank=2, scaling=0.5, targets=TARGETS)
POOLED = normal(7, WIDTH, seed=1)
SHARING = ["per_layer", "shared"]


def generator(seed: int = 0, **described: Any) -> ParameterGenerator:
    torch.manual_seed(seed)
    config = GeneratedLowLevel.model_validate({"hidden": (8,), **described})
    return ParameterGenerator(config, WIDTH, LAYOUT).double()


def static(seed: int = 0, **described: Any) -> StaticAdapter:
    torch.manual_seed(seed)
    return StaticAdapter(StaticLowLevel.model_validate(described), LAYOUT).double()


def low_level(type: str, **described: Any) -> nn.Module:
    return static(**described) if type == "static" else generator(sharing=type, **described)


def size_of_b(values: Tensor) -> float:
    return max(float(b.detach().abs().max()) for _, b in matrices(LAYOUT, values))


@pytest.mark.parametrize("type", [*SHARING, "static"])
def test_zero_starts_as_the_frozen_model_with_a_ready_to_learn(type: str) -> None:
    values = low_level(type, init="zero")(POOLED)
    assert values.shape == (7, LAYOUT.size)
    assert size_of_b(values) == 0.0
    assert float(relative_norms(LAYOUT, values).detach().max()) < 1e-9
    assert all(float(a.detach().abs().min(-1).values.max()) > 0 for a, _ in matrices(LAYOUT, values))


@pytest.mark.parametrize("type", [*SHARING, "static"])
def test_from_zero_the_gradient_of_b_reaches_the_weights(type: str) -> None:
    low = low_level(type, init="zero")
    values = low(POOLED)
    sum(b.sum() for _, b in matrices(LAYOUT, values)).backward()
    gradients = [p.grad for p in low.parameters() if p.grad is not None]
    assert all(bool(g.isfinite().all()) for g in gradients)
    assert max(float(g.abs().max()) for g in gradients) > 0.5


@pytest.mark.parametrize("type", [*SHARING, "static"])
def test_xavier_starts_away_from_the_frozen_model(type: str) -> None:
    values = low_level(type, init="xavier", max_relative_norm=None)(POOLED)
    assert float(relative_norms(LAYOUT, values).detach().min()) > 1e-4


@pytest.mark.parametrize("sharing", SHARING)
def test_each_question_gets_its_own_adapter(sharing: str) -> None:
    for init in ("zero", "xavier"):
        values = generator(sharing=sharing, init=init)(POOLED)
        assert torch.unique(values, dim=0).shape[0] == 7, init


def test_a_static_adapter_is_the_same_for_every_question() -> None:
    values = static(init="xavier")(POOLED)
    assert torch.unique(values, dim=0).shape[0] == 1
    torch.testing.assert_close(static(init="xavier", max_relative_norm=None)(POOLED)[3], static(init="xavier").values)


def test_a_question_does_not_depend_on_the_others_of_its_batch() -> None:
    low = generator(init="xavier", max_relative_norm=0.01)
    torch.testing.assert_close(low(POOLED)[2:4], low(POOLED[2:4]))


def test_shared_layers_get_equal_matrices_and_other_shapes_their_own() -> None:
    values = generator(sharing="shared", init="xavier", max_relative_norm=None)(POOLED)
    (a0, b0), (a1, b1), (a2, b2), (a3, b3), (a4, _) = matrices(LAYOUT, values)
    assert torch.equal(a0, a2)
    assert torch.equal(b0, b2)
    assert torch.equal(a1, a3)
    assert torch.equal(b1, b3)
    assert not torch.equal(a0[..., :4], a1)
    assert not torch.equal(a4, a0)


def test_layers_of_their_own_differ() -> None:
    values = generator(sharing="per_layer", init="xavier")(POOLED)
    (a0, _), _, (a2, _), *_ = matrices(LAYOUT, values)
    assert not torch.equal(a0, a2)


def test_sharing_generates_each_shape_once() -> None:
    widths = {sharing: generator(sharing=sharing).mlp[-1].out_features for sharing in SHARING}
    assert widths == {"per_layer": LAYOUT.size, "shared": 2 * ((5 + 3) + (4 + 4) + (5 + 4))}


@pytest.mark.parametrize("type", [*SHARING, "static"])
@pytest.mark.parametrize("limit", [0.05, 1e-4])
def test_no_update_exceeds_its_bound_and_gradients_still_flow(type: str, limit: float) -> None:
    free = low_level(type, init="xavier", max_relative_norm=None)(POOLED)
    low = low_level(type, init="xavier", max_relative_norm=limit)
    values = low(POOLED)
    norms = relative_norms(LAYOUT, values)
    assert float(relative_norms(LAYOUT, free).detach().max()) > limit
    assert float(norms.detach().max()) == pytest.approx(limit, rel=1e-6)
    (values * normal(LAYOUT.size)).sum().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in low.parameters())
    assert max(float(p.grad.abs().max()) for p in low.parameters() if p.grad is not None) > 1e-6


@pytest.mark.parametrize("type", [*SHARING, "static"])
def test_no_update_exceeds_its_spectral_bound_and_gradients_still_flow(type: str) -> None:
    low = low_level(type, init="xavier", max_relative_norm=None, max_relative_spectral_norm=1e-3)
    values = low(POOLED)
    assert float(relative_spectral_norms(LAYOUT, values).detach().max()) == pytest.approx(1e-3, rel=1e-6)
    (values * normal(LAYOUT.size)).sum().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in low.parameters())
    assert max(float(p.grad.abs().max()) for p in low.parameters() if p.grad is not None) > 1e-6


RESIDUAL = GeneratedLowLevel(residual_of="static", init="xavier", hidden=(8,))


@pytest.mark.parametrize("config", [RESIDUAL, BankLowLevel(size=3, init="xavier")], ids=lambda c: c.type)
@pytest.mark.parametrize("limit", [0.05, 1.0])
@pytest.mark.parametrize("bound", ["max_relative_norm", "max_relative_spectral_norm"])
def test_the_sum_of_parts_keeps_to_the_bound_and_gradients_flow(config: Any, limit: float, bound: str) -> None:
    torch.manual_seed(0)
    none = {"max_relative_norm": None, "max_relative_spectral_norm": None}
    low = build_low_level(config.model_copy(update=none | {bound: limit}), WIDTH, LAYOUT).double()
    with torch.no_grad():
        for parameter in low.parameters():
            parameter.mul_(3)
    parts = low.parts(POOLED)
    norms = relative_norms if bound == "max_relative_norm" else relative_spectral_norms
    found = [norms(each.layout, each.values) for each in map(flattened, _assembled(LAYOUT, parts, len(POOLED)))]
    largest = float(torch.stack(found).detach().max())
    assert 0.3 * limit < largest <= limit * (1 + 1e-9)
    sum((t * normal(*t.shape)).sum() for part in parts for t, _ in part.learnt).backward()  # type: ignore[union-attr]
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in low.parameters())
    assert max(float(p.grad.abs().max()) for p in low.parameters() if p.grad is not None) > 1e-6


@pytest.mark.parametrize("config", [RESIDUAL, BankLowLevel()], ids=lambda c: c.type)
def test_parts_begin_as_the_frozen_model_and_share_what_they_can(config: Any) -> None:
    low = build_low_level(config.model_copy(update={"init": "zero"}), WIDTH, LAYOUT).double()
    adapters = _assembled(LAYOUT, low.parts(POOLED), len(POOLED))
    assert all(float(relative_norms(a.layout, a.values).detach().max()) < 1e-9 for a in map(flattened, adapters))
    shared = {id(adapter.parts[-1].values) for adapter in adapters}
    assert len(shared) == 1
    assert len({id(t) for adapter in adapters for t in adapter.learnt}) == len(POOLED) + 1


def test_a_wide_bound_changes_nothing() -> None:
    free = generator(init="xavier", max_relative_norm=None)(POOLED)
    for bound in ("max_relative_norm", "max_relative_spectral_norm"):
        limits = {"max_relative_norm": None, bound: 1e3}
        torch.testing.assert_close(free, generator(init="xavier", **limits)(POOLED))


@pytest.mark.parametrize("hidden", [(), (8,), (8, 16)])
def test_a_scaled_output_adds_as_much_less_to_its_bias_as_its_width_has_roots(hidden: tuple[int, ...]) -> None:
    how: dict[str, Any] = {"hidden": hidden, "init": "xavier", "max_relative_norm": None}
    plain, scaled = generator(**how), generator(**how, scale_output=True)
    bias = normal(LAYOUT.size, seed=5)
    for each in (plain, scaled):
        each.mlp[-1].bias.data = bias
    width = (WIDTH, *hidden)[-1]
    torch.testing.assert_close(scaled(POOLED) - bias, (plain(POOLED) - bias) / width**0.5)


def test_a_scaled_output_starts_as_the_frozen_model_with_an_a_as_large() -> None:
    plain, scaled = (generator(init="zero", scale_output=scale)(POOLED).detach() for scale in (False, True))
    assert size_of_b(scaled) == 0.0
    sizes = [float(matrices(LAYOUT, values)[0][0].std()) for values in (plain, scaled)]
    assert 0.5 * sizes[0] < sizes[1] <= sizes[0], "PEFT's start is in the bias, which is not scaled"


def test_no_hidden_layer_is_a_linear_generator() -> None:
    low = generator(hidden=(), init="xavier", max_relative_norm=None)
    a, b = POOLED[:1], POOLED[1:2]
    torch.testing.assert_close(low(a + b) + low(torch.zeros_like(a)), low(a) + low(b))
