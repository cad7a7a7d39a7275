"""The journal as Optuna's storage: followed while trials run, killed in the middle, nothing twice; and served."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from sweeps import a_study, a_trial, write

from haps_search.errors import ConfigError
from haps_search.sweep.events import AttemptStarted, TrialEnded, TrialReported, TrialSuggested
from haps_search.sweep.journal import Journal, open_sweep
from haps_search.sweep.optuna_mirror import FILE, OptunaMirror
from haps_search.verbs.dashboard import Dashboard
from haps_search.verbs.extend import write_down

RATE = "learning.learning_rate.high"
SPACE = {RATE: {"type": "log", "low": 1e-4, "high": 1e-2}}
CONSTRAINT = "validation_cost <= 0.5"


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    constant = {"learning": {"schedule": {"type": "constant"}}}
    study = a_study(SPACE, experiment=constant, constraints=[CONSTRAINT], scheduler={"type": "asha"})
    opened = open_sweep(tmp_path / "s", study, resume=False)
    yield opened
    opened.close()


def measured(reward: float) -> dict[str, float]:
    return {"validation_reward": reward, "validation_cost": reward}


def begin(journal: Journal, number: int, *rewards: float) -> None:
    journal.append(TrialSuggested(number, {RATE: 1e-3 * (number + 1)}, 11))
    journal.append(AttemptStarted(number, 1))
    for step, reward in enumerate(rewards, start=1):
        journal.append(TrialReported(number, 10 * step, measured(reward)))


def stored(journal: Journal) -> optuna.Study:
    """As another process reads the file."""
    storage = JournalStorage(JournalFileBackend(str(journal.folder / FILE)))
    return optuna.load_study(study_name="s", storage=storage)


def shown(journal: Journal) -> list[tuple[int, str, dict[int, float], float | None]]:
    return [
        (t.user_attrs["trial"], t.state.name, t.intermediate_values, t.value if t.state.is_finished() else None)
        for t in stored(journal).trials
    ]


def test_the_storage_follows_the_journal(journal: Journal) -> None:
    mirror = OptunaMirror(journal)
    begin(journal, 0, 0.25)
    mirror.tick()
    assert shown(journal) == [(0, "RUNNING", {10: 0.25}, None)]
    journal.append(TrialReported(0, 20, measured(0.5)))
    begin(journal, 1, 0.75)
    mirror.tick()
    journal.append(TrialEnded(0, "finished", measured(0.5)))
    journal.append(TrialEnded(1, "stopped", measured(0.75)))
    for _ in range(2):
        mirror.tick()
    mirror.close()
    assert shown(journal) == [(0, "COMPLETE", {10: 0.25, 20: 0.5}, 0.5), (1, "PRUNED", {10: 0.75}, None)]
    assert [t.constraints for t in stored(journal).trials] == [{CONSTRAINT: 0.0}, {CONSTRAINT: 0.25}]
    assert stored(journal).metric_names == ["validation_reward"]
    assert stored(journal).direction == optuna.study.StudyDirection.MAXIMIZE


def test_a_trial_that_goes_on_makes_the_study_anew(journal: Journal) -> None:
    write(journal, a_trial(0, parameters={RATE: 1e-3}, metrics=measured(0.5)))
    journal.close()
    mirror = OptunaMirror(journal)
    mirror.tick()
    write_down(journal, steps=40)
    mirror.tick()
    mirror.close()
    assert shown(journal) == [(0, "RUNNING", {}, None)]


def test_a_second_writer_is_refused(journal: Journal) -> None:
    mirror = OptunaMirror(journal)
    with pytest.raises(ConfigError, match="another `haps dashboard` of this sweep is open"):
        OptunaMirror(journal)
    mirror.close()
    OptunaMirror(journal).close()


KILLED = """
import os, sys
from pathlib import Path
from optuna.storages.journal import JournalFileBackend
from haps_search.sweep.optuna_mirror import OptunaMirror
from haps_search.sweep.journal import Journal
left = [int(sys.argv[2])]
append = JournalFileBackend.append_logs
def dying(self, logs):
    left[0] -= 1
    if left[0] < 0:
        with open(self._file_path, "ab") as file:  # what a kill in a write leaves: a lock, and half a line
            file.write(b'{"op_code": 4, "half')
        os.symlink(self._file_path, self._file_path + ".lock")
        os.kill(os.getpid(), 9)
    append(self, logs)
JournalFileBackend.append_logs = dying
OptunaMirror(Journal(Path(sys.argv[1]))).tick()
"""


@pytest.mark.parametrize("writes", [0, 1, 3, 5])
def test_killed_in_the_middle_and_resumed_nothing_is_there_twice(journal: Journal, writes: int) -> None:
    for number in range(3):
        begin(journal, number, 0.25, 0.5)
    mirror = OptunaMirror(journal)
    if writes > 3:
        mirror.tick()
    mirror.close()
    for number in range(3):
        journal.append(TrialEnded(number, "finished", measured(0.5)))
    begin(journal, 3, 0.125)
    killed = subprocess.run([sys.executable, "-c", KILLED, str(journal.folder), str(writes)], check=False)
    assert killed.returncode == -signal.SIGKILL
    again = OptunaMirror(journal)
    again.tick()
    again.close()
    curve = {10: 0.25, 20: 0.5}
    assert shown(journal) == [*((n, "COMPLETE", curve, 0.5) for n in range(3)), (3, "RUNNING", {10: 0.125}, None)]
    assert len(stored(journal)._storage.get_all_studies()) == 1


def asked(url: str, host: str = "") -> Any:
    request = urllib.request.Request(url, headers={"Host": host} if host else {})
    with urllib.request.urlopen(request, timeout=20) as answer:
        return json.loads(answer.read())


def test_the_dashboard_is_served_on_loopback_and_to_nobody_else(journal: Journal) -> None:
    write(journal, a_trial(0, parameters={RATE: 1e-3}, metrics=measured(0.5)))
    opened = Dashboard(journal)
    serving = threading.Thread(target=opened.serve, daemon=True)
    serving.start()
    base = opened.url.partition("/dashboard")[0]
    try:
        (study,) = asked(f"{base}/api/studies")["study_summaries"]
        assert study["study_name"] == "s"
        assert opened.url.endswith(f"/studies/{study['study_id']}")
        trials = asked(f"{base}/api/studies/{study['study_id']}?after=0")["trials"]
        assert [t["state"] for t in trials] == ["Complete"]
        with pytest.raises(urllib.error.HTTPError, match="403"):
            asked(f"{base}/api/studies", host="evil.example:80")
    finally:
        opened.stop()
        serving.join(20)
    assert not serving.is_alive()


def test_without_the_library_the_way_out_is_said(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("haps_search.verbs.dashboard.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'haps-search\[dashboard\]'"):
        Dashboard(journal)
    assert not os.path.exists(journal.folder / FILE)
