"""The sweep's journal: what is written stays, what is folded is the truth, one driver at a time."""

import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from haps_search.config.candidates import CandidateConfig, ZooSource
from haps_search.config.distributions import IntRange
from haps_search.config.run import Experiment, RunConfig
from haps_search.config.sweep import Study, SweepConfig, TrackingConfig
from haps_search.config.tasks import SkillsTask
from haps_search.errors import ConfigError, DataError, PoolError
from haps_search.sweep import journal as module
from haps_search.sweep.events import (
    AttemptStarted,
    SweepEnded,
    TrialEnded,
    TrialRecord,
    TrialReported,
    TrialSuggested,
    decode,
    encode,
    fold,
)
from haps_search.sweep.journal import Journal, open_sweep

CANDIDATE = CandidateConfig(name="adder", source=ZooSource(name="adder"))
STUDY = Study(
    name="tiny",
    experiment=Experiment(task=SkillsTask(), candidates=(CANDIDATE,), run=RunConfig(steps=20)),
    space={"run.seed": IntRange(type="int", low=1, high=9)},
)
FIRST = TrialSuggested(0, {"run.seed": 3, "routing.low_level.hidden": [8]}, seed=11)


@pytest.fixture
def journal(tmp_path: Path):
    opened = open_sweep(tmp_path / "tiny", STUDY, resume=False)
    yield opened
    opened.close()


def with_sweep(**changes: object) -> Study:
    return STUDY.model_copy(update={"sweep": SweepConfig.model_validate(changes)})


def test_events_survive_the_file_exactly(journal):
    written = [
        FIRST,
        AttemptStarted(0, 1),
        TrialReported(0, 10, {"reward": 0.1 + 0.2, "lost": float("inf")}),
        TrialEnded(0, "failed", {"reward": 0.5}, error="worker gone\nat step 3: ü"),
        SweepEnded("all trials done", 12.5),
    ]
    for event in written:
        journal.append(event)
    assert list(journal.events())[1:] == written
    assert [decode(encode(e)) for e in written] == written
    assert journal.study() == STUDY
    assert journal.ended() == written[-1]


def test_trials_are_folded_from_events(journal):
    second = TrialSuggested(1, {}, seed=5, kind="confirm", label="best")
    for event in (FIRST, AttemptStarted(0, 1), second, TrialReported(0, 20, {"reward": 0.4})):
        journal.append(event)
    journal.append(TrialReported(0, 10, {"reward": 0.2}))
    running, waiting = journal.trials()
    assert (running.state, running.attempts) == ("running", 1)
    assert running.reports == ((10, {"reward": 0.2}), (20, {"reward": 0.4}))
    assert waiting == TrialRecord(1, {}, 5, "confirm", "best")
    journal.append(TrialEnded(0, "finished", {"validation_reward": 0.9}))
    ended = journal.trials()[0]
    assert (ended.state, ended.metrics, ended.error) == ("finished", {"validation_reward": 0.9}, None)


def test_an_event_twice_counts_once():
    events = [
        FIRST,
        AttemptStarted(0, 1),
        TrialReported(0, 1, {"reward": 0.1}),
        TrialReported(0, 2, {"reward": 0.2}),
        TrialEnded(0, "stopped", {"reward": 0.2}),
    ]
    doubled = [e for event in events for e in (event, event)]
    assert fold(doubled) == fold(events) == fold(events + events)


def test_the_first_setting_of_a_trial_holds():
    other = TrialSuggested(0, {"run.seed": 9}, seed=12)
    assert fold([FIRST, other])[0].parameters == FIRST.parameters


def test_a_step_repeated_after_a_resume_holds_its_later_report():
    events = [FIRST, AttemptStarted(0, 1), TrialReported(0, 5, {"r": 0.1}), AttemptStarted(0, 2)]
    (trial,) = fold([*events, TrialReported(0, 5, {"r": 0.3})])
    assert trial.reports == ((5, {"r": 0.3}),)
    assert trial.attempts == 2


@pytest.mark.parametrize("state", ["finished", "stopped"])
def test_a_trial_that_ended_is_not_reopened(state):
    events = [FIRST, AttemptStarted(0, 1), TrialReported(0, 5, {"r": 0.1}), TrialEnded(0, state, {"r": 0.1})]
    strays = [
        FIRST,
        AttemptStarted(0, 1),
        AttemptStarted(0, 2),
        TrialReported(0, 6, {"r": 0.0}),
        TrialEnded(0, "failed", error="late"),
    ]
    assert fold(events + strays) == fold(events)


