"""What submitting a sweep means, what travels with it, and what never does."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from sweeps import DESCRIBED, a_study

from haps_search.config.engines import ClusterProfile
from haps_search.config.load import dump, fingerprint, load_profile, load_study, parse_study, read_study
from haps_search.config.sweep import Study
from haps_search.errors import ConfigError
from haps_search.sweep import inputs, packing
from haps_search.sweep.inputs import copied, kept, sealed_name
from haps_search.sweep.packing import pack
from haps_search.sweep.submission import (
    Attach,
    Begin,
    Done,
    Job,
    State,
    attempt_of,
    checked_runs,
    decide,
    entrypoint,
    environment,
    place,
)

PROFILE = ClusterProfile.model_validate({"name": "test", "candidate": {"cpus": 1}})


def job(attempt: int, state: State, fingerprint: str | None = "f", runs: str | None = "/r") -> Job:
    return Job(f"s-{attempt}", attempt, state, runs, fingerprint)


@pytest.mark.parametrize(
    ("name", "submission_id", "attempt"),
    [
        ("s", "s-1", 1), ("s", "s-12", 12), ("s-1", "s-1-3", 3), ("s", "s-1-3", None), ("s", "s", None),
        ("s", "s-0", None), ("s", "s-01", None), ("s", "t-1", None), ("s", "xs-1", None), ("s", None, None),
        ("s", "1", None),
    ],
)  # fmt: skip
def test_an_id_is_the_name_and_the_attempt(name: str, submission_id: str | None, attempt: int | None) -> None:
    assert attempt_of(name, submission_id) == attempt


@pytest.mark.parametrize(
    ("jobs", "expected"),
    [
        ([], Begin("s-1", 1)),
        ([job(1, "PENDING")], Attach(job(1, "PENDING"), other=False)),
        ([job(1, "FAILED"), job(2, "RUNNING")], Attach(job(2, "RUNNING"), other=False)),
        ([job(1, "RUNNING", "g")], Attach(job(1, "RUNNING", "g"), other=True)),
        ([job(1, "RUNNING", None, None)], Attach(job(1, "RUNNING", None, None), other=False)),
        ([job(2, "STOPPED"), job(1, "SUCCEEDED")], Begin("s-3", 3)),
        ([job(10, "FAILED"), job(9, "FAILED")], Begin("s-11", 11)),
        ([job(1, "SUCCEEDED")], Done(job(1, "SUCCEEDED"))),
        ([job(1, "SUCCEEDED", "g")], Begin("s-2", 2)),
    ],
)
def test_submitting_again_attaches_resumes_or_says_that_it_is_done(jobs: list[Job], expected: Any) -> None:
    assert decide("s", jobs, "/r", "f") == expected


def test_a_sweep_of_that_name_in_another_runs_folder_is_refused() -> None:
    with pytest.raises(ConfigError, match="sweep s: was submitted with --runs /other, now /r"):
        decide("s", [job(1, "FAILED", runs="/other")], "/r", "f")


@pytest.mark.parametrize("runs", [None, "runs", "./runs", "~/runs"])
def test_storage_has_to_be_absolute(runs: str | None) -> None:
    with pytest.raises(ConfigError, match="needs the absolute path of a folder that every node"):
        checked_runs(runs)
    assert checked_runs("/shared/runs/") == "/shared/runs"


def test_an_object_store_is_storage_too_and_its_address_says_where_the_sweep_is() -> None:
    runs = checked_runs("s3://bucket/runs?region=eu-west-1&endpoint_override=http%3A%2F%2Fminio%3A9000")
    assert place("s", runs).startswith("s3://bucket/runs/s?region=eu-west-1&")
    assert place("s", checked_runs("/shared/runs")) == "/shared/runs/s"
    assert shlex.split(entrypoint("s", runs))[-2:] == ["--runs", runs]


@pytest.mark.parametrize(
    "runs",
    ["s3://AKIA1:hidden@bucket/runs", "s3://AKIA1@bucket/runs", "s3://bucket/runs?secret_key=hidden&region=x",
     "s3://bucket/runs?X-Amz-Signature=hidden", "gs://bucket/runs?access_token=hidden"],
)  # fmt: skip
def test_a_key_in_an_address_is_refused_and_not_shown(runs: str) -> None:
    with pytest.raises(ConfigError, match="put the key into the environment") as caught:
        checked_runs(runs)
    assert "hidden" not in str(caught.value)
    assert "AKIA1" not in str(caught.value)


@pytest.mark.parametrize("runs", ["hdfs://host/runs", "s3://bucket", "file:///shared/runs"])
def test_other_addresses_are_refused(runs: str) -> None:
    with pytest.raises(ConfigError, match="needs"):
        checked_runs(runs)


def test_variables_travel_by_name_and_their_values_are_on_no_command_line() -> None:
    assert environment(["HF_TOKEN"], {"HF_TOKEN": "hf_secret", "OTHER": "x"}) == {
        "HF_TOKEN": "hf_secret",
        "RAY_JOB_STOP_WAIT_TIME_S": "90",
    }
    assert shlex.split(entrypoint("s", "/my runs"))[-5:] == ["study.yaml", "--name", "s", "--runs", "/my runs"]
    with pytest.raises(ConfigError) as caught:
        environment(["HF_TOKEN=hf_secret", "NONE"], {})
    assert "hf_secret" not in str(caught.value)
    assert len(caught.value.problems) == 2


# What travels.


def qa_study(**task: Any) -> Study:
    experiment = {**DESCRIBED["experiment"], "task": {"type": "qa", "validation": "/cluster/v.jsonl", **task}}
    return parse_study({**DESCRIBED, "experiment": experiment})


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a question file and a reward."""
    folder = tmp_path / "project"
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "train.jsonl").write_text('{"question": "1+1", "answer": "2"}\n')
    (folder / "rewards.py").write_text("def half(question, answer):\n    return 0.5\n")
    (folder / "secret.txt").write_text("not named by the study")
    monkeypatch.chdir(folder)
    return folder


