"""Cross-fitting on a cluster's pool: the table of this process, and the driver killed in the middle costs a chunk."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from experiments import tiny_experiment
from patience import wait_for
from processes import Started

from haps_search.config.load import load_study
from haps_search.config.run import Experiment
from haps_search.verbs.collect import collect

pytestmark = [pytest.mark.ray, pytest.mark.slow]
TABLE = "table.parquet"


def written(folder: Path, tiny_lms: dict[str, Path], engine: dict[str, Any]) -> Path:
    task = {"type": "skills", "sizes": {"train": 24, "validation": 8, "test": 8}}
    low = {"type": "static", "init": "xavier", "max_relative_norm": None}
    experiment = tiny_experiment(tiny_lms, task=task, run__steps=2, learning__learning_rate={"low": 0.3})
    described = experiment.model_dump(mode="json")
    described |= {"routing": described["routing"] | {"low_level": low}, "engine": engine}
    described["candidates"] = [{**each, "dtype": "float64"} for each in described["candidates"]]
    folder.mkdir()
    file = folder / "study.yaml"
    experiment = Experiment.model_validate(described)
    file.write_text(yaml.safe_dump({"name": "crossed", "experiment": experiment.model_dump(mode="json")}))
    return file


def rows(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.read_table(folder / TABLE).to_pylist()
    return found


def test_halves_that_learnt_on_a_pool_play_each_other_s_questions_as_in_this_process(
    haps: Callable[..., Started], tiny_lms: dict[str, Path], tmp_path: Path
) -> None:
    alone, pool = tmp_path / "alone", tmp_path / "pool"
    collect(
        load_study(written(alone, tiny_lms, {"type": "local", "threads": 1})), alone / TABLE, chunk=4, cross_fit=True,
        runs=alone / "runs",
    )  # fmt: skip
    study = written(pool, tiny_lms, {"type": "ray", "profile": "local-cpu"})
    asked = ("collect", study, "--out", TABLE, "--adapters", "cross-fit", "--chunk", "4", "--runs", pool / "runs")
    first = haps(*asked, folder=pool)
    parts = pool / f"{TABLE}.parts"
    wait_for(lambda: len(list(parts.glob("part-??????"))) >= 2, first.printed, first)
    first.signal(signal.SIGKILL)
    first.wait()
    first.kill()
    again = haps(*asked, folder=pool)
    assert again.ended() == 0, again.printed()
    assert again.printed().count("adapters on half") <= 1, "the half that had learnt learns again"
    assert rows(pool) == rows(alone)
    assert {run.name for run in (pool / "runs").iterdir()} >= {"table-half-1", "table-half-2"}
