"""On a GPU: a CUDA graph says what eager decoding says, adapters are float32 under bf16 weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from families import build_family
from verbs import same, sampled_and_scored

from haps_search.candidates.frozen_lm import FrozenLM
from haps_search.config.candidates import CandidateConfig, PathSource
from haps_search.config.routing import LoraConfig
from haps_search.lora.spec import resolve
from haps_search.types import Adapter, Message, SampleRequest, Sampling

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_family(tmp_path_factory.mktemp("llama"), "llama")


def load(folder: Path, **how: object) -> FrozenLM:
    return FrozenLM.load(CandidateConfig(name="lm", source=PathSource(path=str(folder)), device="cuda", **how))  # type: ignore[arg-type]


def requests(lm: FrozenLM, seed: int) -> list[SampleRequest]:
    layout = resolve(LoraConfig(rank=2), lm.table)
    draw = torch.Generator().manual_seed(seed)
    adapters = [Adapter(layout, 0.3 * torch.randn(layout.size, generator=draw)) for _ in range(5)]
    return [
        SampleRequest((Message("user", f"question {row}"),), Sampling(8 + row, 0.9, seed=row), adapter)
        for row, adapter in enumerate(adapters)
    ]


def test_a_graph_says_what_eager_decoding_says(folder: Path) -> None:
    graphs, eager = load(folder, dtype="float64"), load(folder, dtype="float64", decode="eager")
    assert graphs._decoder.plans is not None
    for seed in (1, 2):  # the second batch replays the graph of the first
        asked = requests(graphs, seed)
        same(sampled_and_scored(graphs, asked), sampled_and_scored(eager, asked))
    (plan,) = graphs._decoder.plans._plans.values()
    assert plan._graph is not None


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_weights_give_float32_gradients(folder: Path, dtype: str) -> None:
    lm = load(folder, dtype=dtype)
    for said in sampled_and_scored(lm, requests(lm, 1)):
        assert said.gradient is not None
        assert said.gradient.dtype == torch.float32
        assert bool(said.gradient.isfinite().all())
        assert float(said.gradient.norm()) > 0
