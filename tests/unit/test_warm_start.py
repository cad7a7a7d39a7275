"""A warm start: the new run's routes are the warmed ones, all else is fresh."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import torch
from dense_task import DenseTask
from experiments import tiny_experiment
from sweeps import DESCRIBED
from taught_task import TaughtTask

from haps_search.config.anchors import anchored
from haps_search.config.load import parse_study
from haps_search.config.run import Experiment
from haps_search.engines.assembly import build_learner
from haps_search.engines.local import LocalEngine
from haps_search.errors import CheckpointError, ConfigError
from haps_search.learning.update import Learner
from haps_search.lora.adapter import flattened, relative_norms
from haps_search.records.jsonl import read_records
from haps_search.records.run_folder import RunFolder
from haps_search.search.loop import run
from haps_search.search.warm_start import warm_source, warm_start
from haps_search.types import Outcomes, Question, Signal, UpdateReport
from haps_search.verbs.warmup import warmup_experiment

QUESTIONS = DenseTask().questions("train")
PAID = tuple((1.0, 0.0) if i % 3 else (0.0, 1.0) for i in range(len(QUESTIONS)))
FROZEN = {"routing__backbone__tuning": {"type": "frozen"}}


def warm(folder: Path, tiny_lms: dict[str, Path], **changes: Any) -> Learner:
    """A warmed run in `folder`; its learner stands at the best checkpoint."""
    experiment = warmup_experiment(tiny_experiment(tiny_lms, **changes), len(QUESTIONS))
    learner = build_learner(experiment, DenseTask(), {})
    for _ in range(3):
        learner.update(QUESTIONS, Outcomes(learner.version, PAID))
    RunFolder(folder, experiment).save(3, learner.snapshot(), {}, best=True)
    return learner


def started(folder: Path, experiment: Experiment) -> LocalEngine:
    engine = LocalEngine.build(experiment, DenseTask())
    asyncio.run(warm_start(engine, experiment, folder))
    return engine


@pytest.mark.parametrize("tuning", ["full", "frozen"])
def test_a_run_begins_with_the_warmed_routes(tiny_lms: dict[str, Path], tmp_path: Path, tuning: str) -> None:
    changes: dict[str, Any] = {"routing__backbone__tuning": {"type": tuning}}
    warmed = warm(tmp_path / "warm", tiny_lms, **changes)
    experiment = tiny_experiment(tiny_lms, run__warm_start="warm", **changes)
    engine, cold = started(tmp_path / "new", experiment), LocalEngine.build(experiment, DenseTask())
    wanted = warmed.route(QUESTIONS, 3, seed=5)
    found = asyncio.run(engine.route(QUESTIONS, 3, 5))
    assert found.marginals == wanted.marginals
    assert found.assignments == wanted.assignments
    assert asyncio.run(cold.route(QUESTIONS, 3, 5)).marginals != wanted.marginals
    taken, fresh = asyncio.run(engine.snapshot()), asyncio.run(cold.snapshot())
    assert taken.state == fresh.state == {"version": 0}
    assert set(taken.tensors) == set(fresh.tensors)  # no moments came along
    low = [n for n in fresh.tensors if n.startswith("router.low.")]
    assert low
    assert all(torch.equal(taken.tensors[n], fresh.tensors[n]) for n in low)


TAUGHT: dict[str, Any] = {"learning__signal": "references", "routing__high_level": {"type": "random"}, **FROZEN}
RESIDUAL = {"type": "generated", "residual_of": "static", "static_learns": False, "hidden": [4]}


@pytest.mark.parametrize("low", [{"type": "static"}, RESIDUAL, {"type": "generated"}], ids=lambda low: low["type"])
def test_what_references_taught_is_where_the_low_level_begins(
    tiny_lms: dict[str, Path], tmp_path: Path, low: dict[str, Any]
) -> None:
    taught = tiny_experiment(tiny_lms, run__steps=2, routing__low_level={"type": "static"}, **TAUGHT)
    engine = LocalEngine.build(taught, TaughtTask())
    asyncio.run(run(engine, TaughtTask(), taught, RunFolder(tmp_path / "taught", taught)))
    wanted = engine.all_adapters(QUESTIONS[:1])[0, "llama"]
    changes = TAUGHT | {"learning__signal": "rollouts", "routing__low_level": low, "run__warm_start_low": True}
    experiment = tiny_experiment(tiny_lms, run__warm_start="taught", **changes)
    if low["type"] == "generated" and low is not RESIDUAL:
        with pytest.raises(CheckpointError, match=r"routing\.low_level"):
            started(tmp_path / "new", experiment)
        return
    found = started(tmp_path / "new", experiment).all_adapters(QUESTIONS[:1])[0, "llama"]
    torch.testing.assert_close(found.parts[-1].values, wanted.values)
    whole = flattened(found)  # a residual begins at zero
    norms = [relative_norms(each.layout, each.values) for each in (whole, wanted)]
    torch.testing.assert_close(norms[0], norms[1])
    other = tiny_experiment(tiny_lms, run__warm_start="taught", routing__lora__rank=2, **changes)
    with pytest.raises(ConfigError, match=r"routing\.lora"):
        warm_source(other, tmp_path / "new")


@pytest.mark.parametrize("low", [{"type": "static"}, {**RESIDUAL, "static_learns": True}], ids=lambda low: low["type"])
def test_the_kl_is_taken_to_where_the_run_began_also_after_a_resume(
    tiny_lms: dict[str, Path], tmp_path: Path, low: dict[str, Any]
) -> None:
    taught = tiny_experiment(tiny_lms, run__steps=3, routing__low_level={"type": "static", "init": "xavier"}, **TAUGHT)
    asyncio.run(run(LocalEngine.build(taught, TaughtTask()), TaughtTask(), taught, RunFolder(tmp_path / "a", taught)))
    changes = TAUGHT | {"learning__signal": "rollouts", "routing__low_level": low, "run__warm_start_low": True}
    learning = {"learning__kl_weight": 0.5, "learning__kl_to": "start", "learning__learning_rate__low": 0.05}
    experiment = tiny_experiment(tiny_lms, run__warm_start="a", run__steps=4, **changes, **learning)
    engine = LocalEngine.build(experiment, DenseTask())
    asyncio.run(run(engine, DenseTask(), experiment, RunFolder(tmp_path / "b", experiment)))
    first, *_, last = [r.metrics["kl"] for r in read_records(tmp_path / "b" / "metrics.jsonl")]
    assert first == pytest.approx(0.0, abs=1e-9)
    assert last > 1e-4
    resumed = LocalEngine.build(experiment, DenseTask())
    asyncio.run(resumed.restore(asyncio.run(engine.snapshot())))
    one, other = (asyncio.run(e.route(QUESTIONS, 2, 0)) for e in (engine, resumed))
    assert set(one.references) == set(one.adapters)
    for key, reference in one.references.items():
        began = [part.values for part in reference.parts]
        assert all(torch.equal(a, b.values) for a, b in zip(began, other.references[key].parts, strict=True))
        assert not all(torch.equal(a, b.values) for a, b in zip(began, one.adapters[key].parts, strict=True))


class Interrupted(Exception):
    pass


class InterruptedEngine(LocalEngine):
    updates_left = 0

    async def update(self, questions: Any, signal: Signal) -> UpdateReport:
        if not self.updates_left:
            raise Interrupted
        self.updates_left -= 1
        return await super().update(questions, signal)


def test_a_resumed_run_does_not_start_over(tiny_lms: dict[str, Path], tmp_path: Path) -> None:
    warm(tmp_path / "warm", tiny_lms)
    experiment = tiny_experiment(tiny_lms, run__warm_start="warm", run__steps=4, run__validation__every=4)
    whole = LocalEngine.build(experiment, DenseTask())
    asyncio.run(run(whole, DenseTask(), experiment, RunFolder(tmp_path / "whole", experiment)))
    broken = InterruptedEngine.build(experiment, DenseTask())
    broken.updates_left = 3
    with pytest.raises(Interrupted):
        asyncio.run(run(broken, DenseTask(), experiment, RunFolder(tmp_path / "parts", experiment)))
    resumed = LocalEngine.build(experiment, DenseTask())
    asyncio.run(run(resumed, DenseTask(), experiment, RunFolder(tmp_path / "parts", experiment)))
    wanted, found = asyncio.run(whole.snapshot()), asyncio.run(resumed.snapshot())
    assert all(torch.equal(found.tensors[n], v) for n, v in wanted.tensors.items())


@pytest.mark.parametrize("depth", ["new", "sweep/trials/007"])
def test_a_name_is_looked_for_beside_the_run_and_beside_its_sweep(
    tiny_lms: dict[str, Path], tmp_path: Path, depth: str
) -> None:
    warm(tmp_path / "warm", tiny_lms)
    named = tiny_experiment(tiny_lms, run__warm_start="warm")
    assert warm_source(named, tmp_path / depth) == tmp_path / "warm"
    direct = tiny_experiment(tiny_lms, run__warm_start=str(tmp_path / "warm"))
    assert warm_source(direct, Path("elsewhere")) == tmp_path / "warm"
    with pytest.raises(ConfigError, match="no run warmer"):
        warm_source(tiny_experiment(tiny_lms, run__warm_start="warmer"), tmp_path / depth)


def other_candidates(tiny_lms: dict[str, Path]) -> list[dict[str, Any]]:
    return [{"name": n, "source": {"type": "path", "path": str(tiny_lms[n])}} for n in ("qwen2", "llama")]


def test_other_candidates_prompts_and_backbones_are_refused_together(tiny_lms: dict[str, Path], tmp_path: Path) -> None:
    warm(tmp_path / "warm", tiny_lms)
    experiment = tiny_experiment(
        tiny_lms, run__warm_start="warm", candidates=other_candidates(tiny_lms), routing__prompt="full",
        routing__backbone__source={"type": "path", "path": str(tiny_lms["llama"])},
    )  # fmt: skip
    with pytest.raises(ConfigError) as caught:
        warm_source(experiment, tmp_path / "new")
    said = caught.value.problems
    assert (
        said[0]
        == "candidates (names and order): that run has llama, qwen2, this one qwen2, llama; they must be the same"
    )
    assert [p.split(":")[0] for p in said[1:]] == ["routing.prompt", "routing.backbone.source"]


def test_the_same_weights_read_through_another_lora_scale_are_refused(
    tiny_lms: dict[str, Path], tmp_path: Path
) -> None:
    lora = {"type": "lora", "targets": ["q_proj"]}
    warm(tmp_path / "warm", tiny_lms, routing__backbone__tuning={**lora, "alpha": 16})
    ours = tiny_experiment(tiny_lms, run__warm_start="warm", routing__backbone__tuning={**lora, "alpha": 32})
    with pytest.raises(ConfigError, match=r"tuning\.alpha: that run has 16, this one 32"):
        warm_source(ours, tmp_path / "new")


@pytest.mark.parametrize(
    ("changed", "path"),
    [
        ({"scale_output": True}, "scale_output"),
        ({"pooled": {"standardised": True}}, "pooled.standardised"),
        ({"pooled": {"of": "question"}}, "pooled.of"),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_a_low_level_that_reads_or_scales_otherwise_is_refused(
    tiny_lms: dict[str, Path], tmp_path: Path, changed: dict[str, Any], path: str
) -> None:
    level = {"type": "generated", "hidden": [16], "init": "xavier"}
    theirs = tiny_experiment(tiny_lms, routing__low_level={**level, **changed})
    RunFolder(tmp_path / "warm", theirs)
    ours = tiny_experiment(tiny_lms, run__warm_start="warm", run__warm_start_low=True, routing__low_level=level)
    with pytest.raises(ConfigError, match=rf"routing\.low_level\.{path}: that run has .*; they must be the same"):
        warm_source(ours, tmp_path / "new")
    for change in ({"run__warm_start_low": False}, {"routing__low_level": {"type": "static"}}):
        described = {"run__warm_start_low": True, "routing__low_level": level, **change}
        other = tiny_experiment(tiny_lms, run__warm_start="warm", **described)
        assert warm_source(other, tmp_path / "new") == tmp_path / "warm"


@pytest.mark.parametrize(
    ("theirs", "ours", "named"),
    [
        ({}, FROZEN, "backbone"),
        ({}, {"routing__high_level": {"type": "random"}}, r"high\.linear"),
        ({"routing__backbone__tuning": {"type": "lora"}}, {}, "lora"),
    ],
    ids=["frozen", "another high level", "lora"],
)
def test_weights_without_a_place_are_refused(
    tiny_lms: dict[str, Path], tmp_path: Path, theirs: dict[str, Any], ours: dict[str, Any], named: str
) -> None:
    warm(tmp_path / "warm", tiny_lms, **theirs)
    with pytest.raises(CheckpointError, match=rf"do not fit this router \(.*{named}"):
        started(tmp_path / "new", tiny_experiment(tiny_lms, run__warm_start="warm", **ours))


def test_a_run_without_a_checkpoint_cannot_be_started_from(tiny_lms: dict[str, Path], tmp_path: Path) -> None:
    RunFolder(tmp_path / "warm", tiny_experiment(tiny_lms))
    with pytest.raises(CheckpointError, match="no validated checkpoint"):
        started(tmp_path / "new", tiny_experiment(tiny_lms, run__warm_start="warm"))


def test_paths_become_absolute_and_names_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    described = {**DESCRIBED, "experiment": {**DESCRIBED["experiment"], "run": {"warm_start": "runs/warm"}}}
    space = {"run.warm_start": {"type": "choice", "values": [None, "warm", "runs/warm"]}}
    study = anchored(parse_study({**described, "space": space}))
    assert study.experiment.run.warm_start == str(tmp_path / "runs" / "warm")
    assert study.space["run.warm_start"].values == (None, "warm", str(tmp_path / "runs" / "warm"))  # type: ignore[union-attr]
    arms: dict[str, dict[str, Any]] = {"cold": {}, "warm": {"run.warm_start": "../warm"}}
    arms["other"] = {"routing.backbone.source": {"type": "path", "path": "lm"}, "task.description": "a/b"}
    told = anchored(parse_study({**described, "arms": arms}))
    assert told.arms["warm"] == {"run.warm_start": str(tmp_path / "../warm")}
    assert told.arms["other"]["routing.backbone.source"]["path"] == str(tmp_path / "lm")
    assert told.arms["other"]["task.description"] == "a/b"


def test_questions_are_what_a_router_learns_from_and_not_their_order(tiny_lms: dict[str, Path], tmp_path: Path) -> None:
    """Guards the fixture: the warmed routes depend on the question, so that equal routes mean something."""
    learner = warm(tmp_path / "warm", tiny_lms)
    asked: list[Question] = list(QUESTIONS)
    assert len(set(learner.route(asked, 0, 0).marginals)) > 1


def test_how_the_low_levels_input_is_standardised_is_taken_by_the_warmed_backbone(
    tiny_lms: dict[str, Path], tmp_path: Path
) -> None:
    warm(tmp_path / "warm", tiny_lms)
    pooled = {"routing__low_level__pooled": {"standardised": True}}
    engine = started(tmp_path / "new", tiny_experiment(tiny_lms, run__warm_start="warm", **pooled))
    with torch.no_grad():
        found = engine._learner.router.read(QUESTIONS).pooled
    torch.testing.assert_close(found.mean(0), torch.zeros_like(found[0]), atol=1e-9, rtol=0)
    torch.testing.assert_close(found.std(0, correction=0), torch.ones_like(found[0]))


def test_a_warm_up_of_what_references_teach_is_a_run_of_its_own(tiny_lms: dict[str, Path]) -> None:
    taught = tiny_experiment(tiny_lms, routing__low_level={"type": "static"}, **TAUGHT)
    held = tiny_experiment(tiny_lms, run__warm_start="a", run__warm_start_low=True, learning__kl_to="start")
    for experiment in (taught, held):
        warmed = warmup_experiment(experiment, len(QUESTIONS))
        assert Experiment.model_validate(warmed.model_dump(mode="json")) == warmed