def listed(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_what_the_study_names_travels_and_nothing_else(project: Path, tmp_path: Path) -> None:
    study = qa_study(train="data/train.jsonl", reward={"type": "function", "function": "rewards:half"})
    packed = pack(study, PROFILE, tmp_path / "package")
    sealed = sealed_name(project / "data" / "train.jsonl")
    assert listed(tmp_path / "package") == [
        "clusters/profiles/test.yaml", f"inputs/{sealed}", "rewards.py", "study.yaml",
    ]  # fmt: skip
    task = packed.experiment.task
    assert (task.train, task.validation) == (f"inputs/{sealed}", "/cluster/v.jsonl")  # type: ignore[union-attr]


def test_the_packed_study_and_profile_read_back_as_they_were(project: Path, tmp_path: Path) -> None:
    study = qa_study(train="data/train.jsonl", fields={"id": "1e3", "question": "on", "reference": "0x1F"})
    packed = pack(study, PROFILE, tmp_path / "package")
    assert read_study(tmp_path / "package" / "study.yaml") == packed
    assert load_profile(tmp_path / "package" / "clusters" / "profiles" / "test.yaml") == PROFILE
    assert packed.experiment.engine.profile == "test"  # type: ignore[union-attr]
    written = yaml.safe_load((tmp_path / "package" / "study.yaml").read_text())
    assert written["experiment"]["task"]["fields"]["id"] == "1e3"


def test_a_file_that_changed_is_another_study_and_an_equal_copy_is_not(project: Path, tmp_path: Path) -> None:
    study = qa_study(train="data/train.jsonl")
    first = fingerprint(pack(study, PROFILE, tmp_path / "1"))
    assert fingerprint(pack(study, PROFILE, tmp_path / "2")) == first
    (project / "data" / "train.jsonl").write_text('{"question": "1+2", "answer": "3"}\n')
    assert fingerprint(pack(study, PROFILE, tmp_path / "3")) != first


def test_files_that_are_missing_or_too_large_are_said_at_once(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "LIMIT_BYTES", 10)
    with pytest.raises(ConfigError) as caught:
        pack(qa_study(train="data/train.jsonl", test="data/none.jsonl"), PROFILE, tmp_path / "package")
    assert len(caught.value.problems) == 2
    assert "data/none.jsonl: no such file here" in str(caught.value)
    assert "write its absolute path" in caught.value.problems[1]


def test_a_package_of_rewards_travels_whole(project: Path, tmp_path: Path) -> None:
    (project / "mine" / "__pycache__").mkdir(parents=True)
    for name in ("__init__.py", "rewards.py", "words.py", "__pycache__/x.pyc"):
        (project / "mine" / name).write_text("")
    study = qa_study(train="/c/t.jsonl", reward={"type": "function", "function": "mine.rewards:half"})
    pack(study, PROFILE, tmp_path / "package")
    assert [name for name in listed(tmp_path / "package") if name.startswith("mine")] == [
        "mine/__init__.py", "mine/rewards.py", "mine/words.py",
    ]  # fmt: skip


# Where the job runs.


def test_files_of_a_job_are_kept_beside_the_sweep_and_two_packages_give_one_study(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A head that was started again unpacks a job elsewhere; its sweep is the same."""
    study, sweep, found = qa_study(train="data/train.jsonl"), tmp_path / "runs" / "s", []
    for package in ("session_1", "session_2"):
        folder = tmp_path / package / inputs.RAYS_PACKAGES / "_ray_pkg_1"
        monkeypatch.chdir(project)
        pack(study, PROFILE, folder)
        monkeypatch.chdir(folder)
        found.append(kept(load_study("study.yaml"), sweep))
    assert dump(found[0]) == dump(found[1])
    train = Path(found[0].experiment.task.train)  # type: ignore[union-attr]
    assert train.parent == sweep / "inputs"
    assert train.read_text() == (project / "data" / "train.jsonl").read_text()


def test_elsewhere_than_in_a_job_nothing_is_copied(project: Path, tmp_path: Path) -> None:
    study = a_study()
    assert kept(study, tmp_path / "s") is study
    assert not (tmp_path / "s").exists()


def test_folders_are_copied_whole_and_once(tmp_path: Path) -> None:
    model = tmp_path / "model"
    (model / "sub").mkdir(parents=True)
    (model / "a").write_text("1")
    (model / "sub" / "b").write_text("2")
    target = copied(model, tmp_path / "kept")
    assert listed(target) == ["a", "sub/b"]
    before = target.stat().st_mtime_ns
    assert copied(model, tmp_path / "kept") == target
    assert target.stat().st_mtime_ns == before
    assert [path.name for path in (tmp_path / "kept").iterdir()] == [target.name]
    assert copied(target, tmp_path / "kept") == target
    (model / "sub" / "b").rename(model / "b")
    assert sealed_name(model) != target.name
