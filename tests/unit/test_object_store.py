"""Runs in an object store: what is pushed comes back whole, what was interrupted is not there. A real S3 server."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from obstore.store import MemoryStore
from stores import S3, s3_server
from sweeps import a_study

from haps_search.errors import ConfigError, PoolError
from haps_search.evaluation.intervals import Interval
from haps_search.records import conditional
from haps_search.records import objects as pieces
from haps_search.records.conditional import Conditional, ReadAgain, Seen, slot
from haps_search.records.objects import Objects
from haps_search.records.remote import Remote, remote_of, working_folder_at
from haps_search.records.run_folder import RunFolder
from haps_search.sweep import claim
from haps_search.sweep.claim import Claim, listener
from haps_search.sweep.events import AttemptStarted, TrialSuggested
from haps_search.sweep.hold import Hold, fetched, put_back
from haps_search.sweep.journal import Journal, open_sweep
from haps_search.sweep.layout import trial_folder
from haps_search.types import Snapshot
from haps_search.verbs import judge as verb
from haps_search.verbs.evaluate import keep_measured
from haps_search.verbs.find import runs_folder

EXPERIMENT = a_study().experiment
FITTED = {"vocabulary": torch.arange(5000.0)}


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    with pytest.MonkeyPatch.context() as patch, s3_server(patch) as server:
        yield server


@pytest.fixture
def uri(s3: S3, request: pytest.FixtureRequest) -> str:
    """A prefix for each test."""
    return s3.uri(f"runs/{abs(hash(request.node.name))}")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("BEAT_S", 0.1), ("LAPSE_S", 0.6), ("POLL_S", 0.05), ("ASK_S", 0.0)):
        monkeypatch.setattr(claim, name, value)
    monkeypatch.setattr(conditional, "SETTLE_S", 0.05)


@pytest.fixture(params=["the store decides", "written and read again"])
def means(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of keeping another driver out."""
    if request.param != "the store decides":
        monkeypatch.setattr(conditional, "lacks", lambda opened: "it puts whatever it is given")


def remote_at(folder: Path, uri: str) -> Remote:
    remote = remote_of(working_folder_at(folder, uri))
    assert remote is not None
    return remote


def save(run: RunFolder, step: int, best: bool = False) -> None:
    run.log(step, {"reward": step / 10})
    run.save(step, Snapshot({"w": torch.full((3,), float(step))}, {"version": step}, FITTED), {"step": step}, best)


def elsewhere(tmp_path: Path, uri: str, name: str) -> RunFolder:
    """The run on another machine."""
    return RunFolder(fetched(working_folder_at(tmp_path / name, uri) / "one"), EXPERIMENT)


def test_a_run_comes_back_as_it_was(tmp_path: Path, uri: str) -> None:
    run = RunFolder(working_folder_at(tmp_path / "here", uri) / "one", EXPERIMENT)
    for step in (1, 2, 3, 4):
        save(run, step, best=step == 2)
    run.finish({"metrics": {"reward": 0.4}})
    there = elsewhere(tmp_path, uri, "there")
    latest, best = there.latest(), there.best()
    assert latest is not None
    assert best is not None
    assert (latest.step, best.step) == (4, 2)
    assert torch.equal(best.snapshot.tensors["w"], torch.full((3,), 2.0))
    assert torch.equal(latest.snapshot.fitted["vocabulary"], FITTED["vocabulary"])
    assert there.metrics_at(3) == {"reward": 0.3}
    assert there.result() == {"metrics": {"reward": 0.4}}
    stored = remote_at(tmp_path / "here", uri).objects.stamps("one/checkpoints")
    assert {name.split("/")[2] for name in stored} == {"step-000002", "step-000003", "step-000004", "best.json"}


