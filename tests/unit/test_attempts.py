"""Attempts of a trial: folders of their own, what one takes over from another that may still write, and what counts."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from dense_task import DenseTask
from experiments import tiny_experiment
from sweeps import a_study, a_trial, write

from haps_search.engines.local import LocalEngine
from haps_search.errors import ConfigError, Interrupted
from haps_search.records.jsonl import read_records
from haps_search.records.printed import last_lines
from haps_search.records.run_folder import RunFolder
from haps_search.records.standing import standing
from haps_search.search.loop import run
from haps_search.sweep.attempts import drop_former, newest_step, take_over
from haps_search.sweep.events import AttemptBroke, AttemptStarted, SweepEnded, TrialEnded, TrialRetried, written_ending
from haps_search.sweep.following import Followed, run_folder
from haps_search.sweep.journal import Journal, open_sweep
from haps_search.sweep.layout import attempt_folder, trial_folder
from haps_search.verbs.second_chance import SKIPPED, retry, skip


def begun(folder: Path, steps: tuple[int, ...] = (), lines: int = 0) -> Path:
    """What an attempt has written."""
    for step in steps:
        (folder / "checkpoints" / f"step-{step:06d}").mkdir(parents=True)
        (folder / "checkpoints" / f"step-{step:06d}" / "tensors.safetensors").write_bytes(b"tensors")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "experiment.json").write_text("{}")
    text = "".join(f'{{"step": {n}, "time": 0.0, "metrics": {{"reward": 0.5}}}}\n' for n in range(1, lines + 1))
    (folder / "metrics.jsonl").write_text(text)
    return folder


def test_the_highest_attempt_that_is_there_stands_for_the_trial(tmp_path: Path) -> None:
    assert trial_folder(tmp_path, 3) == attempt_folder(tmp_path, 3, 1) == tmp_path / "trials" / "003"
    for attempt in (1, 2, 10):
        begun(attempt_folder(tmp_path, 3, attempt))
    attempt_folder(tmp_path, 3, 11).mkdir()  # it has begun nothing yet
    begun(attempt_folder(tmp_path, 30, 20))
    assert trial_folder(tmp_path, 3) == standing(tmp_path / "trials" / "003") == tmp_path / "trials" / "003.10"
    assert run_folder(tmp_path, a_trial(3, attempts=11)) == tmp_path / "trials" / "003.10"


def test_an_attempt_takes_over_what_the_one_before_has_and_not_its_last_word(tmp_path: Path) -> None:
    former, own = begun(tmp_path / "trials" / "000", (5, 10), lines=12), tmp_path / "trials" / "000.2"
    (former / "error.json").write_text("{}")
    (former / "output.log").write_text("the end of it")
    (former / "checkpoints" / "step-000015.tmp-7").mkdir()
    take_over(former, own)
    assert newest_step(own) == 10
    assert len(read_records(own / "metrics.jsonl")) == 12
    assert not (own / "error.json").exists()
    assert not (own / "output.log").exists()
    assert not list(own.rglob("*tmp*"))
    linked = own / "checkpoints" / "step-000010" / "tensors.safetensors"
    assert linked.samefile(former / "checkpoints" / "step-000010" / "tensors.safetensors"), "no checkpoint is copied"
    with (former / "metrics.jsonl").open("a") as zombie:
        zombie.write("whatever it still says\n")
    assert len((own / "metrics.jsonl").read_text().splitlines()) == 12


def test_what_the_attempt_before_lets_go_meanwhile_is_not_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may live: a trial of a driver that was killed, or one on a node that stood still."""
    former, own, link = begun(tmp_path / "000", (5, 10, 15)), tmp_path / "000.2", os.link

    def while_it_prunes(file: Path, target: Path) -> None:
        for other in (former / "checkpoints").glob("step-*"):
            if other != file.parent:
                shutil.rmtree(other)
        link(file, target)

    monkeypatch.setattr(os, "link", while_it_prunes)
    take_over(former, own)
    assert len(list((own / "checkpoints").iterdir())) == 1


def test_where_files_cannot_be_linked_they_are_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", link)
    take_over(begun(tmp_path / "000", (5,)), tmp_path / "000.2")
    assert (tmp_path / "000.2" / "checkpoints" / "step-000005" / "tensors.safetensors").read_bytes() == b"tensors"


def test_without_anything_to_take_over_an_attempt_begins_anew(tmp_path: Path) -> None:
    take_over(tmp_path / "000", tmp_path / "000.2")
    (tmp_path / "000").mkdir()
    take_over(tmp_path / "000", tmp_path / "000.2")
    assert not (tmp_path / "000.2").exists()


def test_a_zombie_beside_its_successor_harms_nothing_and_the_result_is_the_undisturbed_run_s(
    tiny_lms: dict[str, Path], tmp_path: Path
) -> None:
    """Both write to the end; the successor went on from where the first was after three steps."""
    experiment = tiny_experiment(tiny_lms, run__checkpoint_every=1)
    former, own = tmp_path / "000", tmp_path / "000.2"

    async def runs(folder: Path, leaves: Callable[[], bool] = lambda: False) -> None:
        engine = LocalEngine.build(experiment, DenseTask())
        await run(engine, DenseTask(), experiment, RunFolder(folder, experiment), leaves=leaves)

    async def story() -> None:
        with pytest.raises(Interrupted):
            await runs(former, Counted(3))
        take_over(former, own)
        await asyncio.gather(runs(former), runs(own))
        await runs(tmp_path / "alone")

    asyncio.run(story())
    found, wanted = (
        [(r.step, {k: v for k, v in r.metrics.items() if "second" not in k}) for r in read_records(folder)]
        for folder in (own / "metrics.jsonl", tmp_path / "alone" / "metrics.jsonl")
    )
    assert found == wanted
    assert written_ending(0, own) is not None


