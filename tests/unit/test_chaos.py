"""The reckoning of `make chaos` notices whatever is lost, double or changed. No Ray, no server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import chaos
import pytest
from chaos import pursuits
from chaos.points import Logged, Point, mlflow_problems, retold
from chaos.pursuits import OFTEN, Deadly, Preempted
from chaos.reconcile import sweep_problems
from chaos.witness import Fault, Sighting, Toll, Witness, tolls
from processes import Started, holders, left_over
from sweeps import a_study

from haps_search.records.jsonl import JsonlTracker, JsonlWriter, read_records
from haps_search.records.tracker import Record
from haps_search.sweep.events import AttemptStarted, SweepEnded, TrialEnded, TrialSuggested
from haps_search.sweep.journal import Journal, open_sweep
from haps_search.sweep.layout import trial_folder

STEPS, EVERY, QUESTIONS = 6, 3, 4
RUN = {"steps": STEPS, "seed": 11, "validation": {"every": EVERY, "questions": QUESTIONS}}


def metrics(step: int) -> dict[str, float]:
    known = {"reward": step / 10, "step_seconds": 0.25}
    return {**known, "validation_reward": 0.5} if step % EVERY == 0 else known


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """Two trials that ended as they should, the second at its second attempt."""
    folder = tmp_path / "tiny"
    journal = open_sweep(folder, a_study(experiment={"run": RUN}, trials=2), resume=False)
    for number, attempts in ((0, 1), (1, 2)):
        journal.append(TrialSuggested(number, {"learning.learning_rate.low": 0.001 * (number + 1)}, 11))
        for attempt in range(1, attempts + 1):
            journal.append(AttemptStarted(number, attempt))
        write_trial(trial_folder(folder, number))
        journal.append(TrialEnded(number, "finished", {"validation_reward": 0.5}))
    journal.append(SweepEnded("all trials ended", 0.0))
    journal.close()
    (folder / "report.json").write_text("{}")
    return folder


def write_trial(folder: Path) -> None:
    tracker = JsonlTracker(folder / "metrics.jsonl")
    tracker.log_many([Record(step, metrics(step), 1000.0 + step) for step in range(1, STEPS + 1)])
    tracker.finish("finished", {"validation_reward": 0.5})
    examples = JsonlWriter(folder / "examples.jsonl")
    for step in range(EVERY, STEPS + 1, EVERY):
        for question in range(QUESTIONS):
            examples.append({"step": step, "question": f"q{question}"})
    examples.close()
    (folder / "result.json").write_text(json.dumps({"metrics": {"validation_reward": 0.5}}))


def edit(file: Path, change: Callable[[list[str]], list[str]]) -> None:
    file.write_text("".join(change(file.read_text().splitlines(keepends=True))))


def changed_line(line: str, **fields: Any) -> str:
    return json.dumps({**json.loads(line), **fields}) + "\n"


def test_a_sweep_where_all_is_there_once_has_no_problems(sweep: Path) -> None:
    assert sweep_problems(sweep) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda lines: lines[:2] + lines[3:], "metrics.jsonl: 3 is missing"),
        (lambda lines: [*lines[:2], lines[1], *lines[2:]], "metrics.jsonl: 2 is there 2 times"),
        (lambda lines: [*lines[:6], changed_line(lines[5], step=7), *lines[6:]], "metrics.jsonl: 7 does not belong"),
        (lambda lines: lines[:6], "metrics.jsonl: endings [], needs one"),
        (lambda lines: [*lines, lines[-1]], "metrics.jsonl: endings ['finished', 'finished']"),
        (lambda lines: [*lines[:2], changed_line(lines[2], metrics=metrics(1)), *lines[3:]], "step 3 is not validated"),
        (lambda lines: [*lines, '{"step"'], "metrics.jsonl: the last line is torn"),
        (lambda lines: ["no JSON\n", *lines], "metrics.jsonl:1: not JSON"),
    ],
)
def test_a_step_that_is_lost_or_double_is_named(
    sweep: Path, change: Callable[[list[str]], list[str]], said: str
) -> None:
    edit(trial_folder(sweep, 1) / "metrics.jsonl", change)
    problems = sweep_problems(sweep)
    assert [problem for problem in problems if "trial 001" in problem and said in problem], problems
    assert not [problem for problem in problems if "trial 000" in problem]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda lines: lines[:5] + lines[6:], "examples.jsonl, step 6: q1 is missing"),
        (lambda lines: [*lines, lines[-1]], "examples.jsonl, step 6: q3 is there 2 times"),
        (lambda lines: [*lines[:7], changed_line(lines[7], question="q9")], "step 6: q9 does not belong there"),
        (lambda lines: lines[:4], "step 6: q0 is missing"),
        (lambda lines: [*lines, changed_line(lines[0], step=5)], "has steps [3, 5, 6]"),
        (lambda lines: lines[1:4] + lines[5:], "3 questions at the first validation, needs 4"),
    ],
)
def test_an_example_that_is_lost_or_double_is_named(
    sweep: Path, change: Callable[[list[str]], list[str]], said: str
) -> None:
    edit(trial_folder(sweep, 0) / "examples.jsonl", change)
    assert [
        problem for problem in sweep_problems(sweep) if "tiny: trial 000: examples.jsonl" in problem and said in problem
    ]


@pytest.mark.parametrize(
    ("event", "said"),
    [
        (TrialEnded(1, "finished", {"validation_reward": 0.5}), "trial 001: ended ['finished', 'finished']"),
        (AttemptStarted(0, 1), "trial 000: attempts [1, 1]"),
        (TrialSuggested(2, {"learning.learning_rate.low": 0.5}, 11), "needs trials 0 to 1"),
        (TrialSuggested(1, {"learning.learning_rate.low": 0.001}, 11), "2 trials of the same parameters"),
        (TrialSuggested(0, {}, 11), "the journal does not close with the sweep's end"),
    ],
)
def test_an_event_too_many_is_named(sweep: Path, event: Any, said: str) -> None:
    Journal(sweep).append(event)
    assert [problem for problem in sweep_problems(sweep) if said in problem]


@pytest.mark.parametrize("end", ["failed", "stopped"])
def test_a_trial_that_did_not_finish_is_named(sweep: Path, end: str) -> None:
    edit(sweep / "journal.jsonl", lambda lines: [line.replace('"finished"', f'"{end}"') for line in lines])
    assert f"tiny: trial 000: ended ['{end}'], needs one end, finished" in sweep_problems(sweep)


@pytest.mark.parametrize(("error", "said"), [("it died", []), (None, ["tiny: trial 001: it has failed without"])])
def test_only_a_deadly_setting_may_fail_and_with_its_reason(sweep: Path, error: str | None, said: list[str]) -> None:
    def failed(line: str) -> str:
        ends = '"finished"' in line and json.loads(line).get("number") == 1
        return changed_line(line, state="failed", error=error) if ends else line

    edit(sweep / "journal.jsonl", lambda lines: [failed(line) for line in lines])
    (trial_folder(sweep, 1) / "metrics.jsonl").unlink()
    found = sweep_problems(sweep, deadly={1})
    assert len(found) == len(said)
    assert all(one.startswith(words) for one, words in zip(found, said, strict=True))
    assert any("ended ['failed'], needs one end, finished" in problem for problem in sweep_problems(sweep))
    ended = Logged("trial", "001", "p", "t1", "FAILED", {})
    assert not [p for p in mlflow_problems(sweep, [*as_logged_of(sweep, 0), ended]) if "001" in p]
    never_again = Point(1, 0.5, 9)  # a step of an attempt before, to which the last one did not come
    for points, wrong in (([never_again], False), ([never_again] * 2, True)):
        runs = [*as_logged_of(sweep, 0), with_points(ended, "reward", points)]
        assert [p.endswith("reward at step 1 is there 2 times") for p in mlflow_problems(sweep, runs)] == [True] * wrong


class Processes:
    """A stage whose workers and trials are these processes; who is killed is gone."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *there: int) -> None:
        self.there, self.killed = set(there), list[int]()
        self.cluster = SimpleNamespace(workers=lambda title: [SimpleNamespace(pid=pid) for pid in sorted(self.there)])
        monkeypatch.setattr(os, "kill", self._kill)

    def _kill(self, pid: int, number: int) -> None:
        assert number == signal.SIGKILL
        self.there.discard(pid)
        self.killed.append(pid)


