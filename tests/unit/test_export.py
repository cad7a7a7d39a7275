"""An exported adapter, loaded by PEFT, is the adapter that was injected."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from made import normal
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from haps_search.config.routing import LoraConfig
from haps_search.lora.injection import injected
from haps_search.lora.peft import export_adapter
from haps_search.lora.row_adapters import RowAdapters
from haps_search.lora.spec import module_table, resolve
from haps_search.types import Adapter

IDS = torch.tensor([[5, 9, 17, 40, 3], [80, 7, 7, 20, 11]])


def loaded(folder: Path, dtype: torch.dtype) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()


def adapter_for(model: PreTrainedModel, dtype: torch.dtype, spec: LoraConfig) -> Adapter:
    layout = resolve(spec, module_table("tiny", model))
    return Adapter(layout, (0.4 * normal(layout.size, seed=3)).to(dtype))


@torch.no_grad()
def logits(model: torch.nn.Module) -> Tensor:
    return model(input_ids=IDS).logits


@pytest.mark.parametrize(("dtype", "close"), [(torch.float64, 1e-12), (torch.float32, 1e-4)])
@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
def test_peft_computes_what_was_injected(
    tiny_lms: dict[str, Path], tmp_path: Path, architecture: str, dtype: torch.dtype, close: float
) -> None:
    model = loaded(tiny_lms[architecture], dtype)
    spec = LoraConfig(rank=3, scaling=0.7, targets=("o_proj", "up_proj"), layers="all")
    adapter = adapter_for(model, dtype, spec)
    assert [(t.layer, t.d_in, t.d_out) for t in adapter.layout.targets] == [
        (0, 32, 24), (0, 24, 32), (1, 32, 24), (1, 24, 32),
    ]  # fmt: skip
    frozen = logits(model)
    with injected(model, RowAdapters([adapter, adapter], dtype, model.device)):
        wanted = logits(model)
    folder = export_adapter(adapter, tmp_path / "deep" / "adapter", str(tiny_lms[architecture]))
    adapted = PeftModel.from_pretrained(loaded(tiny_lms[architecture], dtype), folder)
    torch.testing.assert_close(logits(adapted), wanted, rtol=close, atol=close)
    assert float((wanted - frozen).abs().max()) > 0.1
    torch.testing.assert_close(logits(adapted.merge_and_unload()), wanted, rtol=close, atol=10 * close)


def test_only_the_layers_of_the_layout_are_patched(tiny_lms: dict[str, Path], tmp_path: Path) -> None:
    model = loaded(tiny_lms["llama"], torch.float64)
    adapter = adapter_for(model, torch.float64, LoraConfig(layers=(0,)))
    adapted = PeftModel.from_pretrained(model, export_adapter(adapter, tmp_path, "base"))
    patched = {name for name, _ in adapted.named_modules() if name.endswith("o_proj.lora_A")}
    assert patched == {"base_model.model.model.layers.0.self_attn.o_proj.lora_A"}


def test_the_folder_names_its_base_and_scales_by_alpha_over_rank(tiny_lms: dict[str, Path], tmp_path: Path) -> None:
    model = loaded(tiny_lms["llama"], torch.float64)
    adapter = adapter_for(model, torch.float64, LoraConfig(rank=4, scaling=0.3))
    config = json.loads((export_adapter(adapter, tmp_path, "org/name", "abc123") / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("org/name", "abc123")
    assert config["lora_alpha"] / config["r"] == pytest.approx(0.3)


def test_a_row_of_a_batch_of_adapters_can_be_exported(tiny_lms: dict[str, Path], tmp_path: Path) -> None:
    """A router hands adapters out as rows of one tensor."""
    model = loaded(tiny_lms["llama"], torch.float64)
    adapter = adapter_for(model, torch.float64, LoraConfig(layers="all"))
    row = torch.stack([adapter.values, -adapter.values])[1]
    adapted = PeftModel.from_pretrained(model, export_adapter(Adapter(adapter.layout, row), tmp_path, "base"))
    weights = adapted.get_submodule("base_model.model.model.layers.0.self_attn.o_proj.lora_A.default").weight
    torch.testing.assert_close(weights.detach().flatten(), -adapter.values[: weights.numel()])
