"""The flat adapter and its matrices."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from haps_search.types import Adapter, AdapterLayout, LinearModule


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


def bounded(layout: AdapterLayout, values: Tensor, limit: float) -> Tensor:
    """The adapter with each update's relative norm at most `limit`; B is scaled, and gradients flow through."""
    import torch

    factors = (limit / relative_norms(layout, values)).clamp_max(1.0)
    parts = []
    for index, (a, b) in enumerate(matrices(layout, values)):
        parts += [a.flatten(-2), (b * factors[..., index, None, None]).flatten(-2)]
    return torch.cat(parts, -1)
