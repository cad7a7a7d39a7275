"""Sweeps sent to a Ray cluster with tokens, killed, stopped and sent again: on a real head, by README's commands."""

from __future__ import annotations

import os
import secrets
import shlex
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from heads import Attempt, Head, readme_blocks, replaced
from patience import growth, wait_for
from processes import short_folder
from replays import replay_experiment, skilled
from stores import KEYS, s3_server

from haps_search.records.jsonl import read_records
from haps_search.records.remote import working_folder_at
from haps_search.sweep.hold import fetched
from haps_search.sweep.journal import Journal
from haps_search.sweep.layout import lock_file, trial_folder
from haps_search.sweep.lock import holder

pytestmark = pytest.mark.ray
TRIALS = 2
POOL = [
    f"sweep.trials={TRIALS}", "sweep.concurrency=2", "sweep.scheduler={type: none}", "sweep.comparison=false",
    "run.steps=60", "run.questions_per_step=8", "run.episodes_per_question=2", "run.checkpoint_every=200",
    "run.validation={every: 200, questions: 12}", "task.sizes={train: 64, validation: 24, test: 24}",
    "tracking.mlflow=false",
]  # fmt: skip


@dataclass(frozen=True)
class Sent:
    """What a test sends in the place of README's study: quicker to start, or to end."""

    study: str
    steps: int


def played_by_a_pool(folder: Path) -> Sent:
    return Sent(shlex.join(["skills", *(part for setting in POOL for part in ("--set", setting))]), 60)


def replayed(folder: Path, steps: int = 3000) -> Sent:
    """Needs no pool, so it starts in half the time; its table lies beside it and travels with it."""
    skilled(folder / "table.jsonl")
    run = {"steps": steps, "questions_per_step": 64, "checkpoint_every": 10_000, "validation": {"every": 10_000}}
    experiment = replay_experiment(Path("table.jsonl"), run=run).model_dump(mode="json")
    study = {
        "name": "replayed",
        "experiment": {**experiment, "engine": {"type": "ray", "profile": "local-cpu"}},
        "space": {"learning.learning_rate.high": {"type": "log", "low": 0.01, "high": 0.1}},
        "sweep": {"trials": TRIALS, "concurrency": 1, "comparison": False},
        "tracking": {"mlflow": False},
    }
    (folder / f"replayed-{steps}.yaml").write_text(yaml.safe_dump(study))
    return Sent(f"replayed-{steps}.yaml", steps)


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    with short_folder() as folder:
        started = Head(folder)
        try:
            started.wait_until_up()
            yield started
        finally:
            started.end()


def steps_of(sweep: Path, number: int) -> list[int]:
    path = trial_folder(sweep, number) / "metrics.jsonl"
    return [record.step for record in read_records(path)] if path.exists() else []


def under_way(sweep: Path, since: float) -> list[int]:
    """Trials that took steps, or were brought back to their checkpoint, since a time."""
    trials = Journal(sweep).trials() if sweep.exists() else []
    files = {t.number: trial_folder(sweep, t.number) / "metrics.jsonl" for t in trials if t.state == "running"}
    return [n for n, file in files.items() if file.exists() and file.stat().st_mtime > since]


def kill_driver(sweep: Path) -> None:
    held = holder(lock_file(sweep))
    assert held is not None
    os.kill(held["pid"], signal.SIGKILL)


def assert_complete(sweep: Path, steps: int) -> None:
    assert [(t.number, t.state) for t in Journal(sweep).trials()] == [(n, "finished") for n in range(TRIALS)]
    for number in range(TRIALS):
        assert steps_of(sweep, number) == list(range(1, steps + 1)), "a step is missing or there twice"


def _newest_checkpoint(sweep: Path, number: int) -> int:
    found = (trial_folder(sweep, number) / "checkpoints").glob("step-*")
    return max((int(path.name.removeprefix("step-")) for path in found), default=0)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [replayed, played_by_a_pool])
def test_readme_s_commands_with_a_kill_between_end_with_every_trial_once(
    kind: Callable[[Path], Sent], head: Head
) -> None:
    sent, name = kind(head.folder), kind.__name__.replace("_", "-")
    sweep = head.runs / name
    places = {"http://127.0.0.1:8265": head.address, "sent ": f"{name} "}
    begin, status, stop, goes_on, is_done, logs = (replaced(line, places) for line in readme_blocks()[1])
    begin, goes_on, is_done = (
        replaced(c, {"submit skills": f"submit {sent.study}"}) for c in (begin, goes_on, is_done)
    )

    first = head.run(begin)
    assert first.returncode == 0, first.stderr
    assert first.stdout.startswith(f"submitted {name}-1 to {head.address}, sweep in {sweep}")
    again = head.run(begin)  # while the first one starts
    assert again.stdout.startswith(f"{name}-1 runs on"), again.stdout + again.stderr
    wait_for(lambda: bool(under_way(sweep, 0)), head.log_of(name), Attempt(head, f"{name}-1"), growth(sweep))
    kill_driver(sweep)
    wait_for(lambda: head.state_of(f"{name}-1") == "failed", "Ray never saw the driver's death")

    since = time.time()
    second = head.run(begin)
    assert second.stdout.startswith(f"submitted {name}-2 "), second.stdout + second.stderr
    wait_for(lambda: head.state_of(f"{name}-2") == "running", "the second attempt never left the queue")
    told = head.run(status).stdout
    assert [line.split()[:2] for line in told.splitlines()[:2]] == [[f"{name}-1", "failed"], [f"{name}-2", "running"]]
    wait_for(lambda: bool(under_way(sweep, since)), head.log_of(name), Attempt(head, f"{name}-2"), growth(sweep))
    stopped = head.run(stop)
    assert stopped.returncode == 0, stopped.stderr
    assert f"{name}-2 stopped; `haps submit` again" in stopped.stdout
    saved = {n: len(steps_of(sweep, n)) for n in under_way(sweep, since)}
    assert any(saved.values()), "nothing was under way, so nothing was saved"
    for number, steps in saved.items():
        assert _newest_checkpoint(sweep, number) == steps, "a step that was taken was not saved"

    third = head.run(goes_on)
    assert third.returncode == 0, third.stdout + third.stderr
    assert third.stdout.startswith(f"submitted {name}-3 ")
    assert "best trial" in third.stdout
    assert_complete(sweep, sent.steps)
    done = head.run(is_done)
    assert done.returncode == 0
    assert done.stdout.startswith(f"{name}-3 has ended, all trials are done")
    assert "best trial" in done.stdout
    assert "best trial" in (printed := head.run(logs).stdout)
    assert head.token.read_text().strip() not in printed + third.stdout


