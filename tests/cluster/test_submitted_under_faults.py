"""One sweep under `haps submit`, in an object store, through everything that befalls one: equal to the undisturbed."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from heads import Attempt, Head
from nodes import TIMES, TRIAL, WORKER
from patience import wait_for
from processes import short_folder
from stores import KEYS, S3, s3_server

from haps_search.engines.local import LocalEngine
from haps_search.errors import HapsError
from haps_search.records.jsonl import read_records
from haps_search.records.objects import Objects
from haps_search.records.remote import working_folder_at
from haps_search.records.run_folder import RunFolder
from haps_search.search.loop import run
from haps_search.sweep.hold import fetched
from haps_search.sweep.journal import Journal
from haps_search.sweep.layout import trial_folder, trial_name
from haps_search.sweep.settings import experiment_of
from haps_search.tasks.build import build_task

pytestmark = [pytest.mark.ray, pytest.mark.slow]
NAME, TRIALS, STEPS = "stormy", 2, 240
WORKER_KILLS, DRIVER_KILLS, OUTAGE_S = 12, 2, 60.0
STUDY = [
    f"sweep.trials={TRIALS}", "sweep.concurrency=1", "sweep.scheduler={type: none}", "sweep.comparison=false",
    f"run.steps={STEPS}", "run.questions_per_step=8", "run.episodes_per_question=2", "run.checkpoint_every=5",
    "run.validation={every: 40, questions: 12}", "task.sizes={train: 64, validation: 24, test: 24}",
    # At the study's own rates, ten times these, rounding grows by a digit in fifteen steps: of two undisturbed runs,
    # one with batches of three rows, gradients differ by 1e-9 at step 106 and a token at step 169. These: 1e-14.
    "space={run.seed: {type: choice, values: [1, 2, 3]}}", "learning.learning_rate={high: 1.0e-4, low: 3.0e-5}",
    "tracking.mlflow=false", "routing.backbone.dtype=float64", *(f"candidates.{n}.dtype=float64" for n in range(3)),
]  # fmt: skip


class Storm:
    """A sweep in a store under a head; its driver is started again only where it was ended on purpose."""

    def __init__(self, head: Head, s3: S3, folder: Path) -> None:
        self.head, self.s3, self._folder = head, s3, folder
        self.attempts = 0
        self._objects = Objects(s3.uri())

    def submit(self) -> None:
        settings = shlex.join(part for setting in STUDY for part in ("--set", setting))
        keys = " ".join(f"--env {name}" for name in KEYS)
        self.attempts += 1
        self._before = self._holder()
        told = self.head.haps(f"submit skills --name {NAME} --runs '{self.s3.uri()}' {keys} {settings} --no-follow")
        assert told.stdout.startswith(f"submitted {NAME}-{self.attempts} "), told.stdout + told.stderr
        self._attempt = Attempt(self.head, f"{NAME}-{self.attempts}")

    def wait_for(self, event: Callable[[], bool]) -> None:
        """While the driver lives: nobody else may have to start it again."""
        wait_for(event, self.head.log_of(NAME), self._attempt, self.lines, every_s=0.2)

    def lines(self) -> int:
        """Of all that trials have recorded on this machine, in whatever attempt: it grows with each step."""
        count = 0
        for sessions in self.head.folder.glob("ray/session_*/artifacts"):
            for folder, _, files in os.walk(sessions):  # passes over what goes away meanwhile, as checkpoints do
                if "metrics.jsonl" in files and Path(folder).parent.name == "trials":
                    with suppress(OSError):  # an attempt's folder is emptied when another begins
                        count += Path(folder, "metrics.jsonl").read_bytes().count(b"\n")
        return count

    def further(self) -> None:
        """Until some steps more are taken; two may have been on their way already."""
        wanted = self.lines() + 4
        self.wait_for(lambda: self.lines() >= wanted)

    def begun(self) -> bool:
        """Whether this attempt's driver has the sweep and one of its trials a process."""
        return self._holder() not in (0, self._before) and bool(self.head.workers(TRIAL))

    def end_driver(self, number: signal.Signals) -> None:
        """And submit again once Ray has noticed."""
        os.kill(self._holder(), number)
        wait_for(lambda: self._attempt.poll() is not None, "Ray never saw the driver's end")
        self.submit()
        self.wait_for(self.begun)

    def kill_workers(self, count: int) -> None:
        """One after the other, each after the sweep has gone on without the one before."""
        for number in range(count):
            self.wait_for(lambda: bool(self.head.workers(WORKER)))
            there = self.head.workers(WORKER)
            with suppress(ProcessLookupError):
                os.kill(there[number % len(there)], signal.SIGKILL)
            self.further()

    def lose_store(self) -> None:
        self.s3.stop()
        time.sleep(OUTAGE_S)
        self.s3.start()
        self.further()

    def ended(self) -> Path:
        """The sweep as the store has it, once its driver has ended well."""
        wait_for(lambda: self._attempt.poll() is not None, self.head.log_of(NAME), progress=self.lines)
        assert self._attempt.poll() == 0, self.head.log_of(NAME)()
        return fetched(working_folder_at(self._folder / "seen", self.s3.uri()) / NAME)

    def _holder(self) -> int:
        """The driver that holds the sweep, by its claim; 0 where none does."""
        with suppress(HapsError):
            return int(json.loads(self._objects.get(f"{NAME}/claim.json") or b"{}").get("pid", 0))
        return 0


