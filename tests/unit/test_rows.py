"""Files as rows: arrays of any length in little memory, documents, gzip, and where each row stands."""

from __future__ import annotations

import gzip
import io
import json
import random
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from haps_search.errors import ConfigError, DataError
from haps_search.tasks import json_array
from haps_search.tasks.json_array import ArrayBroken, elements
from haps_search.tasks.rows import BadRow, Row, open_rows


def values(path: Path) -> list[Any]:
    return [row.value for row in open_rows(path).stream]


def written(path: Path, text: str) -> Path:
    data = text.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


MADE = [{"a": i, "t": "ä\n]" * (i % 7), "l": [1.5, None, True]} for i in range(60)]


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 64])
@pytest.mark.parametrize("indent", [None, 1])
def test_an_array_is_the_same_wherever_its_stretches_are_cut(
    monkeypatch: pytest.MonkeyPatch, chunk: int, indent: int | None
) -> None:
    monkeypatch.setattr(json_array, "CHUNK", chunk)
    text = json.dumps([*MADE, 12, -3.5e-20, "x", [], 7], indent=indent, ensure_ascii=False)
    found = list(elements(io.BytesIO(text.encode())))
    assert [value for _, value in found] == [*MADE, 12, -3.5e-20, "x", [], 7]
    lines = [line for line, _ in found]
    starts = [1] * 65 if indent is None else [i for i, s in enumerate(text.split("\n"), 1) if s[:2] in (" {", *NEXT)]
    assert lines == starts


NEXT = (" 1", " -", ' "', " [", " 7")


@pytest.mark.parametrize("text", ["[]", " [ \n ] \n"])
def test_an_empty_array_has_no_elements(text: str) -> None:
    assert list(elements(io.BytesIO(text.encode()))) == []


@pytest.mark.parametrize(
    ("text", "before", "said"),
    [
        ("[1, 2 3]", 2, "neither `,` nor `]` at character 7"),
        ('[1,\n{"a": }]', 1, "Expecting value at character 11 of the file"),
        ("[1, ", 1, "bad JSON"),
        ("[1]\n]", 1, "text goes on after the array's `]`"),
        ("x", 0, "no array at character 1"),
    ],
)
def test_what_stands_before_the_break_is_read(text: str, before: int, said: str) -> None:
    found: list[Any] = []
    with pytest.raises(ArrayBroken) as caught:
        found.extend(value for _, value in elements(io.BytesIO(text.encode())))
    assert said in caught.value.reason


def test_bytes_that_are_no_text_are_told_by_their_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_array, "CHUNK", 4)
    data = '["ää", "b", "'.encode() + b"\xff" + b'"]'
    with pytest.raises(ArrayBroken, match=f"at byte {data.index(0xFF)}"):
        list(elements(io.BytesIO(data)))


@pytest.mark.parametrize("between", [",\n", ","])
def test_a_long_array_passes_through_a_few_stretches(tmp_path: Path, between: str) -> None:
    file = tmp_path / "long.json"
    with file.open("w") as out:
        out.write("[" + between.join(json.dumps({"n": n, "said": "x" * 1000}) for n in range(20_000)) + "]")
    assert file.stat().st_size > 20_000_000
    tracemalloc.start()
    try:
        count = sum(1 for _ in open_rows(file).stream)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 20_000
    assert peak < 8_000_000, f"{peak} bytes for an array of 20 MB"


def test_an_element_without_an_end_is_not_read_to_the_end_of_the_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(json_array, "CHUNK", 64)
    monkeypatch.setattr(json_array, "LARGEST", 256)

    class Counted(io.BytesIO):
        taken = 0

        def read(self, size: int | None = -1, /) -> bytes:
            got = super().read(size)
            Counted.taken += len(got)
            return got

    with pytest.raises(ArrayBroken):
        list(elements(Counted(b'[{"a": "' + b"x" * 100_000)))
    assert Counted.taken < 2000


