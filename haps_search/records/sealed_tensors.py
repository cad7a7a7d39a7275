"""Tensors by name in safetensors' own form: who passes them on or writes them down needs no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


class SealedTensors(Mapping[str, "Tensor"]):
    """`data` is the content of a safetensors file; it is read when somebody first looks into it."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> SealedTensors:
        """Sealed as they are now; what is sealed already stays as it is."""
        if isinstance(tensors, SealedTensors):
            return tensors
        from safetensors.torch import save

        return cls(save(_storable(tensors)))

    @cached_property
    def _opened(self) -> dict[str, Tensor]:
        from safetensors.torch import load

        return load(self.data)

    def __getitem__(self, name: str) -> Tensor:
        return self._opened[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._opened)

    def __len__(self) -> int:
        return len(self._opened)

    def __reduce__(self) -> tuple[type[SealedTensors], tuple[bytes]]:
        return SealedTensors, (self.data,)


def _storable(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """On the CPU, contiguous, and none sharing memory with another, as safetensors asks."""
    seen: set[int] = set()
    kept: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        if tensor.untyped_storage().data_ptr() in seen:
            tensor = tensor.clone()
        seen.add(tensor.untyped_storage().data_ptr())
        kept[name] = tensor
    return kept
