"""A sweep that has ended says what came of it at once, without Ray; one with anything left to do does not."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sweeps import a_study, a_trial, write

from haps_search.config.sweep import Study
from haps_search.evaluation.comparison import Row
from haps_search.evaluation.intervals import Interval
from haps_search.sweep.events import SweepEnded, TrialRetried
from haps_search.sweep.journal import Journal, open_sweep
from haps_search.sweep.settings import Setting
from haps_search.verbs import confirm as confirming
from haps_search.verbs import sweep as verb
from haps_search.verbs.events import Event, Said

ROWS = [
    Row("random", Interval(0.1, 0.0, 0.2, 40), Interval(0.4, 0.3, 0.5, 40)),
    Row("joint (best trial)", Interval(0.5, 0.4, 0.6, 40), None),
]


@pytest.fixture
def ended(tmp_path: Path) -> tuple[Study, Path]:
    study = a_study(trials=2, comparison=False)
    journal = open_sweep(tmp_path / "done", study, resume=False)
    write(journal, a_trial(0, 0.4), a_trial(1, 0.5))
    journal.append(SweepEnded("all trials ended", 1.0))
    journal.close()
    verb.keep_report(tmp_path / "done", study, [a_trial(1, 0.5), a_trial(0, 0.4)], ROWS)
    return study, tmp_path


@pytest.fixture
def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    def driver(*_: object) -> None:
        raise AssertionError("Ray was about to be started")

    monkeypatch.setattr(verb, "driven", driver)


def test_its_table_comes_from_what_was_measured(ended: tuple[Study, Path], without_ray: None) -> None:
    study, runs = ended
    events: list[Event] = []
    for result in (verb.sweep(study, "done", runs, events.append), verb.resume("done", runs)):
        assert result.rows == tuple(ROWS)
        assert result.best is not None
        assert result.best.number == 1
        assert list(result.trials.index) == [0, 1]
        assert result.comparison.loc["random", "gain"] == 0.4
    assert events == [Said("done has ended; nothing is started")]


def test_the_command_line_shows_it(ended: tuple[Study, Path]) -> None:
    _, runs = ended
    code = (
        "import sys; from haps_search.cli.main import main; import atexit\n"
        "atexit.register(lambda: print('ray' in sys.modules and sys.modules['ray'].is_initialized()))\n"
        f"sys.argv = ['haps', 'resume', 'done', '--runs', {str(runs)!r}]; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    assert lines[-1] == "False", done.stdout + done.stderr
    assert any(line.startswith("joint (best trial)  0.500 [0.400, 0.600]") for line in lines)


@pytest.mark.parametrize("left", ["more trials", "no report", "half a report", "an open trial"])
def test_what_is_left_to_do_is_done(ended: tuple[Study, Path], without_ray: None, left: str) -> None:
    study, runs = ended
    report = runs / "done" / verb.REPORT
    if left == "more trials":
        study = a_study(trials=3, comparison=False)
    elif left == "no report":
        report.unlink()
    elif left == "half a report":
        report.write_text(report.read_text()[:40])
    else:
        journal = open_sweep(runs / "done", study, resume=True)
        write(journal, a_trial(2, state="running"))
        journal.append(SweepEnded("all trials ended", 2.0))
        journal.close()
    with pytest.raises(AssertionError, match="about to be started"):
        verb.sweep(study, "done", runs)


def test_a_confirmation_that_was_killed_leaves_it_ended_once_it_is_through(
    ended: tuple[Study, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, runs = ended
    kills = [True]

    def driven(study: Study, folder: Path, resume: bool, report: object, work: Callable[[Any], None]) -> None:
        journal = open_sweep(folder, study, resume)

        def fit(kind: str, wanted: Sequence[Setting]) -> None:
            for number, s in enumerate(wanted, start=len(journal.trials())):
                write(journal, a_trial(number, 0.3, parameters=s.parameters, seed=s.seed, kind=s.kind, label=s.label))
                if kills:
                    raise KeyboardInterrupt(kills.pop())

        tracking, watched = SimpleNamespace(tick=lambda: None), lambda planned: nullcontext()
        try:
            work(SimpleNamespace(journal=journal, fit=fit, watched=watched, tracking=tracking, end=lambda files: None))
        finally:
            journal.close()

    monkeypatch.setattr(confirming, "driven", driven)
    journal = Journal(runs / "done")
    with pytest.raises(KeyboardInterrupt):
        confirming.confirm("done", seeds=2, runs=runs)
    assert journal.ended() is None
    (setting,) = confirming.confirm("done", seeds=2, runs=runs).settings
    assert setting.values == (0.3, 0.3)
    found = journal.ended()
    assert found is not None
    assert found.reason == "all trials ended"


@pytest.mark.parametrize("happened", ["more trials", "a search trial", "a retried trial", "other opponents"])
def test_what_happens_in_its_search_makes_its_last_end_forgotten(ended: tuple[Study, Path], happened: str) -> None:
    study, runs = ended
    sweep: dict[str, Any] = {"more trials": {"trials": 3}}
    sweep["other opponents"] = {"trials": 2, "opponents": {"static": None}}
    longer = a_study(comparison=False, **sweep[happened]) if happened in sweep else study
    open_sweep(runs / "done", study, resume=True).close()
    assert Journal(runs / "done").last_end() is not None
    journal = open_sweep(runs / "done", longer, resume=True)
    if happened == "a search trial":
        write(journal, a_trial(2, state="running"))
    elif happened == "a retried trial":
        journal.append(TrialRetried(1))
    journal.close()
    assert Journal(runs / "done").last_end() is None
