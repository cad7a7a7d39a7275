"""Outcome tables as others ship them, without a description; and descriptions proposed for the rest."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from numpy.testing import assert_allclose

from haps_search.config.load import load_table, parse_table
from haps_search.errors import ConfigError, DataError
from haps_search.tasks.outcomes import OutcomeTable
from haps_search.tasks.tables.reading import load_outcomes, read_table, survey

NAN = float("nan")
Rows = Sequence[Mapping[str, Any]]
SEVEN = (
    "mistralai/Mistral-7B-v0.1",
    "meta-math/MetaMath-Mistral-7B",
    "itpossible/Chinese-Mistral-7B-v0.1",
    "HuggingFaceH4/zephyr-7b-beta",
    "cognitivecomputations/dolphin-2.6-mistral-7b",
    "meta-llama/Meta-Llama-3-8B",
    "cognitivecomputations/dolphin-2.9-llama3-8b",
)


def write(path: Path, rows: Rows, indent: int | None = None) -> Path:
    match path.suffix:
        case ".json":
            path.write_text(json.dumps(list(rows), indent=indent))
        case ".jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        case ".parquet":
            pq.write_table(pa.Table.from_pylist([dict(row) for row in rows]), path)
        case _:
            with path.open("w", newline="") as file:
                writer = csv.DictWriter(file, list(rows[0]))
                writer.writeheader()
                writer.writerows(rows)
    return path


def routerbench() -> Rows:
    """Rows as RouterBench's CSV has them: an index without a name, prompts and responses as Python's lists."""
    models = ("WizardLM/WizardLM-13B-V1.2", "gpt-4-1106-preview")
    rows = []
    for i, scores in enumerate([(1.0, 0.0), (0.0, 1.0), (0.25, 1.0)]):
        prompt = [f'Question {i}?\nA) it\'s "x"\nAnswer:'] + (["And then?"] if i == 2 else [])
        rows.append(
            {"": 385 + i, "sample_id": f"arc-challenge.test.{i}", "prompt": repr(prompt), "eval_name": "arc-challenge"}
            | dict(zip(models, scores, strict=True))
            | {f"{model}|model_response": "['A\\n']" for model in models}
            | {f"{model}|total_cost": 0.001 * (k + 1) for k, model in enumerate(models)}
            | {"oracle_model_to_route_to": "no_model_correct"}
        )
    return rows


@pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
def test_routerbenchs_own_csv_needs_no_description(tmp_path: Path, name: str) -> None:
    loaded = load_outcomes(parse_table({"file": str(write(tmp_path / name, routerbench()))}))
    table = loaded.table
    assert table.assignments == (("WizardLM/WizardLM-13B-V1.2",), ("gpt-4-1106-preview",))
    assert [q.id for q in table.questions] == [f"arc-challenge.test.{i}" for i in range(3)]
    assert table.questions[0].text == 'Question 0?\nA) it\'s "x"\nAnswer:'
    assert table.questions[2].text == 'Question 2?\nA) it\'s "x"\nAnswer:\n\nAnd then?'
    assert table.tasks == ("arc-challenge",) * 3
    assert_allclose(table.rewards, [[1, 0], [0, 1], [0.25, 1]])
    assert table.costs is not None
    assert_allclose(table.costs, [[0.001, 0.002]] * 3, rtol=1e-6)
    assert loaded.cost_unit == "per question, in the table's money"


def routerdc() -> Rows:
    return [
        {
            "question": f"Question:{i}?\nAnswer:",
            "scores": {m: float(i == k) for k, m in enumerate(SEVEN)},
            "cluster_id": 0,
        }
        for i in range(9)
    ]


@pytest.mark.parametrize("indent", [None, 2])
def test_routerdcs_json_needs_no_description(tmp_path: Path, indent: int | None) -> None:
    loaded = load_outcomes(parse_table({"file": str(write(tmp_path / "gsm8k-train.json", routerdc(), indent))}))
    table = loaded.table
    assert (loaded.layout, [z[0] for z in table.assignments]) == ("nested", list(SEVEN))
    assert [q.id for q in table.questions] == [str(i) for i in range(1, 10)]
    assert table.questions[3].text == "Question:3?\nAnswer:"
    assert table.rewards.sum() == 7


LLMROUTER = [
    {"task_name": "gsm8k", "query": q, "ground_truth": "4", "metric": "GSM8K", "choices": None, "task_id": None,
     "model_name": m, "response": "4", "token_num": 9, "performance": p, "embedding_id": e, "user_id": None}
    for e, q in enumerate(("2+2?", "1+3?")) for m, p in (("a-8b", 1.0), ("b-70b", e / 2))
]  # fmt: skip


@pytest.mark.parametrize("name", ["t.jsonl", "t.json", "t.parquet", "t.csv"])
def test_llmrouters_long_rows_need_no_description(tmp_path: Path, name: str) -> None:
    table = read_table(write(tmp_path / name, LLMROUTER))
    assert [(q.id, q.text) for q in table.questions] == [("0", "2+2?"), ("1", "1+3?")]
    assert (table.tasks, table.assignments) == (("gsm8k", "gsm8k"), (("a-8b",), ("b-70b",)))
    assert_allclose(table.rewards, [[1, 0], [1, 0.5]])


def test_llmrouters_long_csv_without_ids_groups_by_task_and_text(tmp_path: Path) -> None:
    rows = [
        {"query": q, "model_name": m, "performance": 0.5, "cost": c, "task_name": t}
        for q, t in (("same?", "x"), ("same?", "y"), ("other?", "y"))
        for m, c in (("a", 0.1), ("b", 0.2))
    ]
    table = read_table(write(tmp_path / "t.csv", rows))
    assert [(q.text, t) for q, t in zip(table.questions, table.tasks, strict=True)] == [
        ("same?", "x"), ("same?", "y"), ("other?", "y"),
    ]  # fmt: skip
    assert len({q.id for q in table.questions}) == 3
    assert table.costs is not None
    assert_allclose(table.costs, [[0.1, 0.2]] * 3, rtol=1e-6)


def embedllm() -> Rows:
    return [
        {"prompt_id": p, "model_id": i, "category_id": 3, "label": int(p % 2 == i), "category": "mmlu_law",
         "prompt": f"Prompt {p}", "model_name": m}
        for p in range(4) for i, m in enumerate(("lab/x", "lab/y"))
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
def test_embedllms_long_rows_need_no_description(tmp_path: Path, name: str) -> None:
    table = read_table(write(tmp_path / name, embedllm()))
    assert [q.id for q in table.questions] == ["0", "1", "2", "3"]
    assert (table.tasks[0], table.assignments) == ("mmlu_law", (("lab/x",), ("lab/y",)))
    assert_allclose(table.rewards, [[1, 0], [0, 1]] * 2)


def test_an_id_that_numbers_rows_is_not_taken_for_a_questions(tmp_path: Path) -> None:
    rows = [dict(row, id=i) for i, row in enumerate(embedllm())]
    for row in rows:
        del row["prompt_id"]
    table = read_table(write(tmp_path / "t.csv", rows))
    assert [q.text for q in table.questions] == [f"Prompt {p}" for p in range(4)]


def test_several_files_are_one_table_with_tasks_and_splits_of_their_own(tmp_path: Path) -> None:
    """RouterDC's protocol: a file per task and split, and multiple choice is judged by probabilities above 0."""
    graded = [{"question": f"G{i}", "scores": {"a": 0.25, "b": 0.0}} for i in range(2)]
    train, test = write(tmp_path / "arc_train.json", graded), write(tmp_path / "arc_test.json", graded)
    table = read_table(
        parse_table(
            {"parts": [
                {"file": str(train), "task": "arc", "split": "train"},
                {"file": str(test), "task": "arc", "split": "test", "correct_above": 0.0},
            ]}
        )
    )  # fmt: skip
    assert [q.id for q in table.questions] == [
        "arc_train.json:1",
        "arc_train.json:2",
        "arc_test.json:1",
        "arc_test.json:2",
    ]
    assert (table.tasks, table.splits) == (("arc",) * 4, ("train", "train", "test", "test"))
    assert_allclose(table.rewards, [[0.25, 0]] * 2 + [[1, 0]] * 2)


