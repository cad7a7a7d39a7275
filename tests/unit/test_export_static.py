"""What questions share, in the hands of others: PEFT's own model and merge give the logits of the pool."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from dense_task import DenseTask
from experiments import tiny_experiment
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from haps_search.cli.main import app
from haps_search.engines.local import LocalEngine
from haps_search.errors import ConfigError
from haps_search.lora.injection import injected
from haps_search.lora.row_adapters import RowAdapters
from haps_search.records.run_folder import RunFolder
from haps_search.search.loop import run
from haps_search.types import Adapter, Question
from haps_search.verbs import export_static as verb
from haps_search.verbs.export_static import Form, export_static
from haps_search.verbs.loaded_run import Run

IDS = torch.tensor([[5, 9, 17, 40, 3], [80, 7, 7, 20, 11]])


def trained(tiny_lms: dict[str, Path], folder: Path, **low_level: Any) -> Run:
    experiment = tiny_experiment(
        tiny_lms, routing__low_level=low_level, run__steps=2, run__validation={"every": 2, "questions": 4}
    )
    engine = LocalEngine.build(experiment, DenseTask())
    asyncio.run(run(engine, DenseTask(), experiment, RunFolder(folder, experiment)))
    return Run("tiny", folder, experiment)


def base(tiny_lms: dict[str, Path], name: str) -> Any:
    return AutoModelForCausalLM.from_pretrained(tiny_lms[name], dtype=torch.float64).eval()


@torch.no_grad()
def logits(model: Any, adapter: Adapter | None = None) -> Tensor:
    if adapter is None:
        found: Tensor = model(input_ids=IDS).logits
        return found
    with injected(model, RowAdapters([adapter, adapter], torch.float64, model.device)):
        return logits(model)


@pytest.mark.parametrize("form", ["peft", "merged", "vllm"])
def test_a_static_adapter_does_elsewhere_what_it_does_in_the_pool(
    tiny_lms: dict[str, Path], tmp_path: Path, form: Form
) -> None:
    made = trained(tiny_lms, tmp_path / "run", type="static", init="xavier")
    found = export_static(made, tmp_path / "out", form)
    assert [folder.name for folder in found.folders] == ["llama", "qwen2"]
    adapters = made.loaded.adapters([Question("", "whatever", "")])
    for folder in found.folders:
        wanted = logits(base(tiny_lms, folder.name), adapters[0, folder.name])
        if form == "merged":
            assert not (folder / "adapter_config.json").exists()
            model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
        else:
            model = PeftModel.from_pretrained(base(tiny_lms, folder.name), folder)
        torch.testing.assert_close(logits(model), wanted, rtol=1e-9, atol=1e-9)
        assert float((wanted - logits(base(tiny_lms, folder.name))).abs().max()) > 1e-3
        card = (folder / "README.md").read_text()
        assert f"base_model: {tiny_lms[folder.name]}" in card
        assert "| validation_reward | 0." in card


def test_a_bank_becomes_an_adapter_each_and_a_command(tiny_lms: dict[str, Path], tmp_path: Path) -> None:
    made = trained(tiny_lms, tmp_path / "run", type="bank", size=3, init="xavier", max_relative_norm=0.01)
    found = export_static(made, tmp_path / "out", "vllm")
    table = json.loads((tmp_path / "out" / "adapters.json").read_text())
    assert [row["adapter"] for row in table] == [f"{name}-{i}" for name in ("llama", "qwen2") for i in range(3)]
    assert "--max-lora-rank 8 --max-loras 3" in found.commands[0]
    assert f"llama-2={(tmp_path / 'out' / 'llama-2').resolve()}" in found.commands[0]
    peft = PeftModel.from_pretrained(base(tiny_lms, "llama"), tmp_path / "out" / "llama-1")
    (patched,) = [module for module in peft.modules() if hasattr(module, "get_delta_weight")]
    share = patched.get_delta_weight("default").norm() / patched.base_layer.weight.norm()
    assert float(share) == pytest.approx(0.01, rel=1e-6), "the bound holds for one alone"
    with pytest.raises(ConfigError, match="a bank is several adapters"):
        export_static(made, tmp_path / "merged", "merged")


def test_of_a_residual_the_static_part_is_exported_and_its_card_says_so(
    tiny_lms: dict[str, Path], tmp_path: Path
) -> None:
    made = trained(tiny_lms, tmp_path / "run", type="generated", residual_of="static", hidden=[4], init="xavier")
    folder = export_static(made, tmp_path / "out").folders[0]
    whole = made.loaded.adapters([Question("", "whatever", "")])[0, "llama"]
    static = Adapter(whole.parts[-1].layout, whole.parts[-1].values)
    found = logits(PeftModel.from_pretrained(base(tiny_lms, "llama"), folder))
    torch.testing.assert_close(found, logits(base(tiny_lms, "llama"), static), rtol=1e-9, atol=1e-9)
    assert float((found - logits(base(tiny_lms, "llama"), whole)).abs().max()) > 1e-6
    assert "on top of this adapter is not in it" in (folder / "README.md").read_text()


def test_a_rank_that_vllm_does_not_take_is_refused_before_anything_is_written(
    tiny_lms: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = trained(tiny_lms, tmp_path / "run", type="static", init="xavier")
    monkeypatch.setattr(verb, "RANKS", (2,))
    with pytest.raises(ConfigError, match="rank 3, and vLLM takes 2 at most"):
        export_static(made, tmp_path / "out", "vllm")
    assert not (tmp_path / "out").exists()


def test_what_is_generated_is_exported_for_questions_only(tiny_lms: dict[str, Path], tmp_path: Path) -> None:
    made = trained(tiny_lms, tmp_path / "run", type="generated", hidden=[4])
    with pytest.raises(ConfigError, match=r"generated, one for each question; `--questions FILE`"):
        export_static(made, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command_line_writes_what_the_verb_writes(tiny_lms: dict[str, Path], tmp_path: Path) -> None:
    trained(tiny_lms, tmp_path / "run", type="static", init="xavier")
    done = CliRunner().invoke(app, ["export", str(tmp_path / "run"), "-o", str(tmp_path / "out"), "--as", "vllm"])
    assert done.exit_code == 0, done.output
    assert done.output.count("vllm serve") == 2
    assert (tmp_path / "out" / "qwen2" / "adapter_model.safetensors").exists()
