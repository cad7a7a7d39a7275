"""Files of a study beside its sweep in an object store: another machine goes on without the originals."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from stores import S3, s3_server
from sweeps import DESCRIBED

from haps_search.config.anchors import renamed_in, unplaced
from haps_search.config.load import parse_study
from haps_search.config.sweep import Study
from haps_search.errors import ConfigError
from haps_search.records.remote import remote_of, working_folder_at
from haps_search.records.run_folder import identity
from haps_search.sweep import claim, inputs
from haps_search.sweep.hold import fetched
from haps_search.sweep.inputs import all_at_hand, at_hand, kept, sealed_name
from haps_search.sweep.journal import Journal, open_sweep


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    with pytest.MonkeyPatch.context() as patch, s3_server(patch) as server:
        yield server


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("BEAT_S", 0.1), ("LAPSE_S", 0.6), ("POLL_S", 0.05)):
        monkeypatch.setattr(claim, name, value)


@pytest.fixture
def uri(s3: S3, request: pytest.FixtureRequest) -> str:
    return s3.uri(f"runs/{abs(hash(request.node.name))}")


def qa_study(train: Path, **changes: Any) -> Study:
    task = {"type": "qa", "train": str(train), "validation": "/nowhere/v.jsonl"}
    return parse_study({**DESCRIBED, "experiment": {**DESCRIBED["experiment"], "task": task, **changes}})


def train_of(study: Study) -> Path:
    return Path(study.experiment.task.train)  # type: ignore[union-attr]


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    (tmp_path / "train.jsonl").write_text('{"question": "1+1", "answer": "2"}\n')
    return tmp_path / "train.jsonl"


def begin(study: Study, sweep: Path) -> Study:
    """As a driver does that is killed right after."""
    beside = kept(study, sweep)
    open_sweep(sweep, beside, resume=False).close()
    return beside


def test_another_machine_resumes_without_the_files_and_without_the_first_one_s_folder(
    tmp_path: Path, uri: str, questions: Path
) -> None:
    first = working_folder_at(tmp_path / "first", uri) / "s"
    begun = begin(qa_study(questions), first)
    assert train_of(begun).parent == first / "inputs"
    text = questions.read_text()
    questions.unlink()
    first.rename(tmp_path / "lost")

    second = fetched(working_folder_at(tmp_path / "second", uri) / "s")
    assert not (second / "inputs").exists(), "looking at a sweep brings its files"
    found = all_at_hand(Journal(second).study(), second)
    assert train_of(found) == second / "inputs" / train_of(begun).name
    assert train_of(found).read_text() == text
    open_sweep(second, found, resume=True).close()
    assert identity(found.experiment) == identity(begun.experiment), "its checkpoints would be another run's"


def test_changed_data_is_another_study_on_a_store_too(tmp_path: Path, uri: str, questions: Path) -> None:
    begin(qa_study(questions), working_folder_at(tmp_path / "first", uri) / "s")
    questions.write_text('{"question": "1+1", "answer": "3"}\n')
    with pytest.raises(ConfigError, match=r"experiment\.task\.train: begun with"):
        begin(qa_study(questions), working_folder_at(tmp_path / "second", uri) / "s")


def test_a_trial_on_another_node_fetches_what_it_lacks(tmp_path: Path, uri: str, questions: Path) -> None:
    first = working_folder_at(tmp_path / "first", uri) / "s"
    begun = begin(qa_study(questions), first)
    node = working_folder_at(tmp_path / "node", uri) / "s"
    assert renamed_in(begun.experiment, at_hand(node)) == begun.experiment, "here is what the driver has"
    first.rename(tmp_path / "lost")
    there = renamed_in(begun.experiment, at_hand(node))
    assert Path(there.task.train).parent == node / "inputs"  # type: ignore[union-attr]


def test_weights_folders_and_what_is_too_large_stay_where_they_are(
    tmp_path: Path, uri: str, questions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = working_folder_at(tmp_path / "first", uri) / "s"
    (tmp_path / "model").mkdir()
    (tmp_path / "m.gguf").write_text("")
    sources = [{"type": "path", "path": str(tmp_path / "model")}, {"type": "gguf", "file": str(tmp_path / "m.gguf")}]
    named = qa_study(questions, candidates=[{"name": f"c{i}", "source": s} for i, s in enumerate(sources)])
    beside = kept(named, sweep)
    assert beside.experiment.candidates == named.experiment.candidates
    assert train_of(beside) != questions
    monkeypatch.setattr(inputs, "LIMIT_BYTES", questions.stat().st_size - 1)
    assert kept(named, sweep) == named
    assert kept(named, tmp_path / "plain" / "s") is named, "on a plain disk nothing is copied"


def test_a_file_that_is_nowhere_is_named_with_the_way_out(tmp_path: Path, uri: str, questions: Path) -> None:
    first = working_folder_at(tmp_path / "first", uri) / "s"
    begun = begin(qa_study(questions), first)
    remote = remote_of(first)
    assert remote is not None
    remote.objects.delete(remote.name(train_of(begun)))
    train_of(begun).unlink()
    second = working_folder_at(tmp_path / "second", uri) / "s"
    with pytest.raises(ConfigError) as caught:
        all_at_hand(begun, second)
    assert f"{train_of(begun)} is not here" in str(caught.value)
    assert f"put it at {second}/inputs/{train_of(begun).name}" in str(caught.value)


def test_copies_stand_for_their_contents_wherever_they_lie(questions: Path) -> None:
    sealed = sealed_name(questions)
    assert unplaced({"a": [f"/x/inputs/{sealed}"]}) == unplaced({"a": [f"/y/z/inputs/{sealed}"]})
    for other in (f"/x/inputs/{sealed}/deeper", "/x/inputs/train.jsonl", f"/x/{sealed}"):
        assert unplaced(other) == other