def test_a_gap_in_the_second_file_is_named_there(tmp_path: Path) -> None:
    one = write(tmp_path / "one.jsonl", [{"id": "1", "query": "q", "scores": {"a": 1, "b": 0}}])
    two = write(tmp_path / "two.jsonl", [{"id": "2", "query": "r", "scores": {"a": 1}}])
    config = parse_table({"parts": [{"file": str(one)}, {"file": str(two)}]})
    with pytest.raises(DataError, match=r"two\.jsonl:1: `scores\.b`: got no score of b"):
        read_table(config)
    again = parse_table({"parts": [{"file": str(one)}, {"file": str(one)}]})
    with pytest.raises(DataError, match=r'one\.jsonl:1: id: got "1" again, first on .*one\.jsonl:1; needs'):
        read_table(again)


@pytest.mark.parametrize("given", [{}, {"file": "a", "parts": [{"file": "b"}]}])
def test_a_table_has_a_file_or_parts(given: Mapping[str, Any]) -> None:
    with pytest.raises(ConfigError, match="of `file` and `parts`, needs the table's file or its parts"):
        parse_table(given)


LONG = {"type": "long", "id": "q", "text": "q", "model": "m", "score": "s", "cost": "c"}


def a_cell(tmp_path: Path, score: Any, cost: Any = 1, **described: Any) -> OutcomeTable:
    rows = [{"q": "x", "m": "a", "s": score, "c": cost}, {"q": "x", "m": "b", "s": 0, "c": 1}]
    rows += [{"q": "y", "m": m, "s": 1, "c": 1} for m in "ab"]
    return read_table(parse_table({"file": str(write(tmp_path / "t.csv", rows)), "layout": LONG, **described}))