def test_what_never_changes_is_sent_once(tmp_path: Path, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[str] = []
    put = Objects.put_file
    monkeypatch.setattr(Objects, "put_file", lambda self, name, file: (sent.append(name), put(self, name, file))[1])
    run = RunFolder(working_folder_at(tmp_path / "here", uri) / "one", EXPERIMENT)
    for step in (1, 2, 3):
        save(run, step)
    assert [name for name in sent if "fitted" in name] == ["one/checkpoints/step-000001/fitted.safetensors"]


@pytest.mark.parametrize("last", ["tensors.safetensors", "state.json", "digests.json"])
def test_a_push_that_broke_off_leaves_the_former_checkpoint(
    tmp_path: Path, uri: str, monkeypatch: pytest.MonkeyPatch, last: str
) -> None:
    run = RunFolder(working_folder_at(tmp_path / "here", uri) / "one", EXPERIMENT)
    save(run, 1, best=True)
    put = Objects.put_file

    def breaking(self: Objects, name: str, file: Path) -> None:
        if name.endswith(f"step-000002/{last}"):
            raise PoolError("killed")
        put(self, name, file)

    with monkeypatch.context() as patch:
        patch.setattr(Objects, "put_file", breaking)
        with pytest.raises(PoolError, match="killed"):
            save(run, 2, best=True)
    there = elsewhere(tmp_path, uri, "there")
    latest, best = there.latest(), there.best()
    assert latest is not None
    assert best is not None
    assert (latest.step, best.step) == (1, 1)
    there.forget_after(1)
    save(there, 2, best=True)
    again = elsewhere(tmp_path, uri, "again").best()
    assert again is not None
    assert again.step == 2


def test_a_truncated_object_is_refused_by_its_digest_and_the_former_one_taken(tmp_path: Path, uri: str) -> None:
    run = RunFolder(working_folder_at(tmp_path / "here", uri) / "one", EXPERIMENT)
    save(run, 1)
    save(run, 2)
    objects = remote_at(tmp_path / "here", uri).objects
    name = "one/checkpoints/step-000002/tensors.safetensors"
    whole = objects.get(name)
    assert whole is not None
    objects.put(name, whole[:-4])
    found = elsewhere(tmp_path, uri, "there").latest()
    assert found is not None
    assert found.step == 1
    assert "tensors.safetensors: damaged: expected sha256" in found.skipped[0]


def test_what_never_got_there_has_not_happened(tmp_path: Path, uri: str) -> None:
    run = RunFolder(working_folder_at(tmp_path / "here", uri) / "one", EXPERIMENT)
    save(run, 1)
    run._store.save(2, Snapshot({"w": torch.zeros(3)}, {}), {}, best=True)
    found = RunFolder(run.path, EXPERIMENT).latest()
    assert found is not None
    assert found.step == 1


def test_a_journal_of_many_pieces_comes_back_and_a_broken_append_is_no_event(
    tmp_path: Path, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pieces, "PIECE", 700)
    here = working_folder_at(tmp_path / "here", uri) / "two"
    journal = open_sweep(here, a_study(), resume=False)
    journal.append(TrialSuggested(0, {"note": "x" * 2000}, 0))
    whole = list(journal.events())
    put = Objects.put

    def breaking(self: Objects, name: str, data: bytes) -> None:
        if "journal" in name and name.endswith(first):
            raise PoolError("killed")
        put(self, name, data)

    first = f"{journal.file.stat().st_size // 700:06d}"
    with monkeypatch.context() as patch:
        patch.setattr(Objects, "put", breaking)
        with pytest.raises(PoolError, match="killed"):
            journal.append(TrialSuggested(1, {"note": "y" * 2000}, 0))
    with pytest.raises(PoolError, match="killed"):
        journal.append(AttemptStarted(0, 1))
    assert list(journal.events()) == whole
    journal.close()
    taken = open_sweep(working_folder_at(tmp_path / "there", uri) / "two", a_study(), resume=True)
    assert list(taken.events())[:-1] == whole
    taken.append(AttemptStarted(0, 1))
    after = list(taken.events())
    taken.close()
    assert list(Journal(fetched(working_folder_at(tmp_path / "third", uri) / "two")).events()) == after


@pytest.mark.parametrize("puts", range(4))
def test_an_append_is_there_in_full_or_not_at_all(
    tmp_path: Path, uri: str, monkeypatch: pytest.MonkeyPatch, puts: int
) -> None:
    """Broken off after so many of its four pieces, over what a longer one left."""
    monkeypatch.setattr(pieces, "PIECE", 10)
    objects, file, back = Objects(uri), tmp_path / "file", tmp_path / "back"
    objects.put("f/000003", b"leftover\n")
    file.write_bytes(b"0123456789abc\n")
    pieces.push_from(objects, "f", file, 0)
    file.write_bytes(file.read_bytes() + b"x" * 29 + b"\n")
    left, put = [None] * puts, Objects.put

    def breaking(self: Objects, name: str, data: bytes) -> None:
        if not left:
            raise PoolError("killed")
        left.pop()
        put(self, name, data)

    with monkeypatch.context() as patch:
        patch.setattr(Objects, "put", breaking)
        with pytest.raises(PoolError, match="killed"):
            pieces.push_from(objects, "f", file, 14)
    pieces.pull_whole(objects, "f", back)
    assert back.read_bytes() == b"0123456789abc\n"
    pieces.push_from(objects, "f", file, 14)
    pieces.pull_whole(objects, "f", back)
    assert back.read_bytes() == file.read_bytes()


@pytest.mark.usefixtures("means")
def test_a_second_driver_is_refused_while_the_first_renews_and_let_in_when_it_left(tmp_path: Path, uri: str) -> None:
    first = Hold(working_folder_at(tmp_path / "here", uri) / "two")
    with pytest.raises(ConfigError, match=r"two: is being driven by process \d+ on .* since"):
        Hold(working_folder_at(tmp_path / "there", uri) / "two")
    first.release()
    Hold(working_folder_at(tmp_path / "there", uri) / "two").release()


@pytest.mark.usefixtures("means")
def test_a_driver_that_died_is_followed_when_its_claim_stands_still(uri: str) -> None:
    code = f"import os; from haps_search.sweep.claim import *; Claim(Objects({uri!r}), 'two'); os._exit(9)"
    died = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True)
    assert died.returncode == 9, died.stderr
    Claim(Objects(uri), "two").release()


