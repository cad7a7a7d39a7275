"""A stack of decoder layers run in part: those below some layer, or those from it on.

Layers that are left out pass their input on and keep their places, so that what a model looks up by a layer's
number stays right, and masks, rotary embeddings and windows stay the model's own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from haps_search.candidates.head import Head


def run_below(head: Head, layers: nn.ModuleList, first: int, **inputs: Any) -> tuple[Tensor, Any]:
    """States (n, t, H) that enter layer `first`, and the cache of the layers below it."""
    caught: list[Tensor] = []
    handle = layers[first - 1].register_forward_hook(
        lambda module, args, out: caught.append(out[0] if isinstance(out, tuple) else out)
    )
    with handle, _skipping(layers, range(first, len(layers))):
        _, cache = head.hidden(**inputs)
    return caught[0], cache


def run_from(head: Head, layers: nn.ModuleList, first: int, states: Tensor, **inputs: Any) -> tuple[Tensor, Any]:
    """Final hidden states (n, t, H) from the `states` (n, t, H) that enter layer `first`, and the cache of the rest."""

    def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        # Some models scale embeddings or add positions to them: what was kept must not go through that again.
        return ((states, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": states})

    # Before other hooks, so that whoever watches this layer sees the states themselves.
    handle = layers[first].register_forward_pre_hook(enter, prepend=True, with_kwargs=True)
    with handle, _skipping(layers, range(first)):
        return head.hidden(inputs_embeds=states, **inputs)


class _Skip(nn.Module):
    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return hidden_states


@contextmanager
def _skipping(layers: nn.ModuleList, places: Iterable[int]) -> Iterator[None]:
    whole = {i: layers[i] for i in places}
    try:
        for i in whole:
            layers[i] = _Skip()
        yield
    finally:
        for i, layer in whole.items():
            layers[i] = layer