@pytest.fixture
def storm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Storm]:
    with short_folder() as folder, s3_server(monkeypatch) as s3:
        head = Head(folder)
        try:
            head.wait_until_up()
            yield Storm(head, s3, tmp_path)
        finally:
            head.end()


def test_a_submitted_sweep_survives_all_of_it_and_comes_to_the_undisturbed_run_s_numbers(
    storm: Storm, tmp_path: Path
) -> None:
    storm.submit()
    storm.wait_for(storm.begun)
    storm.end_driver(signal.SIGTERM)  # before a trial has taken a step, or just after its first ones
    storm.further()
    storm.kill_workers(4)
    storm.end_driver(signal.SIGKILL)
    storm.further()
    storm.kill_workers(4)
    storm.lose_store()
    storm.end_driver(signal.SIGKILL)
    storm.further()
    storm.kill_workers(WORKER_KILLS - 8)
    sweep = storm.ended()
    assert storm.attempts == 1 + 1 + DRIVER_KILLS, "somebody had to start a driver that had not been ended"
    log = storm.head.haps(f"logs {NAME}").stdout
    assert "Traceback" not in log, log[-3000:]
    assert [(t.number, t.state) for t in Journal(sweep).trials()] == [(n, "finished") for n in range(TRIALS)]
    for number in range(TRIALS):
        assert_undisturbed(sweep, number, tmp_path / "alone" / trial_name(number))


def assert_undisturbed(sweep: Path, number: int, folder: Path) -> None:
    """Rewards and weights of the same run in one process: every step once, in float64."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    journal = Journal(sweep)
    experiment = experiment_of(journal.study(), journal.trials()[number])
    task = build_task(experiment.task)
    alone = RunFolder(folder, experiment)
    asyncio.run(run(LocalEngine.build(experiment, task), task, experiment, alone))
    run_folder = RunFolder(trial_folder(sweep, number), experiment)
    expected, found = (read_records(one.path / "metrics.jsonl") for one in (alone, run_folder))
    assert [r.step for r in found] == [r.step for r in expected] == list(range(1, STEPS + 1))
    for one, other in zip(found, expected, strict=True):
        values = {name: value for name, value in other.metrics.items() if name not in TIMES}
        assert {name: one.metrics[name] for name in values} == pytest.approx(values, rel=1e-10, abs=1e-12)
    ours, theirs = run_folder.latest(), alone.latest()
    assert ours is not None
    assert theirs is not None
    assert ours.step == theirs.step == STEPS
    torch.testing.assert_close(dict(ours.snapshot.tensors), dict(theirs.snapshot.tensors), rtol=1e-10, atol=1e-12)
