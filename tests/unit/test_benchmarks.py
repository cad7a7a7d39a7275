"""The benchmarks measure what they say: their arithmetic, their rivals, and that each runs, at the smallest size."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers.utils import logging as transformers_logging

from benchmarks import candidate, gpu, gpu_decode, references, rivals, sharing, step_scaling
from benchmarks.measure import Figure, Measured, Target, exponents, interleaved, ratios
from benchmarks.naive import naive
from benchmarks.plain_batched import PlainBatched
from benchmarks.scale import SMALLEST, Scale
from benchmarks.subjects import LORA
from benchmarks.table import table
from haps_search.config.routing import LoraConfig
from haps_search.lora.spec import module_table, resolve
from haps_search.types import Adapter

SMALLEST_GPU_WEIGHTS = sum(p.numel() for p in SMALLEST.gpu.shape.model().parameters())


@pytest.fixture(autouse=True)
def quiet() -> None:
    torch.set_num_threads(1)
    transformers_logging.disable_progress_bar()


@pytest.mark.parametrize(
    "bench", [candidate, references, rivals, sharing, step_scaling], ids=lambda module: module.__name__
)
def test_a_benchmark_runs_and_says_what_it_announces(bench: object) -> None:
    measure: Callable[[Scale, int], Measured] = bench.measure  # type: ignore[attr-defined]
    found = measure(SMALLEST, 1)
    assert tuple(figure.name for figure in found.figures) == bench.FIGURES  # type: ignore[attr-defined]
    assert all(math.isfinite(value) for figure in found.figures for value in figure.rounds)
    assert all(
        len(values) in (SMALLEST.rounds, SMALLEST.slow_rounds) and min(values) > 0 for values in found.seconds.values()
    )
    assert json.loads(json.dumps(found.to_json()))["figures"][0]["name"] == found.figures[0].name


def test_decoding_on_a_gpu_is_measured_by_the_same_code() -> None:
    found, size = gpu_decode.measure(SMALLEST, 1), SMALLEST.gpu
    names = [f"{name}_{rows}" for rows in size.rows for name in gpu_decode.FIGURES]
    assert [figure.name for figure in found.figures] == names
    assert found.settings["weights_bytes_per_step"] == 4 * (SMALLEST_GPU_WEIGHTS - 300 * 24)
    assert json.loads(json.dumps(found.to_json()))["settings"]["device"]


def test_what_one_gpu_is_asked_runs_in_a_small_shape_without_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "PARTS", {name: work for name, work in gpu.PARTS.items() if name != "tests"})
    found = json.loads(json.dumps(gpu.measured(gpu.SMALL, minutes=10)))
    assert list(found) == ["decode", "prefill", "score", "step"]
    assert all(part["took_s"] > 0 for part in found.values())
    assert found["prefill"]["tokens"] == gpu.SMALL.rows * gpu.SMALL.prompt
    late = gpu.measured(gpu.SMALL, minutes=0)
    assert "not begun within 0 minutes" in late["prefill"]["left_out"]


def test_the_bound_of_sharing_is_one_over_the_trials_where_weights_are_read_and_one_where_rows_are_computed() -> None:
    bench = sharing._Bench(SMALLEST)
    trials, operations = SMALLEST.trials, 2 * len(bench._square) ** 3
    reads = {"copy": [2.0], "product": [1e-9 * operations / bench._weights]}
    computes = {"copy": [2e-9], "product": [1.0 * operations / bench._weights]}
    assert bench.bound(4, reads) == pytest.approx(1 / trials)
    assert bench.bound(4, computes) == pytest.approx(1.0)


def test_a_decoding_step_is_what_a_long_text_takes_longer_than_a_short_one() -> None:
    size = replace(SMALLEST.gpu, rows=(8,), few=10, many=30, copied=1000)
    seconds = {
        "copy": [1.0, 2.0],
        "8 rows, graph, 10 tokens": [5.0, 5.0], "8 rows, graph, 30 tokens": [45.0, 65.0],
        "8 rows, graph, adapters, 10 tokens": [5.0, 5.0], "8 rows, graph, adapters, 30 tokens": [55.0, 65.0],
        "8 rows, eager, 10 tokens": [5.0, 5.0], "8 rows, eager, 30 tokens": [85.0, 125.0],
    }  # fmt: skip
    step, adapters, graph = gpu_decode.figures(8, size, seconds, bytes_read=2000)
    assert step.rounds == (2.0, 1.5)
    assert adapters.rounds == (1.25, 1.0)
    assert graph.rounds == (0.5, 0.5)


def test_variants_take_turns_and_the_first_round_is_not_counted() -> None:
    calls: list[str] = []
    seconds = interleaved({"a": lambda n: calls.append(f"a{n}"), "b": lambda n: calls.append(f"b{n}")}, 2)
    assert calls == ["a0", "b0", "a1", "b1", "a2", "b2"]
    assert {name: len(values) for name, values in seconds.items()} == {"a": 2, "b": 2}


def test_a_ratio_is_taken_within_each_round() -> None:
    """A machine twice as slow in the second round changes no ratio, though it changes the ratio of medians."""
    figure = Figure("x", "a / b", ratios([1.0, 4.0, 3.0], [2.0, 8.0, 4.0], 2.0), Target(1.0))
    assert figure.rounds == (1.0, 1.0, 1.5)
    assert (figure.median, figure.quartiles, figure.reached) == (1.0, (1.0, 1.25), True)


def test_exponents_of_known_powers() -> None:
    sizes = [2, 4, 8]
    seconds = [[0.1 * n, 0.5 * n**2, 7.0] for n in sizes]
    assert exponents(sizes, seconds) == pytest.approx((1.0, 2.0, 0.0))


@pytest.mark.parametrize(
    ("value", "target", "cells"),
    [
        (0.4, Target(0.5), "0.400 | once | <= 0.5 | yes"),
        (0.6, Target(0.5), "0.600 | once | <= 0.5 | no"),
        (7.9, Target(8.0, at_least=True), "7.900 | once | >= 8 | no"),
        (8.0, Target(8.0, at_least=True), "8.000 | once | >= 8 | yes"),
        (3.0, None, "3.000 | once | stated | -"),
    ],
)
def test_the_table_says_what_was_reached(value: float, target: Target | None, cells: str) -> None:
    assert table([Figure("x", "a / b", (value,), target)]).splitlines()[2] == f"| x | a / b | {cells} |"


def test_the_rivals_learn_the_same_from_the_same_texts(tmp_path: Path) -> None:
    """Both references do the whole work: the naive loop's kept graph gives the second pass's gradient."""
    folder, size = SMALLEST.large.save(tmp_path), SMALLEST.alone
    # As the candidate's folder has it, rounded to bfloat16.
    model = SMALLEST.large.model().bfloat16().float()
    layout = resolve(LoraConfig.model_validate(LORA), module_table("lm", model))
    adapter = Adapter(layout, 0.3 * torch.randn(layout.size, generator=torch.Generator().manual_seed(1)))
    prompt = torch.arange(20, 20 + size.prompt)
    advantages = [1.0, -0.5]
    learnt = naive(folder, prompt, adapter, advantages, size.new, seed=3)
    said = torch.cat([prompt.repeat(len(advantages), 1), learnt.tokens], 1)
    (expected,) = PlainBatched(model, size.new).gradients(said, [adapter] * len(advantages), advantages)
    assert learnt.gradient.norm() > 1e-3
    torch.testing.assert_close(learnt.gradient, expected, rtol=1e-4, atol=1e-6)


def test_the_rival_gives_every_episode_the_adapter_of_its_question() -> None:
    """Two questions whose adapters differ in rank, so that the gradients' lengths tell them apart."""
    model = SMALLEST.large.model()
    table_of = module_table("lm", model)
    layouts = [resolve(LoraConfig.model_validate({**LORA, "rank": rank}), table_of) for rank in (2, 3)]
    adapters = [Adapter(layout, torch.full((layout.size,), 0.1)) for layout in layouts]
    prompts = torch.stack([torch.arange(20, 29), torch.arange(40, 49)])
    plain = PlainBatched(model, 4)
    said = plain.said(prompts, [adapters[0], adapters[0], adapters[1], adapters[1]], 2)
    assert said.shape == (4, 9 + 4)
    assert torch.equal(said[:, :9], prompts.repeat_interleave(2, 0))
    found = plain.learnt(prompts, adapters, [1.0, -0.5])
    assert [len(gradient) for gradient in found] == [layout.size for layout in layouts]
