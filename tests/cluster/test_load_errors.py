"""What does not load is named by its own error, wherever on Ray it was to be loaded."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from experiments import tiny_experiment

from haps_search.config.run import Experiment
from haps_search.engines.cluster.ray_engine import RayEngine
from haps_search.errors import CandidateError

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def without_weights(experiment: Experiment, where: str, nowhere: Path) -> Experiment:
    described = experiment.model_dump(mode="json")
    part = described["routing"]["backbone"] if where == "backbone" else described["candidates"][1]
    part["source"]["path"] = str(nowhere)
    return Experiment.model_validate(described)


@pytest.mark.parametrize("where", ["backbone", "candidate"])
def test_an_error_of_loading_crosses_as_itself(
    tiny_lms: dict[str, Path], tmp_path: Path, on_ray: Any, where: str
) -> None:
    broken = without_weights(tiny_experiment(tiny_lms), where, tmp_path / "nowhere")
    with on_ray(broken) as live, pytest.raises(CandidateError, match="nowhere"):
        asyncio.run(RayEngine.start(broken, live.profile, live.broker))
