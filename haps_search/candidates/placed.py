"""Where the layers of an LLM lie."""

from __future__ import annotations

from torch import nn


def on_several_devices(model: nn.Module) -> bool:
    """Whether the layers lie on several devices (transformers' `device_map`).

    Whoever calls the whole model sees one device, as accelerate's hooks move what passes between layers. Its parts,
    its cache and its hidden states are elsewhere each.
    """
    return len(set(getattr(model, "hf_device_map", {}).values())) > 1
