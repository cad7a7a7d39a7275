"""Outcome tables of others: each layout read, each malformed table named by file, line and column."""

from __future__ import annotations

import csv
import json
import tracemalloc
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.testing import assert_allclose

from haps_search.config.load import load_table, parse_table
from haps_search.config.tables import LongLayout, TableConfig, WideLayout
from haps_search.errors import ConfigError, DataError
from haps_search.tasks.tables.reading import load_outcomes, read_table
from haps_search.types import Question

ASSETS = Path(__file__).parents[1] / "assets" / "tables"
NAN = float("nan")
Rows = Sequence[Mapping[str, Any]]


def jsonl(path: Path, rows: Rows) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def comma(path: Path, rows: Rows, delimiter: str = ",") -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return path


def parquet(path: Path, rows: Rows) -> Path:
    pq.write_table(pa.Table.from_pylist([dict(row) for row in rows]), path, row_group_size=2)
    return path


WRITERS: Mapping[str, Callable[[Path, Rows], Path]] = {
    "t.jsonl": jsonl,
    "t.csv": comma,
    "t.tsv": lambda path, rows: comma(path, rows, "\t"),
    "t.parquet": parquet,
}
WIDE = WideLayout(text="prompt", scores={"a": "a_score", "b": "b_score"}, costs={"b": "b_usd"})
WIDE_ROWS = [
    {"id": "1", "prompt": "one,\n\"two\"", "a_score": 1.0, "b_score": 0.5, "b_usd": 0.02},
    {"id": "2", "prompt": "zwei ä", "a_score": 0.0, "b_score": 1.0, "b_usd": None},
    {"id": "3", "prompt": "three", "a_score": None, "b_score": 0.0, "b_usd": 0.0},
]  # fmt: skip


def nested(*scores: Mapping[str, Any], **fields: Any) -> list[dict[str, Any]]:
    return [{"id": i, "query": f"question {i}", "scores": s, **fields} for i, s in enumerate(scores, start=1)]


def described(path: Path, **fields: Any) -> TableConfig:
    return parse_table({"file": str(path), **fields})


def test_llmrouter_rows_are_read_whatever_the_order_of_their_models() -> None:
    table = read_table(ASSETS / "llmrouter" / "outcomes.jsonl")
    order = [table.assignments.index((name,)) for name in ("small-a", "large-b")]
    assert_allclose(table.rewards[:, order], [[1, 0], [0, 1], [0.5, 0.25], [1, 0], [0, 1], [0, 0]])
    assert table.questions[3] == Question("made/3", "What is 14 plus 27?", "made up")
    assert table.tasks == ("counting", "places", "letters", "counting", "places", "letters")
    assert table.splits == ("train",) * 4 + ("test",) * 2
    assert (table.samples == 1).all()
    assert table.costs is not None
    assert_allclose(table.costs[:, order], [[0.2, 1.5]] * 6)
    assert [a.dtype for a in (table.rewards, table.samples, table.costs)] == [np.float32, np.int32, np.float32]


def test_routerbench_rows_carry_their_own_costs() -> None:
    loaded = load_outcomes(TableConfig(file=str(ASSETS / "routerbench.jsonl")))
    assert (loaded.layout, loaded.dropped, loaded.repeated) == ("routerbench", 0, 0)
    table = loaded.table
    assert table.assignments == (("small/a",), ("large/b",))
    assert table.costs is not None
    assert_allclose(table.costs, [[0.001 * i, 0.01] for i in range(1, 7)], rtol=1e-6)


def test_nested_rows_in_parquet_are_the_same_table(tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (ASSETS / "routerbench.jsonl").read_text().splitlines()]
    table = read_table(parquet(tmp_path / "t.parquet", rows))
    again = read_table(ASSETS / "routerbench.jsonl")
    assert table.questions == again.questions
    assert (table.rewards == again.rewards).all()


@pytest.mark.parametrize("name", WRITERS)
def test_a_wide_table_is_the_same_in_every_format(tmp_path: Path, name: str) -> None:
    file = WRITERS[name](tmp_path / name, WIDE_ROWS)
    table = read_table(TableConfig(file=str(file), layout=WIDE, missing="keep"))
    assert [q.text for q in table.questions] == [row["prompt"] for row in WIDE_ROWS]
    assert_allclose(table.rewards, [[1, 0.5], [0, 1], [NAN, 0]])
    assert table.costs is not None
    assert_allclose(table.costs, [[NAN, 0.02], [NAN, NAN], [NAN, 0]])
    assert table.splits == (None,) * 3
    assert table.tasks == ("",) * 3


