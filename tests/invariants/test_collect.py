"""`haps collect` killed with -9 and started again is `haps collect`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from patience import growth, wait_for
from typer.testing import CliRunner

from haps_search.cli.main import app
from haps_search.errors import ConfigError

QUESTIONS, CHUNKS = 40, 20
NAMES = ("adder", "reverser", "sorter")


@pytest.fixture
def study(tmp_path: Path) -> Path:
    described = {
        "name": "kill",
        "experiment": {
            "task": {"type": "skills"},
            "candidates": [{"name": n, "source": {"type": "zoo", "name": n}, "device": "cpu"} for n in NAMES],
            "routing": {"prompt": "question", "backbone": {"device": "cpu"}},
            "run": {"sampling": {"max_new_tokens": 8}, "questions_per_step": 16},
            "engine": {"type": "local", "threads": 1},
        },
        "tracking": {"mlflow": False},
    }
    file = tmp_path / "kill.yaml"
    file.write_text(yaml.safe_dump(described))
    return file


def arguments(study: Path, table: Path, *more: str) -> list[str]:
    return ["collect", str(study), "-o", str(table), "--limit", str(QUESTIONS), "--samples", "2", "--chunk", "2", *more]


def haps(*call: str) -> str:
    done = CliRunner().invoke(app, list(call), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def rows(table: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.read_table(table).to_pylist()
    return found


def killed_in_the_middle(study: Path, table: Path) -> int:
    """Parts on disk after kill -9, once some are there and others are not."""
    code = "import sys; from haps_search.cli.main import main; sys.argv[0] = 'haps'; main()"
    process = subprocess.Popen([sys.executable, "-c", code, *arguments(study, table)], stdout=subprocess.DEVNULL)
    parts = table.with_name(f"{table.name}.parts")
    three = lambda: len(list(parts.glob("part-??????"))) >= 3  # noqa: E731
    try:
        wait_for(three, "it never came to its middle", process, growth(parts), every_s=0.002)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == -9
    return len(list(parts.glob("part-??????")))


def test_killed_and_started_again_is_uninterrupted(study: Path, tmp_path: Path) -> None:
    table, whole = tmp_path / "table.parquet", tmp_path / "whole.parquet"
    there = killed_in_the_middle(study, table)
    assert 3 <= there < CHUNKS
    assert not table.exists()

    said = haps(*arguments(study, table))
    assert f"{there * 2 * 3 * 2} episodes are there" in said
    assert "240 episodes in" in said
    haps(*arguments(study, whole))

    questions = [f"train-{i}" for i in range(QUESTIONS)]
    wanted = [(q, json.dumps([name]), sample) for q in questions for name in NAMES for sample in range(2)]
    assert [(r["id"], r["assignment"], r["sample"]) for r in rows(table)] == wanted
    assert rows(table) == rows(whole)
    assert {r["reward"] for r in rows(table)} == {0.0, 1.0}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["kill.yaml", "table.parquet", "whole.parquet"]

    assert "is there already" in haps(*arguments(study, table))
    with pytest.raises(ConfigError, match="samples: stored 2, now 3"):
        haps(*arguments(study, table, "--samples", "3"))

    shown = haps("warmup", str(study), "--table", str(table), "--epochs", "1", "--runs", str(tmp_path / "runs"))
    assert "always " in shown
    assert "oracle" in shown
    assert "run.warm_start=kill-warmup" in shown
    assert len(json.loads((tmp_path / "runs" / "kill-warmup" / "warmup.json").read_text())["rows"]) == 5
