"""The table's own splits, and routers judged on other tables: RouterDC's protocol on made files of its shape."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from judged_sweeps import FRUIT, WORDS, fruit_study, fruit_table, replay_sweep
from pydantic import ValidationError
from replays import row, write_table
from sweeps import a_trial
from typer.testing import CliRunner

from haps_search.cli.main import app
from haps_search.config.load import load_study, parse_study
from haps_search.config.references import BestSingleReference, PerQueryOracleReference, ReferencesConfig
from haps_search.config.tables import TableConfig
from haps_search.config.tasks import ReplayTask as ReplayConfig
from haps_search.errors import ConfigError, DataError
from haps_search.evaluation import intervals
from haps_search.evaluation.replay.asked import ask, ask_other
from haps_search.records.readings import readings
from haps_search.sweep.settings import confirmations
from haps_search.tasks.replay import ReplayTask
from haps_search.tasks.split_key import split_key
from haps_search.tasks.tables.reading import read_table
from haps_search.verbs import judge as verb
from haps_search.verbs.driver import read_task
from haps_search.verbs.judge import judge_replay

FEW = ReferencesConfig(compared=(BestSingleReference(), PerQueryOracleReference()))
NAMES = ("train", "dev", "test", "extra")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    monkeypatch.setenv("HAPS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(intervals, "DRAWS", 60)
    monkeypatch.setattr(verb, "ReferencesConfig", lambda: FEW)


def named_table(file: Path, count: int = 120) -> Path:
    """Every question says its split in its id; of "extra" there are as many as of each other."""
    rows = [
        {**row(f"{NAMES[i % 4]}{i}", f"text number {i}", {"a": 1, "b": i % 2}), "split": NAMES[i % 4]}
        for i in range(count)
    ]
    return write_table(file, rows)


def a_task(file: Path, **fields: Any) -> ReplayTask:
    described = {"table": TableConfig(file=str(file)).model_dump(), **fields}
    return ReplayTask(ReplayConfig.model_validate(described))


def ids(task: ReplayTask, split: Any) -> list[str]:
    return [question.id for question in task.questions(split)]


def test_the_tables_own_splits_are_taken_as_they_are_named(tmp_path: Path) -> None:
    splits = {"type": "column", "train": ["train", "extra"], "validation": ["dev"], "test": ["test"]}
    task = a_task(named_table(tmp_path / "t.jsonl"), splits=splits)
    assert {id.rstrip("0123456789") for id in ids(task, "train")} == {"train", "extra"}
    assert {id.rstrip("0123456789") for id in ids(task, "validation")} == {"dev"}
    assert {id.rstrip("0123456789") for id in ids(task, "test")} == {"test"}
    assert [len(ids(task, split)) for split in ("train", "validation", "test")] == [60, 30, 30]
    assert task.remarks()[0] == "60 train, 30 validation, 30 test questions (the table's own splits)"
    dealt = np.unique(task.part[task.rows("train")])
    assert dealt.tolist() == [1, 2, 3, 4, 5], "references are tuned on folds of what trains"


def test_without_validation_questions_folds_of_the_training_ones_take_turns(tmp_path: Path) -> None:
    file = named_table(tmp_path / "t.jsonl")
    splits = {"type": "column", "train": ["train"], "test": ["test"]}
    tasks = [a_task(file, splits=splits, fold=fold) for fold in range(5)]
    validated = [id for task in tasks for id in ids(task, "validation")]
    assert sorted(validated) == sorted(id for id in ids(tasks[0], "train") + ids(tasks[0], "validation"))
    assert {id.rstrip("0123456789") for id in validated} == {"train"}
    assert all(ids(task, "test") == ids(tasks[0], "test") for task in tasks)
    assert "60 questions of other splits left out" in tasks[0].remarks()


def test_a_name_that_no_row_has_is_told_with_its_nearest(tmp_path: Path) -> None:
    file = named_table(tmp_path / "t.jsonl")
    with pytest.raises(DataError, match=r"the table has no split `tset` \(did you mean test\?\)"):
        ids(a_task(file, splits={"type": "column", "test": ["tset"]}), "test")
    plain = write_table(tmp_path / "p.jsonl", [row("q", "t", {"a": 1, "b": 0}) | {"split": None}])
    with pytest.raises(DataError, match="no row names any: name its column"):
        ids(a_task(plain, splits={"type": "column"}), "test")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"splits": {"type": "column", "train": ["x"], "test": ["x"]}}, "got `x` twice"),
        ({"splits": {"type": "column", "validation": ["dev"]}, "fold": 1}, "got 1, needs 0, since the table says"),
    ],
)
def test_splits_that_cannot_be_are_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        a_task(Path("t.jsonl"), **fields)


def test_questions_on_both_sides_are_counted_and_stay(tmp_path: Path) -> None:
    rows = [
        {**row(f"q{i}", f"text {i % 30}", {"a": 1, "b": 0}), "split": "test" if i < 10 else "train"} for i in range(60)
    ]
    task = a_task(write_table(tmp_path / "t.jsonl", rows), splits={"type": "column"})
    assert len(ids(task, "test")) == 10
    assert any(line.startswith("warning: 10 test questions stand in train or validation") for line in task.remarks())


def test_confirming_stays_on_the_questions_that_the_table_says_validate(tmp_path: Path) -> None:
    splits = {"type": "column", "train": ["train"], "validation": ["dev"], "test": ["test"]}
    study = fruit_study(tmp_path / "t.jsonl", task=a_task(tmp_path / "t.jsonl", splits=splits).config.model_dump())
    again = confirmations(parse_study(study.model_dump(mode="json")), [a_trial(0, 0.5)], top=1, seeds=3)
    assert [setting.parameters["task.fold"] for setting in again] == [0, 0, 0]


def test_hashed_splits_say_how_to_take_the_tables_own(tmp_path: Path) -> None:
    said = a_task(named_table(tmp_path / "t.jsonl")).remarks()
    assert "the table's own splits are not used: `splits: {type: column}` takes them" in said


SEVEN = (
    *("mistralai/Mistral-7B-v0.1", "meta-math/MetaMath-Mistral-7B", "itpossible/Chinese-Mistral-7B-v0.1"),
    *("HuggingFaceH4/zephyr-7b-beta", "cognitivecomputations/dolphin-2.6-mistral-7b", "meta-llama/Meta-Llama-3-8B"),
    "cognitivecomputations/dolphin-2.9-llama3-8b",
)
ABLE = {"gsm8k": 1, "humaneval": 6, "arc_challenge": 3, "mmlu": 5, "cmmlu": 2, "mbpp": 6}


def routerdc(file: Path, task: str, count: int, seed: int) -> None:
    """A file as RouterDC ships it: one model is right on the task with 0.9, the others with 0.3; multiple choice has
    the probability of the right option where it was chosen."""
    draw = random.Random(seed)
    graded = task not in ("gsm8k", "humaneval", "mbpp")
    rows = []
    for i in range(count):
        right = [draw.random() < (0.9 if k == ABLE[task] else 0.3) for k in range(len(SEVEN))]
        scores = [(0.5 + draw.random() / 2 if graded else 1.0) * r for r in right]
        words = " ".join(draw.choices(WORDS[ABLE[task] % 3].split(), k=3))
        rows.append({"question": f"{task} {words} {seed} {i}", "scores": dict(zip(SEVEN, scores, strict=True))})
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(rows))


def checkout(folder: Path) -> None:
    """Files under the names that RouterDC's own have."""
    datasets = folder / "RouterDC" / "datasets"
    for number, task in enumerate(("gsm8k", "humaneval", "arc_challenge", "mmlu", "cmmlu")):
        joint = "-" if task == "gsm8k" else "_"
        routerdc(datasets / "split2_model7_cluster" / f"{task}{joint}train.json", task, 70, 10 + number)
        routerdc(datasets / "split2_model7" / f"{task}{joint}test.json", task, 30, 20 + number)
    routerdc(datasets / "split2_model7" / "mbpp.json", "mbpp", 40, 30)