def test_only_a_new_attempt_reopens_a_failed_trial():
    failed = [FIRST, AttemptStarted(0, 1), TrialEnded(0, "failed", error="no memory")]
    assert fold([*failed, AttemptStarted(0, 1)]) == fold(failed)
    (trial,) = fold([*failed, AttemptStarted(0, 2), TrialEnded(0, "finished", {"r": 1.0})])
    assert (trial.state, trial.error, trial.attempts) == ("finished", None, 2)


def test_a_torn_last_line_is_no_event_and_is_cut_before_the_next(journal):
    journal.append(FIRST)
    whole = journal.file.read_bytes()
    line = encode(TrialReported(0, 1, {"reward": 0.5})).encode()
    for torn in (line[:7], line, b"\0" * 9):
        journal.file.write_bytes(whole + torn)
        assert journal.trials() == fold([FIRST])
        journal.append(AttemptStarted(0, 1))
        assert journal.file.read_bytes() == whole + encode(AttemptStarted(0, 1)).encode() + b"\n"
        assert journal.trials() == fold([FIRST, AttemptStarted(0, 1)])
        journal.file.write_bytes(whole)


def test_a_failed_write_leaves_the_journal_as_it_was(journal, monkeypatch):
    journal.append(FIRST)
    whole = journal.file.read_bytes()
    write = os.pwrite

    def full(descriptor: int, data: bytes, offset: int) -> int:
        if len(data) < 20:
            raise OSError(28, "No space left on device")
        return write(descriptor, data[:10], offset)

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(PoolError, match=r"No space left.*bytes are free"):
        journal.append(AttemptStarted(0, 1))
    assert journal.file.read_bytes() == whole


def test_a_disk_that_says_so_only_when_it_syncs_leaves_the_journal_as_it_was(journal, monkeypatch):
    """As NFS does, where writes wait in this machine's memory."""
    journal.append(FIRST)
    whole = journal.file.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(122, "Disk quota exceeded")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(PoolError, match="Disk quota exceeded"):
            journal.append(AttemptStarted(0, 1))
    assert journal.file.read_bytes() == whole
    journal.append(AttemptStarted(0, 1))
    assert journal.trials() == fold([FIRST, AttemptStarted(0, 1)])


def test_a_sweep_is_as_old_as_its_first_driver(journal):
    begun = journal.begun()
    assert begun == journal.started().time
    journal.append(replace(journal.started(), time=begun + 60))
    assert journal.started().time == begun + 60
    assert journal.begun() == begun


def test_a_damaged_line_is_named(journal):
    with journal.file.open("ab") as file:
        file.write(b'{"event": "trial_reported", "number"\n')
    with pytest.raises(DataError, match=r"journal.jsonl, line 2"):
        journal.trials()
    journal.file.write_text('{"event": "trial_cloned"}\n')
    with pytest.raises(DataError, match="no event that this version knows"):
        journal.trials()
    journal.file.write_text(encode(AttemptStarted(4, 1)) + "\n")
    with pytest.raises(DataError, match="trial 4 was never suggested"):
        journal.trials()


def test_the_journal_is_read_once_and_then_followed(journal, monkeypatch):
    journal.append(FIRST)
    journal.append(TrialSuggested(1, {}, seed=5))
    read = []
    monkeypatch.setattr(module, "decode", lambda line: read.append(line) or decode(line))
    untouched = journal.trials()[1]
    assert len(read) == 3, "the configuration, and two trials"
    for step in range(1, 20):
        journal.append(TrialReported(0, step, {"reward": step / 20}))
        assert journal.trials()[0].reports[-1] == (step, {"reward": step / 20})
        assert journal.started() is not None
        assert journal.ended() is None
        assert len(read) == 3 + step
    assert journal.trials()[1] is untouched
    assert journal.trials() == fold(journal.events())


def test_a_journal_that_is_not_the_one_it_was_is_read_anew(journal):
    """As where another machine's is fetched over it, or what the object store did not take was cut off again."""
    journal.append(FIRST)
    short = journal.file.read_bytes()
    journal.append(AttemptStarted(0, 1))
    journal.append(TrialReported(0, 1, {"reward": 0.5}))
    assert journal.trials()[0].reports == ((1, {"reward": 0.5}),)
    journal.file.write_bytes(short)
    assert journal.trials() == fold([FIRST])
    other = TrialSuggested(0, {"run.seed": 7}, seed=2)
    journal.file.write_bytes("".join(f"{encode(e)}\n" for e in [other] * 9).encode())
    assert journal.trials() == fold([other])
    assert journal.started() is None
    journal.file.unlink()
    assert journal.trials() == []