def test_a_worker_is_preempted_again_once_the_sweep_went_on_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    stage: Any = Processes(monkeypatch, 1, 2)
    pursuit, following = Preempted(2, {1, 2}), iter(range(3, 99))
    assert pursuit.step(stage, moved=False)
    assert stage.killed == [2]
    assert pursuit.step(stage, moved=True), "its follower is not there yet"
    stage.there.add(next(following))
    assert pursuit.step(stage, moved=False)
    assert stage.killed == [2], "it has not achieved anything yet"
    while pursuit.step(stage, moved=True):
        if len(stage.there) == 1:
            stage.there.add(next(following))
            assert pursuit.step(stage, moved=False)
    assert len(stage.killed) == OFTEN == 11
    assert 1 not in stage.killed


def test_a_deadly_setting_kills_whoever_runs_it_until_it_is_given_up(
    sweep: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit(sweep / "journal.jsonl", lambda lines: [line for line in lines if '"finished"' not in line])
    stage: Any = Processes(monkeypatch, 5, 6)
    runs = f"{trial_folder(sweep, 1).resolve()}.2/output.log"
    monkeypatch.setattr(pursuits, "holds", lambda pid, prefix: pid == 6 and runs.startswith(prefix))
    pursuit = Deadly(sweep, 1)
    assert pursuit.step(stage, moved=False)
    assert stage.killed == [6]
    Journal(sweep).append(TrialEnded(1, "failed", error="its process was killed"))
    assert not pursuit.step(stage, moved=False)


@pytest.mark.parametrize(("what", "said"), [("ESTALE", "OSError 116"), ("503", "HTTPError 503")])
def test_what_is_wrong_with_a_model_is_met_by_ray_s_processes_alone(tmp_path: Path, what: str, said: str) -> None:
    flag, sick = tmp_path / "flag", str(Path(*chaos.__path__, "sick"))
    (tmp_path / "config.json").write_text("{}")
    look = (
        "import sys\ntry:\n    print(open(sys.argv[1]).read())\n"
        "except OSError as e:\n    print(type(e).__name__, e.errno or e.response.status_code)"
    )
    for name in ("default_worker.py", "driver.py"):
        (tmp_path / name).write_text(look)

    def met(name: str) -> str:
        command = [sys.executable, str(tmp_path / name), str(tmp_path / "config.json")]
        environment = {**os.environ, "PYTHONPATH": sick, "CHAOS_SICK": str(flag)}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip()

    assert met("default_worker.py") == "{}"
    flag.write_text(what)
    assert met("default_worker.py") == said
    assert met("driver.py") == "{}"


def test_a_lock_that_is_held_and_a_half_written_file_are_named(sweep: Path) -> None:
    (trial_folder(sweep, 0) / "metrics.jsonl.tmp-1").write_text("")
    held = open_sweep(sweep, Journal(sweep).study(), resume=True)
    problems = sweep_problems(sweep)
    held.close()
    assert [problem for problem in problems if f"its lock is held by {{'pid': {os.getpid()}" in problem]
    assert [problem for problem in problems if "half-written files are left: ['metrics.jsonl.tmp-1']" in problem]


def as_logged(sweep: Path) -> list[Logged]:
    """MLflow's runs of a sweep, complete."""
    return as_logged_of(sweep, 0, 1)


def as_logged_of(sweep: Path, *numbers: int) -> list[Logged]:
    runs = [Logged("sweep", "", "", "p", "FINISHED", {})]
    for number in numbers:
        points: dict[str, list[Point]] = {"summary/validation_reward": [Point(STEPS, 0.5, 9)]}
        for record in read_records(trial_folder(sweep, number) / "metrics.jsonl"):
            for name, value in record.metrics.items():
                points.setdefault(name, []).append(Point(record.step, value, int(record.time * 1000)))
        runs.append(Logged("trial", f"{number:03d}", "p", f"t{number}", "FINISHED", points))
    return runs


def with_points(run: Logged, name: str, points: list[Point]) -> Logged:
    return replace(run, points={**run.points, name: points})


def test_mlflow_with_every_point_once_has_no_problems(sweep: Path) -> None:
    assert mlflow_problems(sweep, as_logged(sweep)) == []
    assert retold(sweep, as_logged(sweep)) == 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda points: points[:3] + points[4:], "reward at step 4 is missing"),
        (lambda points: [*points, points[1]], "reward at step 2 is there 2 times"),
        (lambda points: [replace(points[0], value=0.9), *points[1:]], "reward at step 1 is 0.9, recorded is 0.1"),
        (lambda points: [replace(points[0], value=0.9, time=5), *points[1:]], "reward at step 1 is 0.9, recorded"),
        (lambda points: [replace(points[0], time=10**9), *points[1:]], "reward at step 1 is 0.1, recorded is 0.1"),
        (lambda points: [*points, Point(7, 0.7, 0)], "reward at step 7 is in no record"),
    ],
)
def test_a_point_that_is_lost_double_or_changed_is_named(
    sweep: Path, change: Callable[[list[Point]], list[Point]], said: str
) -> None:
    runs = as_logged(sweep)
    runs[2] = with_points(runs[2], "reward", change(list(runs[2].points["reward"])))
    (problem,) = mlflow_problems(sweep, runs)
    assert problem.startswith(f"tiny: MLflow: trial 001: {said}")


