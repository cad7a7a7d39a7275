"""Playing a table by parts: what is played, and what a death at any moment leaves."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from made import NumberTask, said
from sweeps import a_study

from haps_search.config.run import Experiment
from haps_search.errors import ConfigError, DataError, PoolError
from haps_search.records.parts import Parts
from haps_search.tasks.passages import Passage
from haps_search.types import Question, Sampled, SampleRequest, Split
from haps_search.verbs.collect import Collection, collection, merge, play_missing

TASK = NumberTask(roles=2)
NAMES = ("adder", "sorter")
PRICED = [
    {"name": n, "source": {"type": "zoo", "name": n}, "price": {"read": read, "written": 2.0}}
    for n, read in zip(NAMES, (1.0, 0.0), strict=True)
]


def experiment(**changes: Any) -> Experiment:
    return a_study(experiment={"candidates": PRICED, **changes}).experiment


def wanted(samples: int = 1, limit: int | None = None, chunk: int = 2, **changes: Any) -> Collection:
    return collection(experiment(**changes), TASK, "train", samples, limit, chunk)


class Speaker:
    """Says 0.5 as the adder, 1 as the sorter, or the request's seed; dies at its n-th call."""

    def __init__(self, calls: int | None = None, seeds: bool = False) -> None:
        self.calls, self._seeds = calls, seeds
        self.requests: list[SampleRequest] = []

    async def __call__(self, candidate: str, requests: Sequence[SampleRequest]) -> list[Sampled]:
        if self.calls is not None:
            self.calls -= 1
            if self.calls < 0:
                raise PoolError("gone")
        self.requests += requests
        texts = [str(r.sampling.seed) if self._seeds else {"adder": "0.5", "sorter": "1"}[candidate] for r in requests]
        return [said(text, tokens=2) for text in texts]


def parts_of(target: Path, what: Collection) -> Parts:
    return Parts(target, what.plan(), what.chunks)


def collected(target: Path, what: Collection, speaker: Speaker) -> list[dict[str, Any]]:
    parts = parts_of(target, what)
    asyncio.run(play_missing(speaker, TASK, what, parts, lambda count: None))
    merge(what, parts)
    rows: list[dict[str, Any]] = pq.read_table(target).to_pylist()
    return rows


def test_every_assignment_is_played_on_every_question_once(tmp_path: Path) -> None:
    speaker = Speaker()
    rows = collected(tmp_path / "t.parquet", wanted(), speaker)
    zs = ['["adder", "adder"]', '["adder", "sorter"]', '["sorter", "adder"]', '["sorter", "sorter"]']
    assert [(r["id"], r["assignment"], r["sample"]) for r in rows] == [
        (f"train-{i}", z, 0) for i in range(4) for z in zs
    ]
    assert [r["reward"] for r in rows[:4]] == [0.5, 1.0, 0.5, 1.0]
    assert all(r.sampling.greedy and r.adapter is None and not r.keep for r in speaker.requests)
    assert [p.name for p in tmp_path.iterdir()] == ["t.parquet"]


@pytest.mark.parametrize(("split", "reward"), [("train", 0.0), ("validation", 1.0), ("test", 1.0)])
def test_answers_that_state_several_earn_nothing_where_routers_learn(
    tmp_path: Path, split: Split, reward: float
) -> None:
    class Hedging(Speaker):
        async def __call__(self, candidate: str, requests: Sequence[SampleRequest]) -> list[Sampled]:
            return [said("0 then 1", tokens=2) for _ in requests]

    what = collection(experiment(), TASK, split, 1, 1, 2)
    assert {row["reward"] for row in collected(tmp_path / "t.parquet", what, Hedging())} == {reward}


def test_tokens_and_prices_of_all_roles_are_summed(tmp_path: Path) -> None:
    row = collected(tmp_path / "t.parquet", wanted(limit=1), Speaker())[1]  # adder then sorter; 3 read, 2 written each
    assert (row["prompt_tokens"], row["completion_tokens"]) == (6, 4)
    assert row["cost"] == pytest.approx((3 * 1.0 + 2 * 2.0 + 2 * 2.0) / 1e6)


