"""Questions that a user hands over, and what the user types for a sweep, a run or a setting."""

from __future__ import annotations

import json
from pathlib import Path

import pandas
import pytest
from sweeps import a_study, a_trial, write

from haps_search.cli.options import settings
from haps_search.errors import CheckpointError, ConfigError, DataError
from haps_search.records.run_folder import RunFolder
from haps_search.sweep.journal import Journal, open_sweep
from haps_search.sweep.layout import trial_folder
from haps_search.sweep.settings import experiment_of
from haps_search.tasks.question_lines import read_questions
from haps_search.types import Question
from haps_search.verbs.find import find_run, sweep_journal


def written(tmp_path: Path, *rows: object) -> Path:
    file = tmp_path / "questions.jsonl"
    file.write_text("\n".join(r if isinstance(r, str) else json.dumps(r, ensure_ascii=False) for r in rows))
    return file


def test_rows_become_questions_in_their_order(tmp_path: Path) -> None:
    file = written(
        tmp_path, {"question": "3+4?", "id": "q1", "context": "sums", "reference": 7}, "", {"question": "abc"}
    )
    assert read_questions(file) == [Question("q1", "3+4?", "7", "sums"), Question("line-3", "abc", "", "")]


@pytest.mark.parametrize("ending", ["json", "csv", "parquet"])
def test_other_files_than_json_lines_are_read_too(tmp_path: Path, ending: str) -> None:
    rows, file = pandas.DataFrame({"question": ["3+4?", "abc"], "id": ["q1", None]}), tmp_path / f"asked.{ending}"
    if ending == "json":
        rows.to_json(file, orient="records")
    else:
        getattr(rows, f"to_{ending}")(file, index=False)
    first, second = read_questions(file)
    assert (first, second.text) == (Question("q1", "3+4?", "", ""), "abc")
    assert second.id.startswith("line-")


@pytest.mark.parametrize("given", [None, "", "..", "."])
def test_an_id_that_names_no_folder_is_replaced_by_the_line(tmp_path: Path, given: str | None) -> None:
    assert read_questions(written(tmp_path, {"question": "a", "id": given}))[0].id == "line-1"


@pytest.mark.parametrize(
    ("given", "name"), [("a/b c", "a_b_c"), ("../../up", "_.._up"), (17, "17"), ("é-1.5", "é-1.5")]
)
def test_ids_are_names_that_stay_inside_the_folder(tmp_path: Path, given: object, name: str) -> None:
    assert read_questions(written(tmp_path, {"question": "a", "id": given}))[0].id == name


def test_a_line_ends_where_json_lines_do(tmp_path: Path) -> None:
    text = "one\u2028two\x85three"
    assert read_questions(written(tmp_path, {"question": text}))[0].text == text


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("{not json", "bad JSON"),
        (["a"], "field question: needs a text"),
        ({"text": "a"}, "field question: needs a text"),
        ({"question": "  "}, "field question: needs a text"),
        ({"question": 5}, "field question: needs a text"),
        ({"question": "b", "id": "q1"}, "field id: 'q1' stands twice"),
    ],
)
def test_a_malformed_row_is_named_by_file_line_and_field(tmp_path: Path, row: object, said: str) -> None:
    file = written(tmp_path, {"question": "a", "id": "q1"}, row)
    with pytest.raises(DataError) as caught:
        read_questions(file)
    assert str(caught.value).startswith(f"{file}:2: ")
    assert said in str(caught.value)


def test_bytes_that_are_not_utf_8_are_a_malformed_row(tmp_path: Path) -> None:
    file = tmp_path / "latin.jsonl"
    file.write_bytes('{"question": "é"}'.encode("latin-1"))
    with pytest.raises(DataError, match=r"latin\.jsonl:1: .*not UTF-8"):
        read_questions(file)


def test_two_ids_that_would_share_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r":2: .*stands twice"):
        read_questions(written(tmp_path, {"question": "a", "id": "x/y"}, {"question": "b", "id": "x y"}))


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_an_empty_file_has_no_questions(tmp_path: Path, content: str) -> None:
    file = tmp_path / "empty.jsonl"
    file.write_text(content)
    with pytest.raises(DataError, match="no questions"):
        read_questions(file)


def test_a_file_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere.jsonl", tmp_path):
        with pytest.raises(ConfigError, match="no such file"):
            read_questions(path)


@pytest.fixture
def swept(tmp_path: Path) -> Path:
    """A runs folder with a sweep of two finished trials, and a run of its own."""
    study, runs = a_study(), tmp_path / "runs"
    journal = open_sweep(runs / "skills", study, resume=False)
    trials = [a_trial(0, 0.2, parameters={"run.steps": 5}), a_trial(1, 0.8, parameters={"run.steps": 6})]
    write(journal, *trials)
    for trial in trials:
        RunFolder(trial_folder(journal.folder, trial.number), experiment_of(study, trial))
    journal.close()
    RunFolder(runs / "alone", study.experiment)
    return runs


@pytest.mark.parametrize(
    ("text", "folder", "steps"),
    [
        ("skills", "skills/trials/001", 6),
        ("skills/", "skills/trials/001", 6),
        ("skills/0", "skills/trials/000", 5),
        ("skills/001", "skills/trials/001", 6),
        ("alone", "alone", 20),
    ],
)
def test_a_run_is_found_by_what_a_user_types(swept: Path, text: str, folder: str, steps: int) -> None:
    found = find_run(swept, text)
    assert found.folder == swept / folder
    assert found.experiment.run.steps == steps


def test_a_run_is_found_by_its_folder(swept: Path) -> None:
    assert find_run(Path("elsewhere"), str(swept / "skills/trials/000")).experiment.run.steps == 5


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("skils", r"no sweep skils under .*; did you mean skills\?"),
        ("hotpotqa", "no sweep hotpotqa under .*; `haps status` lists the 1 that are there"),
        ("skills/best", "expected NAME/NUMBER, got 'best'"),
        ("skills/7", "sweep skills has no trial 7; `haps status skills` lists them"),
    ],
)
def test_what_is_not_there_is_answered_with_what_is(swept: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        find_run(swept, text)


def test_an_empty_runs_folder_is_said_to_be_empty(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there are none yet"):
        sweep_journal(tmp_path, "skills")


def test_a_sweep_without_results_has_no_best_trial(swept: Path) -> None:
    open_sweep(swept / "young", a_study(), resume=False).close()
    with pytest.raises(ConfigError, match="no trial with results yet"):
        find_run(swept, "young")


def test_a_best_trial_whose_folder_is_gone_is_a_missing_checkpoint(swept: Path) -> None:
    (swept / "skills/trials/001/experiment.json").unlink()
    with pytest.raises(CheckpointError, match="no run here"):
        find_run(swept, "skills")


def test_a_sweep_is_found_with_its_study(swept: Path) -> None:
    journal = sweep_journal(swept, "skills")
    assert isinstance(journal, Journal)
    assert journal.study() == a_study()


def test_options_that_were_given_become_settings_after_those_of_set() -> None:
    assert settings(["run.steps=5"], sweep__trials=3, sweep__max_hours=None) == ["run.steps=5", "sweep.trials=3"]
    assert settings(None, sweep__trials=None) == []
