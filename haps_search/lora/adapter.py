"""The flat adapter and its matrices."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, TypeAlias

from haps_search.types import Adapter, AdapterLayout, LinearModule

if TYPE_CHECKING:
    from torch import Tensor


def learnt_tensors(adapters: Iterable[Adapter | None]) -> list[Tensor]:
    """The distinct tensors that gradients are taken of, in order of first appearance; same object, same tensor."""
    found = {id(t): t for adapter in adapters if adapter is not None for t in adapter.learnt}
    return list(found.values())


def matrices(layout: AdapterLayout, values: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Views of a flat adapter, per target: lora_A (..., r, d_in) and lora_B (..., d_out, r) from (..., P)."""
    rank, offset, found = layout.rank, 0, []
    for target in layout.targets:
        size_a, size_b = rank * target.d_in, rank * target.d_out
        a, b = values[..., offset : offset + size_a], values[..., offset + size_a : offset + size_a + size_b]
        found.append((a.unflatten(-1, (rank, target.d_in)), b.unflatten(-1, (target.d_out, rank))))
        offset += size_a + size_b
    return found


def flattened(adapter: Adapter) -> Adapter:
    """One part that does what all parts do together: ranks stand one after the other, 0 where a module has fewer, and
    scalings are taken into B. An adapter of one plain part is given back as it is."""
    import torch

    if adapter.base is None and adapter.mix is None:
        return adapter
    found: dict[LinearModule, list[tuple[Tensor, Tensor]]] = {}
    for part in adapter.parts:
        values = part.values if part.mix is None else part.mix @ part.values
        for target, (a, b) in zip(part.layout.targets, matrices(part.layout, values), strict=True):
            found.setdefault(target, []).append((a, part.layout.scaling * b))
    rank = max(sum(len(a) for a, _ in pairs) for pairs in found.values())
    numbers = []
    for pairs in found.values():
        a, b = torch.cat([a for a, _ in pairs]), torch.cat([b for _, b in pairs], 1)
        spare = rank - len(a)
        pad = torch.nn.functional.pad
        numbers += [pad(a, (0, 0, 0, spare)).flatten(), pad(b, (0, spare)).flatten()]
    return Adapter(AdapterLayout(rank, 1.0, tuple(found)), torch.cat(numbers))


def relative_norms(layout: AdapterLayout, values: Tensor) -> Tensor:
    """Frobenius norm of each update over that of its weight: (..., targets) from (..., P).

    |s B A|_F^2 = s^2 tr((B'B)(AA')), which never forms the (d_out, d_in) product.
    """
    import torch

    norms = []
    for target, (a, b) in zip(layout.targets, matrices(layout, values), strict=True):
        squared = ((b.mT @ b) * (a @ a.mT)).sum((-1, -2))
        # The clamp keeps the square root's gradient finite where the adapter is exactly zero.
        norms.append(layout.scaling * squared.clamp_min(1e-24).sqrt() / max(target.weight_norm, 1e-12))
    return torch.stack(norms, -1)


def adapter_norm(adapters: Iterable[Adapter]) -> float:
    """Mean relative norm of the updates; 0 where there are none."""
    import torch

    by_layout: dict[AdapterLayout, list[Tensor]] = {}
    for adapter in map(flattened, adapters):
        by_layout.setdefault(adapter.layout, []).append(adapter.values)
    norms = [norm for layout, values in by_layout.items() for norm in _norms(layout, values)]
    return float(torch.cat(norms).mean()) if norms else 0.0


def _norms(layout: AdapterLayout, values: Sequence[Tensor]) -> Iterable[Tensor]:
    """Large adapters one by one, which copies none of them; small ones are quicker together."""
    import torch

    alone = layout.size > 2**16
    some = [each.unsqueeze(0) for each in values] if alone else [torch.stack(list(values))]
    return (relative_norms(layout, each).mean(-1) for each in some)


def relative_spectral_norms(layout: AdapterLayout, values: Tensor) -> Tensor:
    """Largest singular value of each update over that of its weight: (..., targets) from (..., P).

    With B = Q R and A' = P S the singular values of B A are those of the r x r matrix R S'. The gradient is
    s u v' of a largest pair u, v: the true one where that pair is alone, a subgradient where several are largest or
    the update is zero, and always finite.

    Raises ValueError for a target whose weight's spectral norm was not taken.
    """
    import torch

    norms = []
    for target, (a, b) in zip(layout.targets, matrices(layout, values), strict=True):
        if target.spectral_norm is None:
            raise ValueError(f"{target.name}: the spectral norm of its weight was not taken")
        u, v = _largest_pair(a.detach(), b.detach())
        largest = ((u.unsqueeze(-2) @ b) @ (a @ v.unsqueeze(-1))).squeeze((-1, -2))
        norms.append(layout.scaling * largest / max(target.spectral_norm, 1e-12))
    return torch.stack(norms, -1)


def _largest_pair(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Singular vectors (..., d_out) and (..., d_in) of the largest singular value of B A."""
    import torch

    # Numbers that are not finite stay so in what is made of these vectors; a decomposition would raise on them.
    of_b, of_a = (torch.linalg.qr(each.nan_to_num(0.0, 0.0, 0.0)) for each in (b, a.mT))
    u, _, v_t = torch.linalg.svd(of_b.R @ of_a.R.mT)
    return (of_b.Q @ u[..., :1]).squeeze(-1), (of_a.Q @ v_t[..., :1, :].mT).squeeze(-1)


Limit: TypeAlias = "float | Tensor | None"
"""Of a relative norm, one for all targets or (targets,)."""


def bounded(layout: AdapterLayout, values: Tensor, frobenius: Limit = None, spectral: Limit = None) -> Tensor:
    """The adapter with each update's relative norms at most these limits; B is scaled, and gradients flow through."""
    import torch

    limits = ((frobenius, relative_norms), (spectral, relative_spectral_norms))
    # Clamped before it divides, so that the gradient is finite where an update is zero.
    factors = [limit / norms(layout, values).clamp_min(limit) for limit, norms in limits if limit is not None]
    if not factors:
        return values
    factor = torch.stack(factors).amin(0)
    parts = []
    for index, (a, b) in enumerate(matrices(layout, values)):
        parts += [a.flatten(-2), (b * factor[..., index, None, None]).flatten(-2)]
    return torch.cat(parts, -1)