def test_several_samples_are_drawn_each_with_its_own_seed(tmp_path: Path) -> None:
    speaker = Speaker(seeds=True)
    rows = collected(tmp_path / "t.parquet", wanted(samples=3, limit=2), speaker)
    assert [r["sample"] for r in rows[:4]] == [0, 1, 2, 0]
    assert not any(r.sampling.greedy for r in speaker.requests)
    assert len({r.sampling.seed for r in speaker.requests}) == len(speaker.requests) == 2 * 4 * 3 * 2
    again = collected(tmp_path / "u.parquet", wanted(samples=3, limit=2, chunk=1), Speaker(seeds=True))
    assert again == rows  # a text does not depend on what else is in flight


@pytest.mark.parametrize("calls", [0, 1, 3, 4, 5])
def test_interrupted_and_started_again_is_uninterrupted(tmp_path: Path, calls: int) -> None:
    what = wanted(samples=2, chunk=1)
    whole = collected(tmp_path / "whole.parquet", what, Speaker())
    with pytest.raises(PoolError):
        collected(tmp_path / "t.parquet", what, Speaker(calls))
    assert not (tmp_path / "t.parquet").exists()
    second = Speaker()
    assert collected(tmp_path / "t.parquet", what, second) == whole
    assert len(second.requests) == (4 - calls // 4) * 4 * 2 * 2  # 4 calls a chunk: 2 roles x 2 candidates


def test_a_part_or_a_merge_that_died_half_way_is_made_again(tmp_path: Path) -> None:
    what = wanted()
    whole = collected(tmp_path / "whole.parquet", what, Speaker())
    parts = parts_of(tmp_path / "t.parquet", what)
    asyncio.run(play_missing(Speaker(), TASK, what, parts, lambda count: None))
    (parts.folder / "part-000001").unlink()
    for torn in ("part-000001.tmp-999999", "whole.tmp-999999"):
        (parts.folder / torn).write_bytes(b"PAR1 torn")
    speaker = Speaker()
    assert collected(tmp_path / "t.parquet", what, speaker) == whole
    assert len(speaker.requests) == 2 * 4 * 2
    assert not parts.folder.exists()


def test_a_damaged_part_is_named_and_not_merged(tmp_path: Path) -> None:
    what = wanted()
    parts = parts_of(tmp_path / "t.parquet", what)
    asyncio.run(play_missing(Speaker(), TASK, what, parts, lambda count: None))
    (parts.folder / "part-000001").write_bytes(b"PAR1 torn")
    with pytest.raises(DataError, match="part-000001: not a readable Parquet file"):
        merge(what, parts)
    assert not (tmp_path / "t.parquet").exists()
    assert (parts.folder / "part-000000").exists()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"samples": 2}, "samples: stored 1, now 2"),
        ({"limit": 3}, "questions: stored 4, now 3"),
        ({"chunk": 1}, "chunk: stored 2, now 1"),
        ({"run": {"seed": 5}}, "seed: stored 11, now 5"),
        ({"candidates": PRICED[::-1]}, r"candidates\.0\.name: stored .adder., now .sorter."),
    ],
)
def test_parts_of_another_configuration_are_refused(tmp_path: Path, changes: dict[str, Any], named: str) -> None:
    parts_of(tmp_path / "t.parquet", wanted())
    with pytest.raises(ConfigError, match=named):
        parts_of(tmp_path / "t.parquet", wanted(**changes))


def test_a_description_does_not_make_another_table(tmp_path: Path) -> None:
    described = [{**c, "description": "good at sums"} for c in PRICED]
    assert wanted(candidates=described).plan() == wanted().plan()


def test_too_many_assignments_are_refused_with_the_numbers() -> None:
    many = [{"name": f"c{i}", "source": {"type": "zoo", "name": "adder"}} for i in range(17)]
    with pytest.raises(ConfigError, match=r"17 candidates in 2 roles are 289 assignments.*at most 256"):
        wanted(candidates=many)
    assert len(wanted(candidates=many[:16]).assignments) == 256


def test_other_paragraphs_or_options_are_another_table() -> None:
    one = Collection(experiment(), "train", (Question("q", "1?", "1", attributes={"choices": ("a", "b")}),), (), 1, 1)
    passages = {"passages": (Passage("Oram", "A hill."),)}
    tables = [one, *(replace(one, questions=(replace(one.questions[0], attributes=a),)) for a in (passages, {}))]
    assert len({made.plan()["questions_sha256"] for made in tables}) == 3