def test_threads_take_turns(journal):
    journal.append(FIRST)

    def report(first: int) -> None:
        for step in range(first, 200, 4):
            journal.append(TrialReported(0, step, {"reward": step / 200}))

    threads = [threading.Thread(target=report, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [step for step, _ in journal.trials()[0].reports] == list(range(200))


def test_the_same_configuration_takes_up_where_it_was(journal):
    journal.append(FIRST)
    journal.append(SweepEnded("time was up", 1.0))
    journal.close()
    again = open_sweep(journal.folder, STUDY, resume=False)
    assert again.trials() == fold([FIRST])
    assert again.ended() is None
    again.close()


def test_another_configuration_is_refused_with_every_difference(journal):
    journal.close()
    experiment = STUDY.experiment.model_copy(update={"run": RunConfig(steps=30)})
    space = {"run.seed": IntRange(type="int", low=1, high=5)}
    other = STUDY.model_copy(update={"experiment": experiment, "space": space})
    with pytest.raises(ConfigError, match="sweep tiny exists and differs") as caught:
        open_sweep(journal.folder, other, resume=False)
    assert caught.value.problems == (
        "experiment.run.steps: begun with 20, now 30",
        "space.run.seed.high: begun with 9, now 5",
        "give the sweep another --name, or resume it as it was begun",
    )
    open_sweep(journal.folder, STUDY, resume=True).close()


def test_what_does_not_change_a_trial_may_change(journal):
    journal.close()
    changed = with_sweep(trials=20, concurrency=1, max_hours=2.0).model_copy(
        update={"tracking": TrackingConfig(mlflow=False), "description": "longer"}
    )
    open_sweep(journal.folder, changed, resume=True).close()
    assert journal.study() == changed
    with pytest.raises(ConfigError, match=r"sweep.trials: begun with 20, now 19; it may be raised, not lowered"):
        open_sweep(journal.folder, with_sweep(trials=19), resume=True)
    with pytest.raises(ConfigError, match=r"sweep.sampler.type"):
        open_sweep(journal.folder, with_sweep(trials=20, sampler={"type": "grid"}), resume=True)


def test_resume_of_nothing_names_what_there_is(journal, tmp_path):
    with pytest.raises(ConfigError, match=r"tinny: no such sweep; did you mean tiny\?"):
        open_sweep(tmp_path / "tinny", STUDY, resume=True)
    assert not (tmp_path / "tinny").exists()
    with pytest.raises(ConfigError, match="no sweep was begun"):
        Journal(tmp_path / "tinny").study()


def test_a_first_line_that_was_never_finished_is_a_new_sweep(tmp_path):
    folder = tmp_path / "tiny"
    folder.mkdir()
    (folder / "journal.jsonl").write_bytes(b'{"event": "sweep_st')
    journal = open_sweep(folder, STUDY, resume=False)
    assert journal.study() == STUDY
    journal.close()


def test_the_lock_holds_for_a_process_and_falls_with_kill_9(tmp_path):
    folder = tmp_path / "tiny"
    code = (
        "import sys, time; from pathlib import Path; from haps_search.config.load import parse_study; "
        "import json; from haps_search.sweep.journal import open_sweep; "
        "study = parse_study(json.loads(sys.argv[2])); "
        "held = open_sweep(Path(sys.argv[1]), study, False); print('held', flush=True); time.sleep(6000)"
    )
    command = [sys.executable, "-c", code, str(folder), STUDY.model_dump_json()]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as driver:
        try:
            assert driver.stdout is not None
            assert driver.stdout.readline() == "held\n"
            with pytest.raises(ConfigError, match=f"tiny: is being driven by process {driver.pid} on "):
                open_sweep(folder, STUDY, resume=False)
            assert Journal(folder).study() == STUDY
        finally:
            driver.send_signal(signal.SIGKILL)
    open_sweep(folder, STUDY, resume=True).close()


def test_a_refused_sweep_frees_its_lock(journal):
    journal.close()
    for _ in range(2):
        with pytest.raises(ConfigError, match="may be raised"):
            open_sweep(journal.folder, with_sweep(trials=1), resume=False)