@pytest.mark.parametrize("name", ["t.jsonl", "t.json", "t.txt", "t.jsonl.gz"])
def test_lines_are_rows_whatever_the_ending(tmp_path: Path, name: str) -> None:
    file = written(tmp_path / name, '\ufeff{"a": 1}\n\n{"a": 2}\n[3]\n{"a":\n')
    rows = open_rows(file)
    found = list(rows.stream)
    assert found[:3] == [Row(1, "1", {"a": 1}), Row(3, "3", {"a": 2}), Row(4, "4", [3])]
    assert isinstance(found[3].value, BadRow)
    assert found[3].value.kind == "bad JSON"
    assert rows.where(3) == f"{file}:3"


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("key", ["data", "Data"])
def test_an_object_that_holds_the_rows_is_unwrapped(tmp_path: Path, indent: int | None, key: str) -> None:
    file = written(tmp_path / "t.json", json.dumps({"version": "1.1", key: MADE}, indent=indent))
    found = list(open_rows(file).stream)
    assert [row.value for row in found] == MADE
    assert found[4].place == "row 5"


def test_one_object_alone_is_one_row(tmp_path: Path) -> None:
    assert values(written(tmp_path / "t.json", '{"data": "x"}')) == [{"data": "x"}]
    assert values(written(tmp_path / "u.json", '{\n "a": 1\n}\n')) == [{"a": 1}]


def test_a_broken_document_names_its_line(tmp_path: Path) -> None:
    (row,) = open_rows(written(tmp_path / "t.json", '{\n "a": 1,\n "b": }\n')).stream
    assert isinstance(row.value, BadRow)
    assert (row.place, row.value.final) == ("3", True)


def test_a_csv_may_be_gzipped_or_without_a_header(tmp_path: Path) -> None:
    file = written(tmp_path / "t.csv.gz", 'q,a\n"x\ny",1\nz,\n')
    assert values(file) == [{"q": "x\ny", "a": "1"}, {"q": "z", "a": None}]
    plain = written(tmp_path / "t.csv", "x,1\ny,2\n")
    found = list(open_rows(plain, header=lambda record: ("q", "a") if record == ["x", "1"] else None).stream)
    assert found == [Row(1, "1", {"q": "x", "a": "1"}), Row(2, "2", {"q": "y", "a": "2"})]


def test_what_is_no_table_is_refused_by_its_name(tmp_path: Path) -> None:
    sheet = written(tmp_path / "t.xlsx", "PK")
    with pytest.raises(ConfigError, match=r"got the ending \.xlsx, needs one of \.json, \.jsonl"):
        open_rows(sheet)
    with pytest.raises(ConfigError, match="no such file"):
        open_rows(tmp_path / "absent.csv")
    with pytest.raises(DataError, match="not a Parquet file"):
        open_rows(written(tmp_path / "t.parquet", "PK"))
    with pytest.raises(DataError, match=r"t\.csv:1: got the column `a` twice"):
        open_rows(written(tmp_path / "t.csv", "a,a\n"))


def test_random_arrays_are_what_the_library_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = random.Random(0)

    def made(depth: int) -> Any:
        kinds = [lambda: draw.random() * 10 ** draw.randrange(-5, 5), lambda: draw.randrange(-99, 99), lambda: None]
        kinds += [lambda: "".join(draw.choices('a"\\é\n]},{[', k=draw.randrange(9)))]
        if depth:
            kinds += [lambda: [made(depth - 1) for _ in range(draw.randrange(4))]]
            kinds += [lambda: {str(i): made(depth - 1) for i in range(draw.randrange(4))}]
        return draw.choice(kinds)()

    for _ in range(200):
        monkeypatch.setattr(json_array, "CHUNK", draw.randrange(1, 40))
        whole = [made(3) for _ in range(draw.randrange(6))]
        text = json.dumps(whole, ensure_ascii=draw.random() < 0.5, indent=draw.choice([None, 1]))
        assert [value for _, value in elements(io.BytesIO(text.encode()))] == whole