def test_a_step_taken_again_may_have_its_first_account_in_mlflow(sweep: Path) -> None:
    runs = as_logged(sweep)
    for name, value in (("reward", 0.2), ("step_seconds", 7.0)):
        points = list(runs[1].points[name])
        runs[1] = with_points(runs[1], name, [points[0], Point(2, value, 5), *points[2:]])
    assert mlflow_problems(sweep, runs) == []
    assert retold(sweep, runs) == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda runs: runs[:2], "trial 001: 0 runs, needs one"),
        (lambda runs: [*runs, runs[2]], "trial 001: 2 runs, needs one"),
        (lambda runs: [runs[0], *runs], "2 parent runs, needs one"),
        (lambda runs: [runs[0], runs[1], replace(runs[2], status="RUNNING")], "the trial's run is RUNNING"),
        (lambda runs: [runs[0], runs[1], replace(runs[2], parent="x")], "its parent is x"),
        (lambda runs: [runs[0], runs[1], with_points(runs[2], "loss", [Point(1, 0.0, 1)])], "loss at step 1 is in no"),
    ],
)
def test_a_run_too_few_or_too_many_is_named(
    sweep: Path, change: Callable[[list[Logged]], list[Logged]], said: str
) -> None:
    assert [problem for problem in mlflow_problems(sweep, change(as_logged(sweep))) if said in problem]