@pytest.mark.parametrize("name", WRITERS)
def test_a_long_table_gathers_the_models_of_each_question(tmp_path: Path, name: str) -> None:
    cells = [("q2", "y", 0.0), ("q1", "x", 1.0), ("q2", "x", 0.25), ("q1", "y", 0.5)]
    rows = [{"id": i, "text": f"text of {i}", "task": "t", "model": m, "score": s} for i, m, s in cells]
    loaded = load_outcomes(TableConfig(file=str(WRITERS[name](tmp_path / name, rows))))
    assert loaded.layout == "long"
    table = loaded.table
    assert [q.id for q in table.questions] == ["q2", "q1"]
    assert table.assignments == (("y",), ("x",))
    assert_allclose(table.rewards, [[0, 0.25], [0.5, 1]])
    assert table.costs is None
    assert table.tasks == ("t", "t")


def test_a_declared_range_is_rescaled(tmp_path: Path) -> None:
    file = jsonl(tmp_path / "t.jsonl", nested({"a": -1, "b": 3}, {"a": 1, "b": True}))
    table = read_table(described(file, score_range=[-1.0, 3.0]))
    assert_allclose(table.rewards, [[0, 1], [0.5, 0.5]])


def test_missing_cells_are_kept_or_their_questions_dropped(tmp_path: Path) -> None:
    rows = nested({"a": 1, "b": 0}, {"a": 1}, {"a": NAN, "b": 1}, {"a": None, "b": 1}, {"a": 0, "b": 1})
    file = jsonl(tmp_path / "t.jsonl", rows)
    kept = load_outcomes(described(file, missing="keep"))
    assert np.isnan(kept.table.rewards).sum() == 3
    assert (kept.table.samples == [[1, 1], [1, 0], [0, 1], [0, 1], [1, 1]]).all()
    dropped = load_outcomes(described(file, missing="drop"))
    assert dropped.dropped == 3
    assert [q.id for q in dropped.table.questions] == ["1", "5"]
    assert_allclose(dropped.table.rewards, [[1, 0], [0, 1]])


def test_a_missing_cell_is_named_unless_a_policy_is_declared(tmp_path: Path) -> None:
    file = jsonl(tmp_path / "t.jsonl", nested({"a": 1, "b": 0}, {"a": 1, "b": 1}, {"b": NAN, "a": 0}, {"b": 1}))
    with pytest.raises(DataError) as caught:
        read_table(file)
    head, *places = str(caught.value).split("\n  - ")
    assert head.startswith("2 missing cells in 2 of 4 questions; needs a score of every model, or `missing: keep`")
    assert places == [f"{file}:3: `scores.b`: got no score of b", f"{file}:4: `scores.a`: got no score of a"]


def test_a_misspelt_model_is_told_with_its_nearest_name(tmp_path: Path) -> None:
    rows = nested(*[{"gpt-large": 1, "tiny": 0}] * 30, {"gpt-lrage": 1, "tiny": 0})
    with pytest.raises(DataError, match=r"gpt-lrage has a score on 1 of 31 questions; did you mean gpt-large\?"):
        read_table(jsonl(tmp_path / "t.jsonl", rows))


def test_repeated_ids_are_refused_kept_once_or_averaged(tmp_path: Path) -> None:
    rows = nested({"a": 1, "b": 0.5}, {"a": 1, "b": 1}) + nested({"a": 0, "b": 0})
    file = jsonl(tmp_path / "t.jsonl", rows)
    with pytest.raises(DataError, match=r't\.jsonl:3: id: got "1" again, first on 1; needs different ids'):
        read_table(file)
    first = load_outcomes(described(file, duplicate_ids="first"))
    assert_allclose(first.table.rewards, [[1, 0.5], [1, 1]])
    mean = load_outcomes(described(file, duplicate_ids="mean"))
    assert_allclose(mean.table.rewards, [[0.5, 0.25], [1, 1]])
    assert mean.table.samples.tolist() == [[2, 2], [1, 1]]
    assert first.repeated == mean.repeated == 1


