"""A table played with adapters that did not learn its questions: each half by the run on the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from experiments import tiny_experiment
from made import NumberTask
from sweeps import a_study

from haps_search.config.run import Experiment
from haps_search.config.sweep import Study
from haps_search.engines.local import load_run
from haps_search.episodes.play import Play, play
from haps_search.errors import ConfigError, PoolError
from haps_search.search.engine import finished
from haps_search.seeds import derive_seed
from haps_search.tasks.build import build_task
from haps_search.tasks.held_out import learnt, of_half
from haps_search.types import Adapter, Question
from haps_search.verbs import collect as verb
from haps_search.verbs.collect import Collection, collect, collection
from haps_search.verbs.cross_fit import half_experiment
from haps_search.verbs.warmup import warmup

STATIC: dict[str, Any] = {"routing": {"low_level": {"type": "static"}}}


def test_chunks_are_of_one_half_and_all_questions_are_in_one() -> None:
    experiment = a_study(experiment=STATIC).experiment
    asked = tuple(Question(str(i), f"{i}?", "") for i in range(21))
    crossed = Collection(experiment, "train", asked, (("adder",),), 1, 4, cross_fit=True)
    sides = [(crossed.half(index), crossed.part(index)) for index in range(crossed.chunks)]
    assert sorted((q.id for _, part in sides for q in part), key=int) == [q.id for q in asked]
    for half in (0, 1):
        own = [q for side, part in sides if side == half for q in part]
        assert own == list(of_half(asked, half))
        assert 4 < len(own) < 17
    assert all(len(part) <= 4 for _, part in sides)
    assert crossed.episodes(range(crossed.chunks)) == 21
    plain = Collection(experiment, "train", asked, (("adder",),), 1, 4)
    assert {plain.half(index) for index in range(plain.chunks)} == {None}
    assert "cross_fit" not in plain.plan()
    other = a_study(experiment={**STATIC, "learning": {"kl_weight": 0.5}}).experiment
    assert crossed.plan() != Collection(other, "train", asked, (("adder",),), 1, 4, cross_fit=True).plan()


def test_equal_questions_are_of_one_half_wherever_they_stand() -> None:
    asked = [Question(str(i), f"{i}?", "") for i in range(40)]
    first = {q.text for q in of_half(asked, 0)}
    again = [Question(f"again-{q.id}", f"  {q.text.upper()} ", "") for q in reversed(asked)]
    assert {q.text.strip().lower() for q in of_half(again, 0)} == first
    with pytest.raises(ConfigError, match=r"run\.half: none of 1 training questions"):
        of_half(asked[:1], 1 if asked[0].text in first else 0)


def test_a_run_on_a_half_learns_from_it_alone_and_from_a_fresh_router() -> None:
    stages = [{"learning.signal": "references", "run.steps": 7}, {"run.steps": 9}]
    experiment = half_experiment(
        a_study(experiment={**STATIC, "run": {"warm_start": "warmed"}, "stages": stages}).experiment, 1
    )
    assert (experiment.run.steps, experiment.learning.signal, experiment.stages) == (7, "references", ())
    assert (experiment.run.half, experiment.run.warm_start) == (1, None)
    assert Experiment.model_validate(experiment.model_dump(mode="json")) == experiment
    task = build_task(a_study().experiment.task)
    halves = [
        [q.id for q in learnt(task, half_experiment(a_study(experiment=STATIC).experiment, half))] for half in (0, 1)
    ]
    assert sorted(halves[0] + halves[1]) == sorted(q.id for q in task.questions("train"))


@pytest.mark.parametrize(
    ("changes", "split", "said"),
    [
        (STATIC, "validation", "halves are of training questions"),
        ({"routing": {"low_level": {"type": "none"}}}, "train", "no adapters to cross-fit"),
        (
            {**STATIC, "run": {"warm_start": "there", "warm_start_low": True}},
            "train",
            "run there has learnt the questions",
        ),
    ],
)
def test_what_cannot_be_cross_fitted_is_refused_first(changes: dict[str, Any], split: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        collection(a_study(experiment=changes).experiment, NumberTask(roles=1), split, 1, 5, 2, cross_fit=True)


def small(tiny_lms: Mapping[str, Path]) -> Study:
    task = {"type": "skills", "sizes": {"train": 24, "validation": 8, "test": 8}}
    low = {"type": "static", "init": "xavier", "max_relative_norm": None}
    experiment = tiny_experiment(tiny_lms, task=task, run__steps=2, learning__learning_rate={"low": 0.3})
    changed = experiment.model_dump(mode="json") | {
        "routing": experiment.model_dump(mode="json")["routing"] | {"low_level": low}
    }
    return a_study().model_copy(update={"experiment": Experiment.model_validate(changed)})


def rows(table: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.read_table(table).to_pylist()
    return found


def test_each_half_is_played_by_the_run_on_the_other_and_a_kill_costs_a_chunk(
    tiny_lms: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, runs, table = small(tiny_lms), tmp_path / "runs", tmp_path / "table.parquet"
    chunk, calls = verb.play_chunk, iter(range(100))

    async def dying(*parts: Any) -> Any:
        if next(calls) == 2:
            raise PoolError("gone")
        return await chunk(*parts)

    monkeypatch.setattr(verb, "play_chunk", dying)
    with pytest.raises(PoolError, match="gone"):
        collect(study, table, chunk=4, cross_fit=True, runs=runs)
    monkeypatch.setattr(verb, "play_chunk", chunk)
    there = len(list((tmp_path / "table.parquet.parts").glob("part-??????")))
    assert there == 2
    found = collect(study, table, chunk=4, cross_fit=True, runs=runs)
    assert (found.episodes, found.played) == (48, 48 - 16)
    assert collect(study, table, chunk=4, cross_fit=True, runs=runs).played == 0
    whole = tmp_path / "again" / "table.parquet"
    whole.parent.mkdir()
    collect(study, whole, chunk=4, cross_fit=True, runs=tmp_path / "other-runs")
    assert rows(table) == rows(whole)

    wanted = {(row["id"], row["assignment"]): (row["completion"], row["reward"]) for row in rows(table)}
    assert len(wanted) == 48
    task, adapted = build_task(study.experiment.task), 0
    for half in (0, 1):
        loaded = load_run(runs / f"table-half-{2 - half}", half_experiment(study.experiment, 1 - half))
        asked = list(of_half(task.questions("train"), half))
        assert not {q.id for q in asked} & {q.id for q in learnt(task, loaded.experiment)}
        adapters = finished(loaded.engine.route(asked, 0, 0, everyone=True)).adapters
        adapted += sum(wanted[key] != frozen for key, frozen in played(study, loaded.engine.sample, asked, {}).items())
        for key, own in played(study, loaded.engine.sample, asked, adapters).items():
            assert wanted[key] == own, key
    assert adapted, "the adapters change nothing, so nothing was shown"
    assert warmup(study, table, "warmed", runs).step > 0


def played(
    study: Study, sample: Any, asked: Sequence[Question], adapters: Mapping[tuple[int, str], Adapter]
) -> dict[tuple[str, str], tuple[str, float]]:
    task, how = (
        build_task(study.experiment.task),
        Play(study.experiment.run.sampling, derive_seed(0, "collect"), greedy=True),
    )
    each = [("llama",), ("qwen2",)]
    found = finished(play(sample, task, asked, [each] * len(asked), adapters, how))
    return {
        (e.question.id, f'["{e.assignment[0]}"]'): (e.completions[-1].sampled.text, task.reward(e))
        for row in found
        for e in row
    }
