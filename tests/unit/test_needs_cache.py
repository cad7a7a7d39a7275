"""What a plan worked out is kept for the same models, settings and versions, and for nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import plans
import pytest

from haps_search.config.run import Experiment
from haps_search.engines.placement import needs
from haps_search.engines.placement.needs import Need, Needs, kept

FOUND = Needs({"a": Need(1, 0, 2, 3, 4, True)}, Need(5, 6, 7, 8, 9, False, 10))


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("HAPS_CACHE", str(tmp_path))
    return tmp_path / "needs"


def asked(experiment: Experiment, prompt_tokens: int = 100) -> bool:
    """Whether it had to be worked out."""
    worked: list[bool] = []

    def work_out() -> Needs:
        worked.append(True)
        return FOUND

    assert kept(experiment, prompt_tokens, work_out) == FOUND
    return bool(worked)


def test_the_same_is_worked_out_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = plans.a_study("three-gpus").experiment
    assert [asked(experiment), asked(experiment)] == [True, False]
    assert asked(experiment, 101), "longer prompts need more"
    assert asked(plans.a_study("three-gpus", trials=1, tuning={"type": "frozen"}).experiment)
    monkeypatch.setattr(needs, "version", lambda name: "0.0")
    assert asked(experiment), "another torch may need more"


def test_a_file_that_was_cut_off_is_worked_out_again(cache: Path) -> None:
    experiment = plans.a_study("three-gpus").experiment
    asked(experiment)
    (file,) = cache.glob("*.json")
    file.write_text(file.read_text()[:20])
    assert [asked(experiment), asked(experiment)] == [True, False]


@pytest.mark.parametrize("source", [{"type": "hub", "repo": "org/model"}, {"type": "path", "path": "/nowhere"}])
def test_what_cannot_be_told_apart_is_asked_each_time(source: dict[str, Any]) -> None:
    study = plans.a_study("three-gpus")
    values = study.experiment.model_dump(mode="json")
    values["candidates"][0]["source"] = source
    experiment = Experiment.model_validate(values)
    assert [asked(experiment), asked(experiment)] == [True, True]