@pytest.mark.parametrize(
    ("score", "described", "said"),
    [
        ("inf", {}, "`s`: got inf, needs a score in [0, 1], or `score_range"),
        ("85%", {}, '`s`: got "85%", needs a number, or `score_range: [0, 100]` for percents'),
        ("85", {}, "`s`: got 85, needs a score in [0, 1], or `score_range"),
        ("yes", {}, '`s`: got "yes", needs a number'),
        ("N/A", {}, '`s`: got "N/A", needs a number'),
    ],
)
def test_scores_that_nobody_declared_are_refused_with_line_and_column(
    tmp_path: Path, score: str, described: Mapping[str, Any], said: str
) -> None:
    with pytest.raises(DataError) as caught:
        a_cell(tmp_path, score, **described)
    assert f"t.csv:2: {said}" in str(caught.value)


@pytest.mark.parametrize(
    ("score", "described", "reward"),
    [
        ("85%", {"score_range": [0.0, 100.0]}, 0.85),
        ("85", {"score_range": [0.0, 100.0]}, 0.85),
        ("True", {}, 1.0),
        ("false", {}, 0.0),
        ("", {"missing": "keep"}, NAN),
        ("0.2", {"correct_above": 0.5}, 0.0),
        ("0.51", {"correct_above": 0.5}, 1.0),
        ("51", {"correct_above": 50.0, "score_range": [0.0, 100.0]}, 1.0),
    ],
)
def test_declared_scores_are_read(tmp_path: Path, score: str, described: Mapping[str, Any], reward: float) -> None:
    assert_allclose(a_cell(tmp_path, score, **described).rewards[0, 0], reward)


@pytest.mark.parametrize(
    ("cost", "currency", "paid"),
    [("$0.0012", "$", 0.0012), ("$1,234.50", "$", 1234.5), ("3 €", "€", 3.0), ("2", "$", 2.0)],
)
def test_money_is_read_where_its_sign_is_declared(tmp_path: Path, cost: str, currency: str, paid: float) -> None:
    costs = a_cell(tmp_path, 1, cost, currency=currency).costs
    assert costs is not None
    assert_allclose(costs[0, 0], paid, rtol=1e-6)


@pytest.mark.parametrize(
    ("cost", "currency", "said"),
    [
        ("$0.0012", "", '`c`: got "$0.0012", needs a number, or `currency: SIGN` for money'),
        ("€1", "$", '`c`: got "€1", needs a number'),
        ("-$1", "$", '`c`: got "-$1", needs a number'),
        ("$12,34", "$", '`c`: got "$12,34", needs a number'),
        ("inf", "", "`c`: got inf, needs a cost of 0 or more"),
    ],
)
def test_money_that_nobody_declared_is_refused(tmp_path: Path, cost: str, currency: str, said: str) -> None:
    with pytest.raises(DataError) as caught:
        a_cell(tmp_path, 1, cost, currency=currency)
    assert f"t.csv:2: {said}" in str(caught.value)


def proposal(path: Path) -> tuple[str, dict[str, Any]]:
    """What is said of a table that is not recognised, and the description in it."""
    with pytest.raises(ConfigError, match="cannot be told from the columns") as caught:
        read_table(path)
    said = str(caught.value)
    return said, yaml.safe_load(said[said.index("\nfile:") :])