@pytest.mark.usefixtures("means")
def test_who_lost_its_claim_writes_no_more(tmp_path: Path, uri: str) -> None:
    here = working_folder_at(tmp_path / "here", uri) / "two"
    journal = open_sweep(here, a_study(), resume=False)
    before = list(Journal(fetched(working_folder_at(tmp_path / "b", uri) / "two")).events())
    other = {"owner": "another", "pid": 7, "host": "far", "since": "now", "leaving": False}
    hold = journal._hold
    assert hold is not None
    assert hold._claim is not None
    with hold._claim._turn:  # a renewal that has read already would put its own name over the other's
        Objects(uri).put("two/claim.json", json.dumps(other).encode())
    hold._claim._beat()
    with pytest.raises(PoolError, match="taken over by process 7 on far"):
        journal.append(TrialSuggested(0, {}, 0))
    with pytest.raises(PoolError, match="taken over"):
        journal.close()
    assert list(Journal(fetched(working_folder_at(tmp_path / "c", uri) / "two")).events()) == before
    assert Objects(uri).get("two/claim.json") == json.dumps(other).encode()


def test_of_many_drivers_that_start_at_once_one_has_the_sweep(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In memory: moto looks whether an object is there, and then puts it."""
    store, together, objects = MemoryStore(), threading.Barrier(6), Objects(uri)
    monkeypatch.setattr(claim, "slot", lambda objects, name: Conditional(store, name, "memory://"))
    monkeypatch.setattr(claim, "LAPSE_S", 600.0)

    def start(_: int) -> Claim | str:
        together.wait()
        try:
            return Claim(objects, "two")
        except ConfigError as error:
            return str(error)

    with ThreadPoolExecutor(6) as starting:
        outcomes = list(starting.map(start, range(6)))
    (one,) = [outcome for outcome in outcomes if isinstance(outcome, Claim)]
    one.check()
    one.release()
    assert all("is being driven by process" in outcome for outcome in outcomes if isinstance(outcome, str))


def test_a_renewal_whose_answer_was_lost_is_known_for_one_s_own(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    held = Claim(Objects(uri), "two")
    put = Conditional.replace

    def unheard(self: Conditional, seen: Seen, data: bytes) -> Seen | None:
        put(self, seen, data)
        raise PoolError("the answer was lost")

    with monkeypatch.context() as patch:
        patch.setattr(Conditional, "replace", unheard)
        with pytest.raises(PoolError, match="answer was lost"):
            held._beat()
    held._beat()
    held.check()
    held.release()
    Claim(Objects(uri), "two").release()


def test_a_hold_that_cannot_be_given_back_to_the_store_lets_this_machine_s_lock_go(
    tmp_path: Path, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the driver that begins again would be refused by its own name."""
    here = working_folder_at(tmp_path / "here", uri) / "two"
    hold = Hold(here)

    def away(*_: object) -> None:
        raise PoolError("the store is away")

    with monkeypatch.context() as patch:
        patch.setattr(Conditional, "replace", away)
        with pytest.raises(PoolError, match="the store is away"):
            hold.release()
    Hold(here).release()


class Deaf(Conditional):
    """A store that puts whatever it is given, where no object may be there or where another may."""

    def __init__(self, store: MemoryStore, name: str, to: str) -> None:
        super().__init__(store, name, "memory://")
        self.to = to

    def replace(self, seen: Seen, data: bytes) -> Seen | None:
        ignored = (seen.version is None) == (self.to == "If-None-Match")
        return super().replace(self.read() if ignored else seen, data)


def test_a_store_that_keeps_no_conditions_is_found_out() -> None:
    store = MemoryStore()
    assert conditional.lacks(lambda name: Conditional(store, name, "memory://")) == ""
    for to in ("If-None-Match", "If-Match"):
        assert f"({to})" in conditional.lacks(partial(Deaf, store, to=to))
    assert list(store.list()) == [], "what was tried is left"


def test_keys_that_only_boto3_reads_are_a_reason_said(
    tmp_path: Path, uri: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    objects = Objects(uri)
    (tmp_path / "credentials").write_text("[default]\naws_access_key_id = test\naws_secret_access_key = test\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert isinstance(slot(objects, "claim"), Conditional)
    monkeypatch.setitem(sys.modules, "obstore.auth.boto3", None)
    assert isinstance(slot(objects, "claim"), ReadAgain)
    assert "keys of a profile are read by boto3" in caplog.text


@pytest.mark.parametrize("change", [{"leaving": True}, {"owner": "another"}, None])
def test_a_trial_leaves_when_its_driver_says_so_or_is_there_no_more(uri: str, change: dict[str, object] | None) -> None:
    objects, held = Objects(uri), {"owner": "mine", "leaving": False}
    objects.put("two/claim.json", json.dumps(held).encode())
    leaves = listener(objects, "two")
    assert not leaves()
    objects.put("two/claim.json", json.dumps(held | change if change is not None else {}).encode())
    assert leaves()


def test_an_end_that_the_store_does_not_know_is_no_end(tmp_path: Path, uri: str) -> None:
    """The sweep was deleted there and begun anew; its former life is still in this machine's working folder."""
    here = working_folder_at(tmp_path / "here", uri) / "two"
    journal = open_sweep(here, a_study(), resume=False)
    trial = RunFolder(trial_folder(here, 0), EXPERIMENT)
    trial.fail("Diverged", "loss is nan")
    journal.close()
    Objects(uri).delete_folder("")
    begun = open_sweep(here, a_study(), resume=False)
    assert begun.trials() == []
    assert not (trial.path / "error.json").exists()
    begun.close()


def test_readers_leave_alone_what_a_process_of_this_machine_writes(tmp_path: Path, uri: str) -> None:
    here = working_folder_at(tmp_path / "here", uri) / "two"
    journal = open_sweep(here, a_study(), resume=False)
    with journal.file.open("a") as file:
        file.write("not pushed yet")
    code = f"from pathlib import Path; from haps_search.sweep.hold import *; fetched(Path({str(here)!r}))"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert journal.file.read_text().endswith("not pushed yet")
    journal.close()


def test_what_a_verb_writes_goes_there_and_logs_of_ray_do_not(tmp_path: Path, uri: str) -> None:
    here = working_folder_at(tmp_path / "here", uri) / "two"
    for name in ("report/index.html", "logs/driver.log", "logs/pool-0/x.json", "tune/1/y.json", "trials/000/z.json"):
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_text(name)
    put_back(here)
    assert sorted(Objects(uri).stamps("two")) == ["two/logs/driver.log", "two/report/index.html"]


def test_a_store_that_went_away_is_the_machines_failure(
    tmp_path: Path, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunFolder(working_folder_at(tmp_path / "here", uri) / "one", EXPERIMENT)

    class Away:
        def copy_files(self, *_: object, **__: object) -> None:
            raise OSError("AWS Error NETWORK_CONNECTION")

    monkeypatch.setattr("haps_search.records.objects.fs.copy_files", Away().copy_files)
    with pytest.raises(PoolError, match=r"cannot be written \(AWS Error NETWORK_CONNECTION\).*goes on from there"):
        save(run, 1)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("ftp://x/y", "needs s3://BUCKET/FOLDER or gs://BUCKET/FOLDER"),
        ("s3://key:secret@bucket/runs", "put the key into the environment"),
        ("s3://bucket", "needs a bucket and a folder in it"),
    ],
)
def test_addresses_that_cannot_be_meant_are_refused(given: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as refused:
        runs_folder(given)
    assert "secret@" not in str(refused.value)


def test_a_bucket_that_is_not_there_is_not_made(uri: str) -> None:
    with pytest.raises(ConfigError, match="no such bucket"):
        runs_folder(uri.replace("shared", "others"))


def test_what_is_judged_of_a_trial_reaches_the_store(tmp_path: Path, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What put_back passes over, and what an earlier judgement left and a later one has not goes there too."""
    here = trial_folder(working_folder_at(tmp_path / "here", uri) / "one", 3)
    here.mkdir(parents=True)

    def judged(split: str, *names: str) -> list[str]:
        monkeypatch.setattr(verb, "contents", lambda _: {name: {"split": split} for name in names})
        keep_measured(here / f"evaluation-{split}.json", 7, {split: Interval(0.5, 0.4, 0.6, 9)})
        judgement: Any = SimpleNamespace(split=split)
        return verb.keep(here, judgement)

    def there() -> dict[str, Any]:
        folder = trial_folder(fetched(working_folder_at(tmp_path / "there", uri) / "one"), 3)
        return {file.name: json.loads(file.read_text()) for file in folder.glob("*.json")}

    assert judged("validation", "references.json", "curve.json") == ["references.json", "curve.json"]
    assert there() == {
        "references.json": {"split": "validation"}, "curve.json": {"split": "validation"},
        "evaluation-validation.json": {"step": 7, "validation": [0.5, 0.4, 0.6, 9]},
    }  # fmt: skip
    judged("test", "references.json")
    assert set(there()) == {"references.json", "evaluation-validation.json", "evaluation-test.json"}
    assert judged("validation", "references.json") == ["validation-references.json"]
    assert there()["references.json"] == {"split": "test"}
    assert there()["validation-references.json"] == {"split": "validation"}


def test_what_could_not_be_brought_up_to_date_is_no_news_for_the_store(
    tmp_path: Path, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = (working_folder_at(tmp_path / name, uri) / "two" for name in ("here", "there"))
    for folder, text in ((here, "old"), (there, "new")):
        journal = open_sweep(folder, a_study(), resume=False)
        (folder / "report.html").write_text(text)
        journal.close()

    def away(self: Remote, folder: Path) -> None:
        raise PoolError("the store went away for a moment")

    (here / "report.html").write_text("older still")
    with monkeypatch.context() as patch:
        patch.setattr(Remote, "pull", away)
        with pytest.raises(PoolError, match="went away"):
            open_sweep(here, a_study(), resume=False)
    assert Objects(uri).get("two/report.html") == b"new"
    open_sweep(there, a_study(), resume=False).close()