def test_routerdcs_published_split_runs_from_its_files_to_its_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    checkout(tmp_path)
    monkeypatch.chdir(tmp_path)
    few = [
        "routing.backbone.features=[{type: heading}, {type: tfidf, dimensions: 12, buckets: 512}]",
        *("run.steps=40", "run.validation.every=10", "learning.learning_rate.high=0.05", "tracking.mlflow=false"),
    ]
    study = load_study("replay_routerdc", few)
    counted = re.match(r"(\d+) train, (\d+) validation, 150 test questions \(fold 0\)", read_task(study.experiment)[0])
    assert counted is not None
    assert int(counted[1]) + int(counted[2]) == 350
    replay_sweep(tmp_path / "runs" / "dc", study, rates=(0.05,))
    judge_replay("dc", "test", again=False, runs=tmp_path / "runs")
    found = json.loads((tmp_path / "runs" / "dc" / "references.json").read_text())
    rows = {line["label"]: line for line in found["rows"]}
    assert rows["router"]["count"] == 150
    assert rows["router"]["mean"] > 0.75 > rows["best single"]["mean"] + 0.2
    # A chosen right option counts whole in the test, whatever its probability.
    tested = [r for r, split in _rewards(study) if split == "test"]
    assert {float(v) for line in tested for v in line} == {0.0, 1.0}
    assert any(0 < v < 1 for line, split in _rewards(study) if split == "train" for v in line)
    capsys.readouterr()
    elsewhere = tmp_path / "RouterDC" / "datasets" / "split2_model7" / "mbpp.json"
    done = CliRunner().invoke(
        app, ["evaluate", "dc", "--runs", "runs", "--table", str(elsewhere)], catch_exceptions=False
    )
    assert "mbpp.json, another table, 40 questions" in done.output
    assert "haps report" not in done.output, "it shows the run's own splits"
    kept = json.loads((tmp_path / "runs" / "dc" / "mbpp.json-references.json").read_text())
    assert kept["split"] == "mbpp.json"
    assert json.loads((tmp_path / "runs" / "dc" / "references.json").read_text()) == found