def test_a_step_that_is_recorded_again_is_seen_once_more(sweep: Path) -> None:
    witness, file = Witness(), trial_folder(sweep, 0) / "metrics.jsonl"
    witness.look(sweep)
    witness.look(sweep)
    assert [(s.trial, s.step, s.again) for s in witness.sightings[:STEPS]] == [
        ("000", step, False) for step in range(1, STEPS + 1)
    ]
    assert len(witness.sightings) == 2 * STEPS
    edit(file, lambda lines: [*lines[:4], *(changed_line(line, time=5000.0) for line in lines[4:6])])
    witness.look(sweep)
    assert [(s.trial, s.step, s.time, s.again) for s in witness.sightings[2 * STEPS :]] == [
        ("000", step, 5000.0, True) for step in (5, 6)
    ]


def test_the_toll_of_a_fault_is_the_time_to_the_next_step_and_what_was_done_again_until_the_next_fault() -> None:
    faults = [Fault(10.0, "a", ""), Fault(20.0, "b", ""), Fault(30.0, "a", ""), Fault(90.0, "c", "")]
    steps: Mapping[float, bool] = {9.0: False, 12.0: True, 13.0: True, 19.0: False, 27.0: True, 31.0: False, 33.0: True}
    seen = [Sighting(time, "s", "000", 1, again) for time, again in steps.items()]
    assert tolls(faults, seen) == [Toll("a", 2, 1.5, 2.0, 3), Toll("b", 1, 7.0, 7.0, 1), Toll("c", 1, None, None, 0)]
    resumed = tolls(faults, seen, resumes=[11.0, 12.5, 95.0])
    assert resumed[0] == Toll("a", 2, 2.0, 3.0, 3), "what a dying driver still recorded is no recovery"
    assert resumed[1:] == tolls(faults, seen)[1:]


def test_a_process_that_stays_is_found_by_the_file_it_holds(tmp_path: Path) -> None:
    started = Started([sys.executable, "-c", "import time; time.sleep(60)"], os.environ, tmp_path / "log", tmp_path)
    try:
        assert set(left_over(tmp_path, seconds=0.0)) == {started.pid}
    finally:
        started.kill()
    assert holders(tmp_path) == {}