def test_a_wide_table_is_answered_by_a_description_that_reads_it(tmp_path: Path) -> None:
    rows = [
        {"nr": i, "Prompt": f"prompt {i}", "Category": "c", "score_gpt-4": f"{10 * i}%", "score_phi": "50%",
         "gpt-4 cost": f"${i}.5", "phi cost": "$0.5", "output_tokens": 7}
        for i in range(5)
    ]  # fmt: skip
    file = write(tmp_path / "t.csv", rows)
    said, described = proposal(file)
    assert "save it, mend it, and give it as `--config FILE`" in said
    assert described == {
        "file": str(file),
        "layout": {
            "type": "wide", "id": None, "text": "Prompt", "task": "Category",
            "scores": {"gpt-4": "score_gpt-4", "phi": "score_phi"}, "costs": {"gpt-4": "gpt-4 cost", "phi": "phi cost"},
        },
        "score_range": [0.0, 100.0],
        "currency": "$",
    }  # fmt: skip
    (tmp_path / "t.yaml").write_text(yaml.safe_dump(described))
    table = read_table(load_table(tmp_path / "t.yaml"))
    assert_allclose(table.rewards, [[i / 10, 0.5] for i in range(5)], rtol=1e-6)


def test_a_long_table_with_other_names_is_answered_by_a_description_that_reads_it(tmp_path: Path) -> None:
    rows = [
        {"engine": m, "asked": f"Tell me about {q}, at some length", "judge": 1 + 3 * (q % 2)}
        for q in range(6) for m in ("x", "y")
    ]  # fmt: skip
    _, described = proposal(write(tmp_path / "t.jsonl", rows))
    assert described["layout"] == {"type": "long", "id": None, "text": "asked", "model": "engine", "score": "judge"}
    assert described["score_range"] == [0.0, 100.0]
    described["score_range"] = [1.0, 5.0]
    table = read_table(parse_table(described))
    assert_allclose(table.rewards, [[0.75 * (q % 2)] * 2 for q in range(6)])


def test_objects_per_model_are_answered_by_paths(tmp_path: Path) -> None:
    rows = [
        {"prompt": f"prompt {i}", "gpt-4.1": {"score": 1.0, "num_tokens": 3, "response": "yes"},
         "phi": {"score": i / 4, "num_tokens": 2, "response": "no"}}
        for i in range(4)
    ]  # fmt: skip
    _, described = proposal(write(tmp_path / "t.parquet", rows))
    assert described["layout"]["scores"] == {"gpt-4.1": "gpt-4.1.score", "phi": "phi.score"}
    table = read_table(parse_table(described))
    assert_allclose(table.rewards, [[1, i / 4] for i in range(4)])


def test_what_cannot_be_guessed_is_called_so(tmp_path: Path) -> None:
    _, described = proposal(write(tmp_path / "t.jsonl", [{"a": "x"}, {"a": "y"}]))
    assert described["layout"]["scores"] == {"MODEL": "WHICH_COLUMN"}


def test_a_survey_counts_what_it_cannot_read_and_keeps_the_rest(tmp_path: Path) -> None:
    rows = [{"id": str(i), "query": f"q{i}", "scores": {"a": 1, "b": 0}} for i in range(6)]
    rows[1]["scores"], rows[2]["scores"] = {"a": "n/a", "b": 1}, {"a": 7, "b": 1}  # type: ignore[assignment]
    rows[3]["scores"] = {"a": "n/a", "b": "n/a"}  # type: ignore[assignment]
    rows[4]["query"] = ""
    rows[5]["id"] = "0"
    file = write(tmp_path / "t.jsonl", rows)
    file.write_text(file.read_text() + "{broken\n")
    loaded, texts = survey(parse_table({"file": str(file), "missing": "keep"}))
    assert [(each.kind, each.count) for each in loaded.unread] == [
        ("`scores.a`: needs a number", 2),
        ("`scores.a`: needs a score in [0, 1]", 1),
        ("`scores.b`: needs a number", 1),
        ("`query`: needs text that is not empty", 1),
        ("an id that came before with another text", 1),
        ("bad JSON", 1),
    ]
    assert loaded.unread[0].first == f'{file}:2: `scores.a`: got "n/a", needs a number'
    assert_allclose(loaded.table.rewards, [[1, 0], [NAN, 1], [NAN, 1], [NAN, NAN]])
    assert {question.text for question in loaded.table.questions} == {""}
    assert len(set(texts.same.tolist())) == 4


def test_a_survey_without_a_readable_row_says_why(tmp_path: Path) -> None:
    file = write(tmp_path / "t.jsonl", [{"id": "1", "query": "q", "scores": [1]}] * 3)
    with pytest.raises(DataError, match=r"got 0 rows that can be read \(3 cannot: .*t\.jsonl:1: `scores`: got \[1\]"):
        survey(parse_table({"file": str(file), "layout": {"type": "llmrouter"}}))
