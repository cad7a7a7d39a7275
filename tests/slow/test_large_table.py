"""A table much larger than what is kept of it is read in bounded memory."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytestmark = pytest.mark.slow
QUESTIONS, SAID = 20_000, "x" * 10_000
FIELDS = ("id", "text", "model", "score", "said")
READ = """
import resource, sys
import haps_search.tasks.tables.reading as tables
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = peak()
table = tables.read_table(sys.argv[1])
print(len(table.questions), (peak() - before) // 1024)
"""


def rows() -> Iterator[dict[str, object]]:
    """200 MB, nearly all of it in a column that no layout asks for."""
    for i in range(QUESTIONS):
        yield {"id": f"q{i // 2}", "text": f"question {i // 2}", "model": "xy"[i % 2], "score": 0.5, "said": SAID}


def write(path: Path) -> None:
    if path.suffix == ".jsonl":
        with path.open("w") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows())
    elif path.suffix == ".json":
        with path.open("w") as file:
            file.writelines(f"{',' if n else '['}{json.dumps(row)}" for n, row in enumerate(rows()))
            file.write("]")
    elif path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, FIELDS)
            writer.writeheader()
            writer.writerows(rows())
    else:
        table = pa.Table.from_pylist(list(rows()))
        pq.write_table(table, path, compression="none", use_dictionary=False, row_group_size=1000)


@pytest.mark.parametrize("name", ["t.jsonl", "t.json", "t.csv", "t.parquet"])
def test_two_hundred_megabytes_pass_through_forty(tmp_path: Path, name: str) -> None:
    write(tmp_path / name)
    assert (tmp_path / name).stat().st_size > 190_000_000
    done = subprocess.run(
        [sys.executable, "-c", READ, str(tmp_path / name)], capture_output=True, text=True, check=True
    )
    questions, grown = map(int, done.stdout.split())
    assert questions == QUESTIONS // 2
    assert grown < 40, f"{grown} MB more for a table of about five"