def _rewards(study: Any) -> list[tuple[Sequence[float], str | None]]:
    table = ReplayTask(study.experiment.task).table
    return list(zip(table.rewards.tolist(), table.splits, strict=True))


def test_the_files_of_a_table_in_parts_become_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    task = load_study("replay_routerdc").experiment.task
    assert task.type == "replay"
    files = [part.file for part in task.table.parts]
    assert len(files) == 10
    assert all(file.startswith(f"{tmp_path}/RouterDC/datasets/split2_model7") for file in files)
    assert task.table.file == ""


def test_another_table_is_read_by_what_was_learnt_here(tmp_path: Path) -> None:
    """By hand: which questions are left out, what references know, and that names decide about columns."""
    own = fruit_table(tmp_path / "own.jsonl", questions=60, costs=False)
    task = a_task(own)
    texts = [question.text for question in task.table.questions]
    rows = [
        row("new0", f"{WORDS[0]} another one", {"plum": 0, "pear": 0, "apple": 1, "fig": 1}, task="kind0"),
        row("old", texts[5].upper() + "!", {"plum": 1, "pear": 1, "apple": 1, "fig": 1}),
        row("new1", f"{WORDS[1]} yet another", {"plum": None, "pear": 0.5, "apple": 0, "fig": 1}),
        row("fig", "only figs know", {"plum": None, "pear": None, "apple": None, "fig": 1}),
    ]
    other = read_table(TableConfig(file=str(write_table(tmp_path / "other.jsonl", rows)), missing="keep"))
    assert split_key(texts[5]) == split_key(rows[1]["query"])
    seen: list[list[str]] = []

    def featurise(training: Sequence[str], asked: Sequence[str]) -> np.ndarray:
        seen.append(list(asked))
        return np.array([[len(text)] for text in asked], dtype=np.float64)

    found = ask_other(task, FRUIT, other, featurise)
    assert [question.id for question in found.questions] == ["new0", "new1"]
    assert (found.known, found.left_out) == (1, 1)
    np.testing.assert_allclose(found.test.rewards, [[1, 0, 0], [0, 0.5, np.nan]])
    assert found.test.tasks == ("kind0", "all")
    tested = ask(task, FRUIT, "test", featurise)
    np.testing.assert_array_equal(found.train.rewards, tested.train.rewards)
    assert seen[1] == [rows[0]["query"], rows[2]["query"]]
    named = ask_other(a_task(own, task_name=True), FRUIT, other, featurise)
    assert seen[-1][0] == f"Task: kind0\n\n{rows[0]['query']}"
    assert named.questions == found.questions, "each router words them in its own way"


def test_another_table_needs_the_same_models_and_a_new_question(tmp_path: Path) -> None:
    own = fruit_table(tmp_path / "own.jsonl", questions=60, costs=False)
    task = a_task(own)
    other = read_table(write_table(tmp_path / "o.jsonl", [row("q", "new", {"aple": 1, "pear": 0, "plum": 0})]))

    def featurise(training: Sequence[str], asked: Sequence[str]) -> np.ndarray:
        return np.zeros((len(asked), 1))

    with pytest.raises(ConfigError, match=r"the other table has no model `apple` \(did you mean aple\?\)"):
        ask_other(task, FRUIT, other, featurise)
    with pytest.raises(DataError, match=r"none of the other table's 60 questions can be asked: 60 stand in the run's"):
        ask_other(task, FRUIT, read_table(own), featurise)


def test_a_router_is_as_good_on_another_table_of_the_same_kind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = fruit_table(tmp_path / "own.jsonl", costs=False)
    replay_sweep(tmp_path / "made", fruit_study(table, costs=False), (0.05,))
    lines = [json.loads(line) for line in table.read_text().splitlines()]
    fresh = [{**line, "query": line["query"].replace("number", "nr"), "id": f"n{line['id']}"} for line in lines]
    other = write_table(tmp_path / "other.jsonl", [*fresh, *lines[:7]])
    described = tmp_path / "other.yaml"
    described.write_text(f"file: {other}\nlayout: {{type: llmrouter}}\n")
    for given in (other, described):
        found = judge_replay("made", "validation", again=False, runs=tmp_path, other=given)
        assert "7 questions whose text stands in the run's own table are left out" in found.notes
        kept = json.loads((tmp_path / "made" / "other.jsonl-references.json").read_text())
        mean = {line["label"]: line["mean"] for line in kept["rows"]}
        assert mean["router"] > 0.7 > mean["best single"] + 0.2
    assert readings(tmp_path / "made") == [], "no test split was read"
