"""What makes it fast changes no result: a run with all of it on is the run with all of it off."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import torch
from dense_task import DenseTask
from experiments import tiny_experiment

from haps_search.candidates import score as score_module
from haps_search.config.run import Experiment
from haps_search.engines.local import LocalEngine
from haps_search.records.jsonl import read_records
from haps_search.records.run_folder import RunFolder
from haps_search.search.loop import run
from haps_search.types import Snapshot

TIMES = {"step_seconds", "rollout_seconds", "run_seconds", "tokens_per_second"}
OFF = {"suffix_replay": False, "batch_rows": 1, "prompt_cache_gb": 0.0, "activation_gb": 0.0, "decode": "eager"}
ON = {
    "suffix_replay": True,
    "batch_rows": 64,
    "batch_tokens": 60,
    "prompt_cache_gb": 0.1,
    "activation_gb": 0.1,
    "decode": "static",
}


def played(experiment: Experiment, folder: Path) -> tuple[list[dict[str, float]], list[str], Snapshot]:
    """Metrics of every step, the texts kept, and the router's weights."""

    async def all_steps() -> Snapshot:
        engine = LocalEngine.build(experiment, DenseTask())
        await run(engine, DenseTask(), experiment, RunFolder(folder, experiment))
        return await engine.snapshot()

    snapshot = asyncio.run(all_steps())
    metrics = [{k: v for k, v in r.metrics.items() if k not in TIMES} for r in read_records(folder / "metrics.jsonl")]
    return metrics, (folder / "examples.jsonl").read_text().splitlines(), snapshot


def with_candidates(tiny_lms: dict[str, Path], how: dict[str, Any], **changes: Any) -> Experiment:
    plain = tiny_experiment(tiny_lms, learning__kl_weight=0.1, **changes)
    return tiny_experiment(
        tiny_lms,
        learning__kl_weight=0.1,
        candidates=[c.model_dump() | how for c in plain.candidates],
        **changes,
    )


@pytest.mark.parametrize("targets", [["o_proj"], ["k_proj", "down_proj"]])
def test_a_run_with_all_of_it_on_is_the_run_with_all_of_it_off(
    tiny_lms: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, targets: list[str]
) -> None:
    """Suffix replay, batches by a growing token budget, prompts kept across steps, activations kept until they are
    scored, logits in pieces, static decoding;
    in float64 to 1e-9 relative in every metric and 1e-7 in the weights after six steps."""
    changes = {"routing__lora__targets": targets}
    off = played(with_candidates(tiny_lms, OFF, **changes), tmp_path / "off")
    monkeypatch.setattr(score_module, "LOGITS", 1000)
    on = played(with_candidates(tiny_lms, ON, **changes), tmp_path / "on")
    known = [metrics.pop("prompts_known") for metrics in on[0]]
    assert known[-1] == 1 > known[0], "twelve questions, four a step: known from the fourth step on"
    assert on[1] == off[1]
    assert any(metrics["reward_spread"] > 0 for metrics in off[0])
    for a, b in zip(on[0], off[0], strict=True):
        assert a == pytest.approx(b, rel=1e-9, abs=1e-10)
    for name, tensor in off[2].tensors.items():
        torch.testing.assert_close(on[2].tensors[name], tensor, rtol=1e-7, atol=1e-9, msg=name)
