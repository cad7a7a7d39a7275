"""Names that stay in their folder, passwords that stay in the environment, code that is listed before it runs."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import yaml
from sqlalchemy.exc import OperationalError
from typer.testing import CliRunner

from haps_search.cli.main import app
from haps_search.config.base import concealed
from haps_search.config.load import load_study
from haps_search.errors import ConfigError, TrackerError
from haps_search.records.jsonl import read_records
from haps_search.records.mlflow_tracker import MlflowStore, _brief, default_uri
from haps_search.verbs.find import named_folder, sweep_journal

STUDY = {
    "name": "mine",
    "experiment": {
        "task": {"type": "qa", "train": "a.jsonl", "validation": "b.jsonl"},
        "candidates": [{"name": "adder", "source": {"type": "zoo", "name": "adder"}}],
    },
}
OUTSIDE = ["..", ".", "../other", "a/../../b", "/etc", ".hidden", "-rf", "a b", "", "a\n", "a\x00"]


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_name_cannot_lead_out_of_the_runs_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="needs letters, digits"):
        named_folder(tmp_path, name)
    with pytest.raises(ConfigError, match="needs letters, digits"):
        sweep_journal(tmp_path, name)


def test_a_plain_name_is_a_folder_of_the_runs(tmp_path: Path) -> None:
    assert named_folder(tmp_path, "llama-3.1_8b.v2") == tmp_path.resolve() / "llama-3.1_8b.v2"


@pytest.mark.parametrize("verb", ["sweep", "train"])
def test_verbs_that_write_refuse_such_names(tmp_path: Path, verb: str) -> None:
    done = CliRunner().invoke(app, [verb, "skills", "--name", "../escaped", "--runs", str(tmp_path / "runs")])
    assert isinstance(done.exception, ConfigError)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", [n for n in OUTSIDE if n])
def test_studies_and_candidates_take_no_such_names_either(tmp_path: Path, name: str) -> None:
    described = {**STUDY, "name": name}
    with pytest.raises(ConfigError, match="name"):
        load_study(written(tmp_path, described))
    inside = STUDY["experiment"] | {"candidates": [{"name": name, "source": {"type": "zoo", "name": "adder"}}]}  # type: ignore[operator]
    with pytest.raises(ConfigError, match=r"candidates\.0\.name"):
        load_study(written(tmp_path, {**STUDY, "experiment": inside}))


def written(folder: Path, described: object) -> Path:
    file = folder / "study.yaml"
    file.write_text(yaml.safe_dump(described))
    return file


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://ann:s3cret@host:5000/x", "http://ann:***@host:5000/x"),
        ("postgresql://ann:p@ss@db/mlflow", "postgresql://ann:***@db/mlflow"),
        ("mysql+pymysql://a:b@h/d failed; http://c:d@e", "mysql+pymysql://a:***@h/d failed; http://c:***@e"),
        ("postgresql://db/x?user=a&password=s3cret&sslmode=require", "postgresql://db/x?user=a&password=***&sslmode=require"),
        ("sqlite:////abs/mlflow.db", "sqlite:////abs/mlflow.db"),
        ("http://ann@host:5000", "http://ann@host:5000"),
    ],
)  # fmt: skip
def test_passwords_in_addresses_are_concealed(text: str, shown: str) -> None:
    assert concealed(text) == shown


def test_a_study_takes_no_password_and_does_not_repeat_it(tmp_path: Path) -> None:
    """It would stand in the journal, in study.yaml, in MLflow and in the process list."""
    for overrides in ([], ["tracking.uri=http://ann:s3cret@host"]):
        described = STUDY if overrides else {**STUDY, "tracking": {"uri": "http://ann:s3cret@host"}}
        with pytest.raises(ConfigError) as caught:
            load_study(written(tmp_path, described), overrides)
        assert "MLFLOW_TRACKING_URI" in str(caught.value)
        assert "s3cret" not in str(caught.value)


def test_the_address_with_a_password_comes_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://ann:s3cret@host")
    assert default_uri(tmp_path) == "http://ann:s3cret@host"
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert default_uri(tmp_path) == f"sqlite:///{tmp_path / 'mlflow.db'}"


def test_mlflow_errors_do_not_show_the_password(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "haps_search")
    with pytest.raises(TrackerError) as caught:
        MlflowStore("nosuch://ann:s3cret@host/x", "haps_search")
    assert "nosuch://ann:***@host/x" in str(caught.value)
    assert "s3cret" not in str(caught.value) + caplog.text
    assert "s3cret" not in _brief(OperationalError("select", {}, Exception("at postgresql://a:s3cret@h/d")))


def test_a_torn_line_is_counted_and_not_quoted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """examples.jsonl and its like hold the user's texts."""
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"text": "patient 17 has')
    assert read_records(file) == []
    assert "patient" not in caplog.text
    assert "24 characters" in caplog.text


def test_validate_lists_the_code_that_a_study_runs(tmp_path: Path) -> None:
    reward = {"type": "function", "function": "mine:score"}
    described = {
        "name": "mine",
        "experiment": {
            "task": {"type": "qa", "train": "a.jsonl", "validation": "b.jsonl", "reward": reward},
            "candidates": [{"name": "a", "source": {"type": "hub", "repo": "x/y"}, "trust_remote_code": True}],
        },
        "space": {"task.reward": {"type": "choice", "values": [{"type": "f1"}, {**reward, "function": "other:score"}]}},
    }
    lines = CliRunner().invoke(app, ["validate", str(written(tmp_path, described))]).output.splitlines()
    assert [line.split(maxsplit=2)[2] for line in lines if "runs code" in line] == [
        "experiment.task.reward.function: mine:score",
        "experiment.candidates.trust_remote_code: the model's own code",
        "space: task.reward.function: other:score",
    ]


def test_a_study_without_code_lists_none() -> None:
    assert "runs code" not in CliRunner().invoke(app, ["validate", "skills"]).output


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.system ['true']", "!!python/name:os.system"])
def test_yaml_cannot_make_objects(tmp_path: Path, tag: str) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(f"name: {tag}\n")
    with pytest.raises(ConfigError, match="not valid YAML: could not determine a constructor"):
        load_study(file)
