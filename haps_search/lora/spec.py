"""From PEFT-style names to the exact modules of a model."""

from __future__ import annotations

import difflib
import math
import re
from typing import TYPE_CHECKING

from haps_search.config.routing import LastLayers, LoraConfig
from haps_search.errors import ConfigError
from haps_search.types import AdapterLayout, LinearModule, ModuleTable

if TYPE_CHECKING:
    from torch import nn

_LAYER = re.compile(r"\.(\d+)\.")


def module_table(candidate: str, model: nn.Module) -> ModuleTable:
    """All linear modules that stand in a numbered layer of the model; on the meta device their norms are NaN."""
    from torch import nn

    found = []
    for name, module in model.named_modules():
        layer = _LAYER.search(name)
        if layer and isinstance(module, nn.Linear):
            norm = math.nan if module.weight.is_meta else float(module.weight.detach().float().norm())
            found.append(LinearModule(name, int(layer[1]), module.in_features, module.out_features, norm))
    layers = max((m.layer for m in found), default=-1) + 1
    return ModuleTable(candidate, layers, tuple(found))


def resolve(config: LoraConfig, table: ModuleTable) -> AdapterLayout:
    """The layout of one candidate's adapters, targets in the model's own order.

    Raises:
        ConfigError: a layer the model does not have, or a target name that matches no module in those layers.
    """
    layers = _layers(config, table)
    inside = [m for m in table.modules if m.layer in layers]
    chosen = [m for m in inside if any(_matches(m.name, t) for t in config.targets)]
    problems = []
    for target in config.targets:
        if not any(_matches(m.name, target) for m in inside):
            endings = sorted({m.name.rsplit(".", 1)[-1] for m in inside})
            near = difflib.get_close_matches(target, endings, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            problems.append(
                f"routing.lora.targets: {target!r} names no linear module of candidate {table.candidate}{hint} "
                f"(it has {', '.join(endings) or 'none'})"
            )
    if problems:
        raise ConfigError(problems)
    return AdapterLayout(config.rank, config.scaling, tuple(chosen))


def _matches(name: str, target: str) -> bool:
    return name == target or name.endswith("." + target)


def _layers(config: LoraConfig, table: ModuleTable) -> set[int]:
    everything = range(table.layers)
    if config.layers == "all":
        return set(everything)
    if isinstance(config.layers, LastLayers):
        if config.layers.last > table.layers:
            raise ConfigError(
                f"routing.lora.layers: last {config.layers.last} of candidate {table.candidate}, "
                f"which has {table.layers} layers"
            )
        return set(everything[-config.layers.last :])
    beyond = [layer for layer in config.layers if layer not in everything]
    if beyond:
        raise ConfigError(
            f"routing.lora.layers: candidate {table.candidate} has layers 0 to {table.layers - 1}, got {beyond}"
        )
    return set(config.layers)
