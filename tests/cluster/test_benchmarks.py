"""The benchmarks that need Ray run, at the smallest size."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from transformers.utils import logging as transformers_logging

from benchmarks import fair_share, pool_sharing, ray_overhead
from benchmarks.scale import SMALLEST

pytestmark = pytest.mark.ray


_SLOW = [pytest.param(bench, marks=pytest.mark.slow, id=bench.__name__) for bench in (ray_overhead, pool_sharing)]


@pytest.mark.parametrize("bench", [pytest.param(fair_share, id=fair_share.__name__), *_SLOW])
def test_a_benchmark_on_ray_says_what_it_announces(bench: Any, on_ray: Any) -> None:
    transformers_logging.disable_progress_bar()
    found = bench.measure(SMALLEST, 1, on_ray)
    assert {figure.name for figure in found.figures} == set(bench.FIGURES)
    assert all(math.isfinite(value) and value > 0 for figure in found.figures for value in figure.rounds)
    assert json.loads(json.dumps(found.to_json()))["figures"]


def test_every_figure_belongs_to_one_benchmark() -> None:
    from benchmarks.__main__ import BENCHMARKS

    names = [figure for figures, _ in BENCHMARKS.values() for figure in figures]
    assert len(names) == len(set(names))
    assert {"suffix_gradient", "naive", "plain_batched", "ray_overhead", "pool_sharing"} < set(names)