@pytest.mark.parametrize("given", [pytest.param("another", marks=pytest.mark.slow), "none"])
def test_who_has_not_the_token_is_refused_in_words(given: str, head: Head, tmp_path: Path) -> None:
    another = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(tmp_path / "token")}
    (tmp_path / "token").touch(mode=0o600)
    (tmp_path / "token").write_text(secrets.token_hex(32))
    wanted = another if given == "another" else {}
    unset = "env -u RAY_AUTH_MODE -u RAY_AUTH_TOKEN_PATH -u RAY_AUTH_TOKEN" if given == "none" else ""
    sent = f"submit skills --name refused --runs {head.runs} --address {head.address}"
    refused = head.run(f"{unset} haps {sent}", HOME=str(tmp_path), **wanted)
    assert refused.returncode == 2, refused.stdout + refused.stderr
    assert "Traceback" not in refused.stderr
    assert "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH" in refused.stderr
    assert head.haps("status refused").returncode == 2, "a job was begun"


@pytest.mark.slow
def test_what_ray_job_submit_sends_is_the_same_sweep(head: Head) -> None:
    sent = replayed(head.folder, steps=20)
    package = head.folder / "package"
    package.mkdir()
    for name in (sent.study, "table.jsonl"):
        shutil.copy(head.folder / name, package)
    places = {"http://127.0.0.1:8265": head.address, "$PWD/runs": head.runs, "study.yaml": sent.study}
    plain = head.run(f"cd {package} && {replaced(readme_blocks()[2], places)}")
    assert plain.returncode == 0, plain.stderr
    submit = f"submit {sent.study} --runs {head.runs}"
    attached = head.haps(f"{submit} --name plain")
    assert attached.returncode == 0, attached.stdout + attached.stderr
    assert attached.stdout.startswith("plain-1 runs on")
    assert "best trial" in attached.stdout
    assert head.haps("status plain").stdout.startswith("plain-1  succeeded")
    assert head.haps(f"{submit} --name plain").stdout.startswith("plain-1 has ended, all trials are done")

    ours = head.haps(f"{submit} --name ours")
    assert ours.returncode == 0, ours.stdout + ours.stderr
    found = [
        [(t.number, t.parameters, t.state, t.metrics["validation_reward"]) for t in Journal(head.runs / name).trials()]
        for name in ("plain", "ours")
    ]
    assert found[0] == found[1]
    assert_complete(head.runs / "plain", sent.steps)


@pytest.mark.slow
def test_a_sweep_sent_to_an_object_store_goes_on_from_another_machine_without_its_files(
    head: Head, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = replayed(head.folder)
    with s3_server(monkeypatch) as s3:
        runs = s3.uri()
        keys = " ".join(f"--env {name}" for name in KEYS)
        begun = head.haps(f"submit {sent.study} --name stored --runs '{runs}' {keys} --no-follow")
        assert begun.stdout.startswith("submitted stored-1 "), begun.stdout + begun.stderr
        assert "/runs/stored?region=" in begun.stdout

        def stored(at: str) -> Path:
            return fetched(working_folder_at(tmp_path / at, runs) / "stored")

        attempt, moved = Attempt(head, "stored-1"), growth(tmp_path / "seen")
        wait_for(lambda: any(t.ended for t in Journal(stored("seen")).trials()), head.log_of("stored"), attempt, moved)
        stopped = head.haps("stop stored")
        assert "stored-1 stopped" in stopped.stdout, stopped.stdout + stopped.stderr
        (head.folder / "table.jsonl").unlink()
        shutil.rmtree(head.folder / ".cache" / "haps_search")
        ended = [t for t in Journal(stored("stopped")).trials() if t.ended]
        assert len(ended) < TRIALS, "nothing was left to resume"

        (tmp_path / "there").mkdir()
        elsewhere = {"HAPS_CACHE": str(tmp_path / "there"), "HOME": str(tmp_path), "RAY_TMPDIR": str(head.folder)}
        resumed = head.run(f"cd {tmp_path} && haps resume stored --runs '{runs}'", **elsewhere)
        assert resumed.returncode == 0, resumed.stdout + resumed.stderr
        assert "best trial" in resumed.stdout
        assert_complete(stored("after"), sent.steps)
