"""Endpoints are paid once for each request, whoever dies between, and never beyond the budget."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from endpoints import endpoint
from made import NumberTask
from sweeps import a_study

from haps_search.config.candidates import CandidateConfig
from haps_search.errors import CandidateError, ConfigError, Interrupted
from haps_search.records.parts import Parts
from haps_search.sweep.leaving import MAX_COST, STATUS, Pause, unfinished
from haps_search.types import Episode, Sampled, SampleRequest
from haps_search.verbs.collect import Collection, collection, merge, play_missing
from haps_search.verbs.paid_answers import ANSWERS, PaidAnswers, check_budget, paid_for


class Paying(NumberTask):
    """Nothing for what could not be read."""

    def reward(self, episode: Episode) -> float:
        return float(episode.answer or 0.0)


TASK = Paying()
PRICE = {"read": 1.0, "written": 2.0}
FAR = [endpoint("http://x/v1", name, price=PRICE, concurrency=2) for name in ("near", "far")]
EACH = (10 * 1.0 + 3 * 2.0) / 1e6
"""What an answer costs: 10 tokens read, 3 written."""


class Server:
    """Answers every request with its own count; the `dies`-th call finds it dead. It counts what it was paid for."""

    def __init__(self, dies: int | None = None, refuses: bool = False) -> None:
        self._dies, self._refuses, self._calls = dies, refuses, 0
        self.asked: list[tuple[str, SampleRequest]] = []
        self.under_way = self.at_a_time = 0

    async def __call__(self, candidate: str, requests: Sequence[SampleRequest]) -> list[Sampled]:
        self._calls += 1
        if self._calls == self._dies:
            raise CandidateError("gone")
        self.under_way += 1
        self.at_a_time = max(self.at_a_time, self.under_way)
        await asyncio.sleep(0)
        self.under_way -= 1
        self.asked += [(candidate, r) for r in requests]
        return [Sampled("1", (), (), 10, 3, refusal="refused: no" if self._refuses else None) for _ in requests]


def wanted(candidates: Sequence[dict[str, Any]] = FAR, chunk: int = 2) -> Collection:
    routing = {"low_level": {"type": "none"}}
    study = a_study(experiment={"candidates": list(candidates), "routing": routing})
    return collection(study.experiment, TASK, "train", 2, None, chunk)


def collected(table: Path, server: Server, most: float = float("inf"), pause: Pause | None = None) -> PaidAnswers:
    what, held = wanted(), pause or Pause()
    parts = Parts(table, what.plan(), what.chunks)
    answers = PaidAnswers(server, what.experiment.candidates, parts.folder / ANSWERS, held, most)
    work = play_missing(answers.sample, TASK, what, parts, lambda count: None, lambda: held.leaving)
    asyncio.run(answers.kept(work))
    return answers


def rows(table: Path) -> list[dict[str, Any]]:
    what = wanted()
    merge(what, Parts(table, what.plan(), what.chunks))
    found: list[dict[str, Any]] = pq.read_table(table).to_pylist()
    return found


@pytest.mark.parametrize("dies", [1, 2, 5, 11, 16])
def test_whoever_dies_every_request_is_paid_once(tmp_path: Path, dies: int) -> None:
    table, first, second = tmp_path / "t.parquet", Server(dies), Server()
    with pytest.raises(CandidateError):
        collected(table, first)
    assert first.under_way == 0  # what was sent came back
    answers = collected(table, second)
    asked = [*first.asked, *second.asked]
    assert len(asked) == len(set(asked)) == 4 * 2 * 2
    assert first.at_a_time <= 4  # two of each endpoint
    found = rows(table)
    assert len({(r["id"], r["assignment"], r["sample"]) for r in found}) == len(found) == 16
    assert sum(r["cost"] for r in found) == pytest.approx(answers.spent) == pytest.approx(16 * EACH)


def test_a_torn_answer_is_asked_again_and_a_damaged_one_named(tmp_path: Path) -> None:
    table, server = tmp_path / "t.parquet", Server()
    collected(table, server)
    folder = Parts(table, wanted().plan(), 2).folder
    lines = (folder / ANSWERS).read_bytes().splitlines(keepends=True)
    for part in folder.glob("part-*"):
        part.unlink()
    (folder / ANSWERS).write_bytes(b"".join(lines[:-1]) + lines[-1][:20])
    again = Server()
    collected(table, again)
    assert len(again.asked) == 1
    assert len((folder / ANSWERS).read_bytes().splitlines()) == 16


@pytest.mark.parametrize("answers", [0, 1, 5, 15, 16])
def test_nothing_is_asked_that_could_exceed_the_budget(tmp_path: Path, answers: int) -> None:
    table, server, pause = tmp_path / "t.parquet", Server(), Pause()
    most = answers * EACH + 100e-6  # an answer may cost 96 + the text's bytes, and 32 * 2 written
    if answers == 16:
        collected(table, server, most * 10, pause)
        assert len(server.asked) == 16
        return
    with pytest.raises(Interrupted, match="is paid, and the answers are kept"):
        collected(table, server, most, pause)
    assert pause.why == MAX_COST
    assert unfinished(pause.why, "").status == STATUS
    assert len(server.asked) * EACH <= most
    more = collected(table, server)
    assert more.spent == pytest.approx(16 * EACH)
    assert len(server.asked) == len(set(server.asked)) == 16


def test_a_budget_holds_over_all_calls(tmp_path: Path) -> None:
    table, server = tmp_path / "t.parquet", Server()
    for _ in range(3):
        with pytest.raises(Interrupted):
            collected(table, server, 300e-6, Pause())
    spent, refusals = paid_for(wanted().experiment.candidates, Parts(table, wanted().plan(), 2).folder / ANSWERS)
    assert 0 < spent == pytest.approx(len(server.asked) * EACH)
    assert spent <= 300e-6
    assert refusals == 0


def test_who_is_asked_to_leave_pays_nothing_more(tmp_path: Path) -> None:
    server, pause = Server(), Pause()

    class Leaving(Server):
        async def __call__(self, candidate: str, requests: Sequence[SampleRequest]) -> list[Sampled]:
            pause.leave(str(signal.SIGTERM))
            return await server(candidate, requests)

    with pytest.raises(Interrupted):
        collected(tmp_path / "t.parquet", Leaving(), pause=pause)
    assert 1 <= len(server.asked) <= 4  # those under way at that moment
    collected(tmp_path / "t.parquet", server)
    assert len(server.asked) == len(set(server.asked)) == 16


def test_refusals_earn_what_an_unreadable_answer_does_and_are_counted(tmp_path: Path) -> None:
    table = tmp_path / "t.parquet"
    collected(table, Server(refuses=True))
    folder = Parts(table, wanted().plan(), 2).folder
    assert paid_for(wanted().experiment.candidates, folder / ANSWERS) == (pytest.approx(16 * EACH), 16)
    assert {(r["reward"], r["failure"]) for r in rows(table)} == {(0.0, "refused: no")}


def test_candidates_of_ones_own_are_asked_as_ever(tmp_path: Path) -> None:
    own = {"name": "adder", "source": {"type": "zoo", "name": "adder"}}
    batches: list[int] = []

    async def sample(candidate: str, requests: Sequence[SampleRequest]) -> list[Sampled]:
        batches.append(len(requests))
        return [Sampled("1", (1,), (-1.0,), 1, 1) for _ in requests]

    candidates = [CandidateConfig.model_validate(c) for c in (own, FAR[0])]
    answers = PaidAnswers(sample, candidates, tmp_path / ANSWERS, Pause())
    what = wanted()
    parts = Parts(tmp_path / "x", what.plan(), what.chunks)
    requests: list[SampleRequest] = []

    async def noted(candidate: str, some: Sequence[SampleRequest]) -> list[Sampled]:
        requests.extend(some)
        return [Sampled("1", (), (), 1, 1) for _ in some]

    asyncio.run(play_missing(noted, TASK, what, parts, lambda count: None))
    assert len(asyncio.run(answers.sample("adder", requests))) == 16
    assert batches == [16]
    assert (tmp_path / ANSWERS).read_text() == ""


def test_what_changes_the_pace_alone_is_the_same_table_and_what_changes_answers_is_not() -> None:
    def plan(**changes: Any) -> str:
        one = endpoint("http://x/v1", "near", price=PRICE, **{"concurrency": 2, **changes})
        return json.dumps(wanted([one, FAR[1]]).plan())

    paced = {"concurrency": 9, "requests_per_minute": 5, "timeout_s": 1.0, "retry_s": 0.0, "api_key_env": "KEY"}
    assert plan(**paced) == plan()
    assert plan(model="other") != plan()
    assert plan(extra_body={"top_k": 1}) != plan()


def test_a_budget_that_bounds_nothing_is_refused() -> None:
    free = [CandidateConfig.model_validate(endpoint("http://x/v1"))]
    own = [CandidateConfig.model_validate({"name": "a", "source": {"type": "zoo", "name": "adder"}})]
    check_budget(free, None)
    with pytest.raises(ConfigError, match="candidate far has no price"):
        check_budget(free, 1.0)
    with pytest.raises(ConfigError, match="no candidate is an endpoint"):
        check_budget(own, 1.0)
