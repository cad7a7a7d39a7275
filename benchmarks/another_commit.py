"""A program on this tree's code and on another commit's, in turns within one run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.measure import interleaved

BASE = "HAPS_BENCH_BASE"
"""Names a worktree of a40b5d5 with its own .venv."""
_HERE = Path(__file__).parents[1]


def in_turns(base: Path, program: Path, arguments: Sequence[object], rounds: int) -> dict[str, list[float]]:
    """Seconds of every step `here` and at `base`. The program prints a line of JSON once it is ready, takes a line with
    a number for every step, and then prints one with its `seconds`; it imports nothing that `base` has not.
    """
    with (
        _running(_HERE, Path(sys.executable), program, arguments) as here,
        _running(base, base / ".venv/bin/python", program, arguments) as there,
    ):
        return interleaved({"here": here, "base": there}, rounds)


@contextmanager
def _running(tree: Path, python: Path, program: Path, arguments: Sequence[object]) -> Iterator[Callable[[int], float]]:
    with tempfile.TemporaryDirectory(prefix="hs", dir="/tmp") as folder:  # short, for Ray's sockets
        (Path(folder) / "ray").mkdir()
        own = {"PYTHONPATH": str(tree), "RAY_TMPDIR": folder, "RAY_USAGE_STATS_ENABLED": "0"}
        kept: Mapping[str, str] = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
        process = subprocess.Popen(
            [str(part) for part in (python, program, *arguments)], cwd=tree, env={**kept, **own},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

        def step(number: int) -> float:
            assert process.stdin is not None
            process.stdin.write(f"{number}\n")
            process.stdin.flush()
            return float(_said(process)["seconds"])

        try:
            _said(process)
            yield step
        finally:
            process.communicate(timeout=120)


def _said(process: subprocess.Popen[str]) -> dict[str, Any]:
    """The next line of JSON; libraries print others between."""
    assert process.stdout is not None
    while line := process.stdout.readline():
        if line.startswith("{"):
            told: dict[str, Any] = json.loads(line)
            return told
    raise RuntimeError(f"{process.args} ended with {process.wait()}")