def test_repeated_cells_of_a_long_table_are_samples(tmp_path: Path) -> None:
    cells = [("x", 1.0), ("y", 0.0), ("x", 0.0), ("x", 1.0)]
    rows = [{"id": "q", "text": "t", "model": m, "score": s, "cost": 3 * s} for m, s in cells]
    file = jsonl(tmp_path / "t.jsonl", rows)
    with pytest.raises(DataError, match=r't\.jsonl:3: id: got "q" with x again'):
        read_table(file)
    loaded = load_outcomes(described(file, duplicate_ids="mean"))
    assert_allclose(loaded.table.rewards, [[2 / 3, 0]], rtol=1e-6)
    assert loaded.table.costs is not None
    assert_allclose(loaded.table.costs, [[2, 0]])
    assert (loaded.table.samples.tolist(), loaded.repeated) == ([[3, 1]], 2)


@pytest.mark.parametrize("field", ["text", "task", "split"])
def test_one_id_may_not_mean_two_questions(tmp_path: Path, field: str) -> None:
    same = {"id": "q", "text": "t", "task": "k", "split": "train", "score": 1}
    rows = [{**same, "model": "x"}, {**same, "model": "y", field: "other"}]
    with pytest.raises(DataError, match=rf't\.jsonl:2: {field}: got "other" for id "q", which had'):
        read_table(jsonl(tmp_path / "t.jsonl", rows))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"id": 2, "query": "q"', "bad JSON (Expecting ',' delimiter at character"),
        ("[1]", "got [1], needs a JSON object"),
        ('{"id": 2, "query": "q", "scores": {"a": 1.5, "b": 0}}', "`scores.a`: got 1.5, needs a score in [0, 1], or"),
        ('{"id": 2, "query": "q", "scores": {"a": -0.1, "b": 0}}', "`scores.a`: got -0.1, needs a score in [0, 1]"),
        ('{"id": 2, "query": "q", "scores": {"a": Infinity, "b": 0}}', "`scores.a`: got inf, needs a score in"),
        ('{"id": 2, "query": "q", "scores": {"a": "good", "b": 0}}', '`scores.a`: got "good", needs a number'),
        ('{"id": 2, "query": "q", "scores": {"a": [1], "b": 0}}', "`scores.a`: got [1], needs a number"),
        ('{"id": 2, "query": "q", "scores": [1, 0]}', "`scores`: got [1, 0], needs an object"),
        ('{"id": 2, "qurey": "q", "scores": {"a": 1}}', "`query`: got no such column (did you mean qurey?)"),
        ('{"id": 2, "query": "  ", "scores": {"a": 1}}', '`query`: got "  ", needs text'),
        ('{"id": null, "query": "q", "scores": {"a": 1}}', "`id`: got null, needs text or a whole number"),
        ('{"id": 2, "query": "q", "task": ["x"], "scores": {"a": 1}}', '`task`: got ["x"], needs text'),
    ],
)
def test_a_malformed_row_is_named_by_file_line_and_column(tmp_path: Path, line: str, said: str) -> None:
    file = jsonl(tmp_path / "t.jsonl", nested({"a": 1, "b": 0}))
    file.write_text(file.read_text() + "\n" + line + "\n")
    with pytest.raises(DataError) as caught:
        read_table(described(file, layout={"type": "llmrouter"}))
    assert str(caught.value).startswith(f"{file}:3: {said}")


def test_bytes_that_are_no_text_are_named(tmp_path: Path) -> None:
    file = jsonl(tmp_path / "t.jsonl", nested({"a": 1, "b": 0}))
    file.write_bytes(file.read_bytes() + b'{"id": "\xff"}\n')
    with pytest.raises(DataError, match=r"t\.jsonl:2: got bytes that are not UTF-8"):
        read_table(file)
    other = tmp_path / "t.csv"
    other.write_bytes(b"id,text,model,score\n1,\xff,x,1\n")
    with pytest.raises(DataError, match=r"t\.csv:\d: got bytes .* not UTF-8"):
        read_table(other)


def test_ten_problems_are_told_at_once(tmp_path: Path) -> None:
    file = jsonl(tmp_path / "t.jsonl", nested({"a": 1, "b": 0}, *[{"a": 7, "b": 1}] * 12))
    with pytest.raises(DataError) as caught:
        read_table(file)
    lines = str(caught.value).split("\n  - ")
    assert lines[0] == "10 problems, and perhaps more"
    assert [line.split(":")[1] for line in lines[1:]] == [str(n) for n in range(2, 12)]


@pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
def test_a_column_that_is_not_there_is_told_with_its_nearest_name(tmp_path: Path, name: str) -> None:
    layout = WIDE.model_copy(update={"scores": {"a": "a_scroe", "b": "b_score"}, "task": "subject"})
    file = WRITERS[name](tmp_path / name, WIDE_ROWS)
    with pytest.raises(DataError) as caught:
        read_table(TableConfig(file=str(file), layout=layout))
    assert "`a_scroe`: got no such column (did you mean a_score?)" in str(caught.value)
    assert "`subject`: got no such column (the table has: id, prompt, a_score, b_score, b_usd)" in str(caught.value)


def test_a_score_column_that_no_json_row_has_is_refused_under_every_policy(tmp_path: Path) -> None:
    layout = WIDE.model_copy(update={"scores": {"a": "a_score", "c": "c_score"}, "costs": {}})
    config = TableConfig(file=str(jsonl(tmp_path / "t.jsonl", WIDE_ROWS)), layout=layout, missing="keep")
    with pytest.raises(DataError, match=r"`c_score`: got no score of c in any row"):
        read_table(config)


def test_a_csv_problem_is_named_by_the_line_its_record_starts_on(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_text('id,text,model,score\n1,"two\nlines",x,1\n1,"two\nlines",y,9\n')
    with pytest.raises(DataError, match=r"t\.csv:4: `score`: got 9, needs a score in \[0, 1\]"):
        read_table(file)
    file.write_text("id,text,model,score\n1,t,x\n")
    with pytest.raises(DataError, match=r"t\.csv:2: got 3 values, needs 4 as in the header"):
        read_table(described(file, layout={"type": "long"}))
    file.write_text("id,text,text,score\n")
    with pytest.raises(DataError, match=r"t\.csv:1: got the column `text` twice"):
        read_table(file)


def test_a_parquet_problem_is_named_by_its_row(tmp_path: Path) -> None:
    rows = [{"id": "q", "text": "t", "model": m, "score": s} for m, s in (("x", 1.0), ("y", 0.0), ("z", 3.0))]
    with pytest.raises(DataError, match=r"t\.parquet: row 3: `score`: got 3, needs"):
        read_table(parquet(tmp_path / "t.parquet", rows))
    broken = tmp_path / "b.parquet"
    broken.write_bytes(b"no parquet at all")
    with pytest.raises(DataError, match=r"b\.parquet: not a Parquet file"):
        read_table(broken)


def test_tables_without_rows_or_without_a_choice_are_refused(tmp_path: Path) -> None:
    empty = jsonl(tmp_path / "empty.jsonl", [])
    for layout in ("auto", "llmrouter"):
        with pytest.raises(DataError, match=r"empty\.jsonl: got 0 rows"):
            read_table(described(empty, layout={"type": layout}))
    with pytest.raises(DataError, match=r"got 1 model \(a\), needs two or more"):
        read_table(jsonl(tmp_path / "one.jsonl", nested({"a": 1}, {"a": 0})))
    with pytest.raises(DataError, match="got no question that all 2 models answered"):
        read_table(described(jsonl(tmp_path / "gaps.jsonl", nested({"a": 1}, {"b": 0})), missing="drop"))


def test_what_cannot_be_recognised_says_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"columns id, prompt, a_score, b_score, b_usd\. This description may be"):
        read_table(comma(tmp_path / "t.csv", WIDE_ROWS))
    sheet = tmp_path / "t.xlsx"
    sheet.touch()
    with pytest.raises(ConfigError, match=r"got the ending \.xlsx, needs one of \.json"):
        read_table(sheet)
    with pytest.raises(ConfigError, match="no such file"):
        read_table(tmp_path / "absent.csv")


