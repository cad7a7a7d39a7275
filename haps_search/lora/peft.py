"""An adapter as a PEFT adapter folder, which `PeftModel.from_pretrained` loads."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.torch import save_file

from haps_search.lora.adapter import flattened, matrices
from haps_search.types import Adapter


def export_adapter(adapter: Adapter, folder: Path, base: str, revision: str | None = None) -> Path:
    """Write adapter_config.json and adapter_model.safetensors; `base` is the model it belongs to.

    PEFT scales by lora_alpha / r, so lora_alpha is scaling * r. The parts of an adapter are written as their sum.
    """
    folder.mkdir(parents=True, exist_ok=True)
    adapter = flattened(adapter)
    layout = adapter.layout
    tensors = {}
    for target, (a, b) in zip(layout.targets, matrices(layout, adapter.values), strict=True):
        prefix = f"base_model.model.{target.name}"
        tensors[f"{prefix}.lora_A.weight"] = a.detach().clone()
        tensors[f"{prefix}.lora_B.weight"] = b.detach().clone()
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "revision": revision,
        "r": layout.rank,
        "lora_alpha": layout.scaling * layout.rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "target_modules": [target.name for target in layout.targets],
    }
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=1) + "\n")
    return folder
