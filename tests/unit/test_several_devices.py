"""An LLM whose layers lie on several devices, as far as one machine without GPUs can tell: under accelerate's hooks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import dispatch_model
from verbs import same, sampled_and_scored

from haps_search.candidates.frozen_lm import FrozenLM
from haps_search.candidates.sources import load_lm
from haps_search.config.candidates import CandidateConfig
from haps_search.config.routing import LoraConfig
from haps_search.errors import CandidateError
from haps_search.lora.spec import resolve
from haps_search.types import Adapter, AdapterLayout, Message, SampleRequest, Sampling

PARTS = ("model.embed_tokens", "model.layers.0", "model.layers.1", "model.norm", "model.rotary_emb", "lm_head")


def a_config(folder: Path, **changes: object) -> CandidateConfig:
    described = {"name": "a", "source": {"type": "path", "path": str(folder)}, "chat": {"type": "plain"}}
    return CandidateConfig.model_validate({**described, "dtype": "float64", "device": "cpu", **changes})


def in_parts(config: CandidateConfig) -> FrozenLM:
    """Each part under hooks of its own. The map says two devices, which is what the code goes by."""
    lm = load_lm("a", config.source, config.dtype, config.device, False)  # type: ignore[arg-type]
    model = dispatch_model(lm.model, dict.fromkeys(PARTS, "cpu"), force_hooks=True, skip_keys="past_key_values")
    model.hf_device_map = {"model": 0, "lm_head": 1}
    return FrozenLM(config, replace(lm, model=model))


def requests(layout: AdapterLayout) -> list[SampleRequest]:
    generator = torch.Generator().manual_seed(0)
    adapters = [
        Adapter(layout, 0.1 * torch.randn(layout.size, generator=generator, dtype=torch.float64)) for _ in range(2)
    ]
    messages = (Message("user", "3 plus 4"),)
    return [SampleRequest(messages, Sampling(6, seed=i), adapters[i % 2]) for i in range(4)]


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "mistral"])
@pytest.mark.parametrize("layers", [{"last": 1}, "all"], ids=str)
def test_it_says_and_learns_the_same(tiny_lms: dict[str, Path], architecture: str, layers: object) -> None:
    config = a_config(tiny_lms[architecture])
    whole, parted = FrozenLM.load(config), in_parts(config)
    lora = LoraConfig.model_validate({"rank": 2, "targets": ("o_proj", "v_proj"), "layers": layers})
    asked = requests(resolve(lora, whole.table))
    same(sampled_and_scored(parted, asked), sampled_and_scored(whole, asked))


def test_balanced_needs_gpus(tiny_lms: dict[str, Path]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there are GPUs here")
    with pytest.raises(CandidateError, match="`device: balanced` spreads over GPUs, and this process sees none"):
        FrozenLM.load(a_config(tiny_lms["llama"], device="balanced"))


def test_only_the_whole_model_is_called_and_it_says_so(
    tiny_lms: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    """Its parts would answer on devices of their own, which no machine with one device can show."""
    decoder = in_parts(a_config(tiny_lms["llama"], decode="auto"))._decoder
    assert caplog.text.count("candidate a: its layers lie on several devices") == 1
    assert (decoder.layers, decoder.head._body, decoder.plans) == (None, None, None)
    assert FrozenLM.load(a_config(tiny_lms["llama"]))._decoder.layers is not None
