"""`dtype: auto` on a CPU: the fastest that loses nothing and fits, decided once and kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from families import build_family
from plans import a_profile, a_study, source

from haps_search.candidates import precision
from haps_search.candidates.frozen_lm import FrozenLM
from haps_search.candidates.sources import load_lm
from haps_search.config.candidates import CandidateConfig, PathSource
from haps_search.config.engines import ClusterProfile, Nodes
from haps_search.config.load import dump
from haps_search.config.sweep import Study
from haps_search.engines.placement.precision import here, settled
from haps_search.sweep.events import SweepStarted
from haps_search.sweep.journal import Journal
from haps_search.sweep.settings import with_dtypes_of
from haps_search.types import GivenCompletion, Message, ScoreRequest
from haps_search.verbs.plan import planned
from haps_search.verbs.sweep import _as_begun


@pytest.fixture
def emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU without instructions for 16 bits, whatever this one has."""
    monkeypatch.setattr(precision, "seconds", lambda dtype: 1.0 if dtype == torch.float32 else 30.0)


@pytest.fixture
def native(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "seconds", lambda dtype: 1.0 if dtype == torch.float32 else 0.5)


@pytest.fixture
def halved(tmp_path: Path) -> Path:
    """A checkpoint in bfloat16."""
    from transformers import AutoModelForCausalLM

    folder = build_family(tmp_path / "lm", "llama")
    AutoModelForCausalLM.from_pretrained(folder).bfloat16().save_pretrained(folder)
    return folder


def study(folder: Path, **candidate: Any) -> Study:
    values = dump(a_study("local-cpu"))
    described = {"source": {"type": "path", "path": str(folder)}, "dtype": "auto", "device": "auto", **candidate}
    for each in values["experiment"]["candidates"]:
        each.update(described)
    return Study.model_validate(values)


def dtypes(chosen: Any) -> list[str]:
    return [c.dtype for c in chosen.experiment.candidates]


def test_the_probe_times_a_product_of_each_dtype() -> None:
    precision.seconds.cache_clear()
    assert precision.seconds(torch.bfloat16) > 0
    assert precision.slowdown(torch.float32) == precision.slowdown(torch.float64) == 1.0


def test_a_bfloat16_checkpoint_computes_in_float32_where_that_is_faster_and_says_the_same(
    halved: Path, emulated: None, caplog: pytest.LogCaptureFixture
) -> None:
    source, messages = PathSource(path=str(halved)), (Message("user", "why"),)
    asked = [ScoreRequest((GivenCompletion(messages, (5, 6, 7, 1)),), every=True)]
    lms = [
        FrozenLM.load(CandidateConfig(name="lm", source=source, dtype=dtype, device="cpu"))
        for dtype in ("auto", "float32")
    ]
    assert [lm._lm.model.dtype for lm in lms] == [torch.float32] * 2
    assert lms[0].score(asked) == lms[1].score(asked)
    assert "lm: dtype auto is float32, 30.0 times as fast as torch.bfloat16 on this CPU" in caplog.text


def test_a_cpu_that_has_16_bits_keeps_the_checkpoints_own(halved: Path, native: None) -> None:
    assert load_lm("lm", PathSource(path=str(halved)), "auto", "cpu", False).model.dtype == torch.bfloat16
    assert dtypes(settled(study(halved).experiment, 1, a_profile("local-cpu"))) == ["bfloat16"] * 2


def test_nothing_is_traded_for_precision(tmp_path: Path, native: None) -> None:
    folder = build_family(tmp_path, "llama")
    assert load_lm("lm", PathSource(path=str(folder)), "auto", "cpu", False).model.dtype == torch.float32


def test_a_sweep_decides_once_and_a_resumed_one_keeps_it(
    halved: Path, tmp_path: Path, emulated: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[Any] = []
    begun = _as_begun(study(halved), tmp_path, said.append)
    assert dtypes(begun) == ["float32"] * 2
    assert [line.text for line in said] == [
        f"candidate {name}: dtype auto is float32, on this CPU 30.0 times as fast as the checkpoint's bfloat16"
        for name in "ab"
    ]
    Journal(tmp_path).append(SweepStarted(dump(begun), "", "", 0.0))
    monkeypatch.setattr(precision, "seconds", lambda dtype: 1.0)  # resumed on another machine
    assert dtypes(_as_begun(study(halved), tmp_path, said.append)) == ["float32"] * 2
    assert len(said) == 2
    assert dtypes(with_dtypes_of(study(halved, dtype="float16"), begun.experiment)) == ["float16"] * 2


def test_the_plan_counts_the_memory_of_what_was_chosen_and_says_so(emulated: None) -> None:
    # The shape's config.json says bfloat16.
    auto, plain = (study(Path(source("smollm2-135m")["path"]), dtype=d) for d in ("auto", "float32"))
    profile = a_profile("local-cpu")
    found, wanted = planned(auto, profile), planned(plain, profile)
    weights = [[row.need.weights for row in each.plan.rows] for each in (found, wanted)]
    assert weights[0] == weights[1]
    assert "candidate a: dtype auto is float32" in found.plan.remarks[0]
    assert not any("dtype" in line for line in wanted.plan.remarks)


def test_what_does_not_fit_in_float32_keeps_its_own(emulated: None) -> None:
    small = study(Path(source("llama-3.1-8b")["path"]))
    profile = a_profile("local-cpu")
    both = planned(study(Path(source("llama-3.1-8b")["path"]), dtype="bfloat16"), profile)
    least = sum(row.need.least for row in both.plan.rows) / 1e9
    room = [least + extra for extra in (10, 24, 60)]  # for none, one and both of 8 x 10^9 numbers twice as long
    found = [dtypes(settled(small.experiment, 2, _with_memory(profile, each))) for each in room]
    assert found == [["bfloat16"] * 2, ["float32", "bfloat16"], ["float32"] * 2]


def test_candidates_on_gpus_are_left_to_their_workers(halved: Path, emulated: None) -> None:
    experiment = study(halved).experiment
    assert settled(experiment, 1, a_profile("gpu-per-candidate")).experiment == experiment
    assert dtypes(settled(study(halved, device="cpu").experiment, 1, a_profile("gpu-per-candidate"))) == ["float32"] * 2
    assert here().nodes[0].memory_gb


def _with_memory(profile: ClusterProfile, memory: float) -> ClusterProfile:
    return profile.model_copy(update={"nodes": (Nodes(cpus=2, memory_gb=memory),)})