class Counted:
    """Asks a run to leave after so many steps."""

    def __init__(self, steps: int) -> None:
        self._left = steps

    def __call__(self) -> bool:
        self._left -= 1
        return self._left <= 0


def test_at_a_trial_s_end_what_former_attempts_left_is_dropped(tmp_path: Path) -> None:
    for attempt in (1, 2, 3):
        begun(attempt_folder(tmp_path, 0, attempt), (5,))
    drop_former(tmp_path, a_trial(0, attempts=4))
    assert [p.name for p in (tmp_path / "trials").iterdir()] == ["000.3"]


def test_a_display_follows_the_attempt_that_runs(tmp_path: Path) -> None:
    followed = Followed(tmp_path)
    begun(attempt_folder(tmp_path, 0, 1), lines=7)
    lines, _ = followed.new(a_trial(0, state="running", attempts=1))
    assert len(lines) == 7
    begun(attempt_folder(tmp_path, 0, 2), lines=5)
    lines, anew = followed.new(a_trial(0, state="running", attempts=2))
    assert (len(lines), anew) == (5, True)
    assert followed.new(a_trial(0, state="running", attempts=2)) == ([], False)


def test_the_last_lines_of_an_attempt_are_those_that_say_something(tmp_path: Path) -> None:
    assert last_lines(tmp_path) == ()
    (tmp_path / "output.log").write_bytes(b"".join(b"line %d\n\n" % n for n in range(1000)) + b"\xff cut")
    found = last_lines(tmp_path)
    assert len(found) == 12
    assert found[0] == "line 989"
    assert found[-1].endswith("cut")


# What the journal makes of it.


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    opened = open_sweep(tmp_path / "tiny", a_study(), resume=False)
    write(opened, *(a_trial(n, state="running") for n in range(3)))
    yield opened
    opened.close()


def test_deaths_in_a_row_are_counted_others_not_and_progress_makes_them_forgotten(journal: Journal) -> None:
    told = [(0, "unknown", 1), (0, "transient", 1), (0, "unknown", 2), (5, "unknown", 1), (9, "transient", 0)]
    for attempt, (step, kind, deaths) in enumerate(told, start=1):
        journal.append(AttemptStarted(0, attempt))
        journal.append(AttemptBroke(0, attempt, step, "killed", kind, ("a", "b")))
        assert journal.trials()[0].deaths == deaths
    assert (journal.trials()[0].broke, journal.trials()[0].log, journal.trials()[0].reached) == (
        "killed",
        ("a", "b"),
        9,
    )


def test_a_failed_trial_gets_another_chance_with_all_its_tries(journal: Journal) -> None:
    journal.append(AttemptBroke(1, 1, 0, "killed", "unknown"))
    journal.append(TrialEnded(1, "failed", error="killed", log=["the last word"]))
    folder = begun(trial_folder(journal.folder, 1), (5,))
    (folder / "error.json").write_text('{"kind": "Diverged", "message": "nan"}')
    assert journal.trials()[1].log == ("the last word",)
    journal.close()
    runs = journal.folder.parent
    assert retry("tiny", [1], runs) == (1,)
    trial = Journal(journal.folder).trials()[1]
    assert (trial.state, trial.deaths, trial.error, trial.log) == ("running", 0, None, ())
    assert written_ending(1, folder) is None, "its former last word would end it again"
    with pytest.raises(ConfigError, match="no trial has failed"):
        retry("tiny", (), runs)
    with pytest.raises(ConfigError, match=r"(?s)there is no trial 7.*trial 1 has not failed: it is running"):
        retry("tiny", [1, 7], runs)


def test_a_trial_that_somebody_gives_up_counts_as_failed(journal: Journal) -> None:
    journal.append(AttemptBroke(2, 1, 0, "the store is away", "transient"))
    runs = journal.folder.parent
    with pytest.raises(ConfigError, match="is being driven by"):
        skip("tiny", [2], runs)
    journal.close()
    assert skip("tiny", [2], runs) == (2,)
    trial = Journal(journal.folder).trials()[2]
    assert (trial.state, trial.error) == ("failed", f"{SKIPPED}, after the store is away")
    with pytest.raises(ConfigError, match="trial 2 has ended: it is failed"):
        skip("tiny", [2], runs)
    assert retry("tiny", (), runs) == (2,)


def test_an_ended_sweep_of_which_a_trial_is_retried_has_not_ended(journal: Journal) -> None:
    journal.append(TrialEnded(0, "failed", error="x"))
    journal.append(SweepEnded("all", 1.0))
    assert journal.ended() is not None
    journal.append(TrialRetried(0))
    assert journal.ended() is None
