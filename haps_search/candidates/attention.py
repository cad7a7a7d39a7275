"""The last layer's attention as a constant: what enters its output projection, caught once and put in its place."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from haps_search.types import LinearModule

_OUTPUT = ("o_proj", "out_proj", "dense")


@dataclass(frozen=True, slots=True)
class Attention:
    """An attention module of the model's, under its name there, and the linear module that its output comes from.

    `values` is how many its forward gives in a tuple, of which the first is the output; 0: the output alone.
    """

    name: str
    module: nn.Module
    output: nn.Linear
    values: int

    def constant_under(self, targets: Iterable[LinearModule], layer: int) -> bool:
        """Whether adapters that patch these modules leave what enters `output` as it is: all stand in that layer, and
        none of them in the attention but `output`."""
        inside, own = f"{self.name}.", next(n for n, m in self.module.named_modules() if m is self.output)
        return all(t.layer == layer and (t.name == inside + own or not t.name.startswith(inside)) for t in targets)

    @contextmanager
    def catching(self) -> Iterator[list[Tensor]]:
        """While open, what enters `output` is added to the list."""
        caught: list[Tensor] = []
        with self.output.register_forward_pre_hook(lambda module, args: caught.append(args[0])):
            yield caught

    @contextmanager
    def standing_in(self, entered: Tensor) -> Iterator[None]:
        """While open, the module attends to nothing: `entered` (n, T, d) goes into `output`."""

        def forward(*args: Any, **kwargs: Any) -> Any:
            output = self.output(entered)
            return (output, *[None] * (self.values - 1)) if self.values else output

        self.module.forward = forward
        try:
            yield
        finally:
            del self.module.forward


def output_of(model: nn.Module, layer: nn.Module) -> tuple[str, nn.Module, nn.Linear] | None:
    """Name and module of a layer's attention, and its output projection, by the names that families use."""
    names = {id(module): name for name, module in model.named_modules()}
    found = []
    for inside, attention in layer.named_modules():
        if "attn" in inside.rsplit(".", 1)[-1] or "attention" in inside.rsplit(".", 1)[-1]:
            outputs = [m for n, m in attention.named_children() if n in _OUTPUT and isinstance(m, nn.Linear)]
            found += [(names[id(attention)], attention, output) for output in outputs]
    return found[0] if len(found) == 1 else None