def test_prices_name_every_model_of_the_table(tmp_path: Path) -> None:
    file = jsonl(tmp_path / "t.jsonl", nested({"llama-8b": 1, "qwen-7b": 0}))
    table = read_table(file)
    assert table.costs is None
    prices = tmp_path / "prices.json"
    prices.write_text(
        '{"llama-8b": {"input_price": 1, "output_price": 2}, "qwen-7": {"input_price": 1, "output_price": 1}}'
    )
    with pytest.raises(DataError, match=r":1: `scores.qwen-7b`: got a model without a price \(did you mean qwen-7\?\)"):
        read_table(file)
    prices.write_text('{"llama-8b": {"input_price": 1}}')
    with pytest.raises(DataError, match=r"prices\.json: llama-8b: `output_price`: got no such column"):
        read_table(file)
    with pytest.raises(ConfigError, match=r"layout\.prices: cannot read"):
        read_table(described(file, layout={"type": "llmrouter", "prices": str(tmp_path / "none.json")}))


def test_what_haps_collect_wrote_is_handed_to_its_own_reader(tmp_path: Path) -> None:
    same = {"reference": "r", "split": "train", "task": "k", "cost": 0.5}
    cells = [("1", "x", 0, 1.0), ("1", "x", 1, 0.0), ("1", "y", 0, 1.0), ("2", "x", 0, 1.0)]
    rows = [
        {**same, "id": q, "question": f"text {q}", "assignment": json.dumps([m]), "sample": n, "reward": reward}
        for q, m, n, reward in cells
    ]
    parquet(tmp_path / "c.parquet", rows)
    loaded = load_outcomes(described(tmp_path / "c.parquet", missing="keep"))
    assert loaded.layout == "collected"
    assert_allclose(loaded.table.rewards, [[0.5, 1], [1, NAN]])
    with pytest.raises(DataError, match=r"1 missing cells in 1 of 2 questions"):
        read_table(tmp_path / "c.parquet")


def test_a_negative_cost_is_refused(tmp_path: Path) -> None:
    file = jsonl(tmp_path / "t.jsonl", nested({"a": 1, "b": 1}, cost={"a": -0.5}))
    with pytest.raises(DataError, match=r":1: `cost\.a`: got -0\.5, needs a cost of 0 or more"):
        read_table(file)


def test_a_description_with_mistakes_tells_them_with_their_lines(tmp_path: Path) -> None:
    file = tmp_path / "table.yaml"
    file.write_text(
        "file: t.csv\nlayout:\n  type: wide\n  txt: prompt\n  scores: {a: x}\n  costs: {c: y}\nscore_range: [1, 0]\n"
    )
    with pytest.raises(ConfigError) as caught:
        load_table(file)
    problems = " ".join(caught.value.problems)
    for part in ("(line 4)", "did you mean text?", "which `scores` does not name", "score_range (line 7)"):
        assert part in problems


def test_a_description_reads_its_table(tmp_path: Path) -> None:
    rows = [{"q": "a?", "A": 10, "B": 0}, {"q": "b?", "A": 5, "B": 10}]
    table = comma(tmp_path / "t.csv", rows)
    file = tmp_path / "table.yaml"
    file.write_text(
        f"file: {table}\nlayout: {{type: wide, id: null, text: q, scores: {{a: A, b: B}}}}\nscore_range: [0.0, 10.0]\n"
    )
    read = read_table(load_table(file))
    assert [q.id for q in read.questions] == ["2", "3"]
    assert_allclose(read.rewards, [[1, 0], [0.5, 1]])


def test_a_description_survives_its_own_json() -> None:
    config = TableConfig(file="t.csv", layout=LongLayout(cost="usd"), missing="drop")
    assert TableConfig.model_validate_json(config.model_dump_json()) == config


def big_rows(count: int) -> Iterator[dict[str, Any]]:
    """Each row carries 4 kB that no layout asks for."""
    for i in range(count):
        yield {
            "id": str(i),
            "prompt": f"question {i}",
            "a_score": 1.0,
            "b_score": 0.0,
            "b_usd": 0.1,
            "said": "x" * 4096,
        }


@pytest.mark.parametrize("name", ["t.jsonl", "t.csv", "t.parquet"])
def test_a_file_is_streamed(tmp_path: Path, name: str) -> None:
    file = WRITERS[name](tmp_path / name, list(big_rows(600)))
    config = TableConfig(file=str(file), layout=WIDE)
    read_table(config)
    tracemalloc.start()
    try:
        table = read_table(config)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(table.questions) == 600
    assert peak < 1_200_000, f"{peak} bytes for a file of 2.5 MB whose table needs a tenth"
