"""`make chaos` in short: a few faults, and everything there once afterwards."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from processes import completed

pytestmark = [pytest.mark.ray, pytest.mark.slow]
ROOT = Path(__file__).parents[2]
KINDS = "driver-killed,worker-killed,mlflow-killed"


def test_a_sweep_under_faults_loses_nothing_and_has_nothing_twice(tmp_path: Path) -> None:
    out = tmp_path / "chaos.json"
    command = [sys.executable, "-m", "chaos", "--minutes", "1.5", "--seed", "0", "--faults", KINDS, "--out", str(out)]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'tests'}{os.pathsep}{ROOT}"}
    done = completed(command, ROOT, environment)
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(out.read_text())
    assert told["problems"] == []
    assert told["faults"] > 0, "nothing was broken, so nothing was tested"
    assert {row["kind"] for row in told["table"]} <= set(KINDS.split(","))
