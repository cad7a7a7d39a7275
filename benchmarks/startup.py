"""What a sweep takes before it learns: seconds of CPU of all its processes from the command to the first step, and from
the end of a trial to the first step of the next one. This commit and a40b5d5 in turns, each by its own command line."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml

from benchmarks.another_commit import BASE
from benchmarks.measure import Figure, Measured, Target, ratios
from benchmarks.scale import Scale

FIGURES = ("startup_first", "startup_next")
_EVERY_S, _PATIENCE_S = 0.1, 1800.0
_HERE = Path(__file__).parents[1]


def measure(scale: Scale, threads: int) -> Measured:
    """The embedded study with its three candidates, one trial at a time and two steps each, MLflow and all. What a plan
    works out once per study is there already, as for a user's second sweep."""
    base = os.environ[BASE]
    found: dict[str, list[_Began]] = {"here": [], "base": []}
    with tempfile.TemporaryDirectory() as cache:
        for number in range(scale.slow_rounds + 1):
            for name, tree, python in (
                ("here", _HERE, Path(sys.executable)), ("base", Path(base), Path(base) / ".venv/bin/python"),
            ):  # fmt: skip
                if number:
                    found[name].append(_sweep(tree, python, Path(cache) / name))
                else:
                    _planned(tree, python, Path(cache) / name)
    first = {name: [each.first for each in rounds] for name, rounds in found.items()}
    following = {name: [each.next for each in rounds] for name, rounds in found.items()}
    figures = (
        Figure(
            "startup_first", "CPU from the command to the first step, three candidates, this commit / a40b5d5",
            ratios(first["here"], first["base"]), Target(0.5),
        ),
        Figure(
            "startup_next", "CPU from a trial's end to the next one's first step, this commit / a40b5d5",
            ratios(following["here"], following["base"]), Target(0.2),
        ),
    )  # fmt: skip
    settings = {name: [asdict(each) for each in rounds] for name, rounds in found.items()}
    taken = {"first": first, "next": following}
    seconds = {f"{what}, {name}": values[name] for what, values in taken.items() for name in found}
    return Measured(figures, seconds, settings)


@dataclass(frozen=True, slots=True)
class _Began:
    """Of one sweep, in seconds of CPU; `wall` until its first step, `by_process` what took most until then."""

    first: float
    next: float
    wall: float
    by_process: tuple[tuple[str, float], ...]


def _sweep(tree: Path, python: Path, cache: Path) -> _Began:
    with tempfile.TemporaryDirectory(prefix="hs", dir="/tmp") as short:  # for Ray's sockets
        folder = Path(short)
        (folder / "ray").mkdir()
        (folder / "study.yaml").write_text(yaml.safe_dump(_study(tree)))
        with _driven(tree, python, folder, cache) as process:
            return _watched(process, folder / "runs" / "s" / "trials", folder / "printed.log")


def _study(tree: Path) -> dict[str, Any]:
    study: dict[str, Any] = yaml.safe_load((tree / "search_spaces" / "skills.yaml").read_text())
    small = {"steps": 2, "questions_per_step": 4, "checkpoint_every": 2, "validation": {"every": 2, "questions": 4}}
    study["experiment"]["run"] |= small
    study["sweep"] |= {"trials": 2, "concurrency": 1, "comparison": False, "sampler": {"type": "random"}}
    study["sweep"].pop("scheduler", None)
    return study


def _planned(tree: Path, python: Path, cache: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "study.yaml").write_text(yaml.safe_dump(_study(tree)))
        command = [str(python), "-m", "haps_search.cli.main", "plan", "study.yaml"]
        subprocess.run(
            command, cwd=folder, env=_environment(tree, Path(folder), cache), check=True, capture_output=True
        )


def _environment(tree: Path, folder: Path, cache: Path) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("RAY_") and k != "PYTHONPATH"}
    own = {"RAY_TMPDIR": str(folder), "RAY_USAGE_STATS_ENABLED": "0", "HAPS_CACHE": str(cache), "PYTHONPATH": str(tree)}
    return kept | own


@contextmanager
def _driven(tree: Path, python: Path, folder: Path, cache: Path) -> Iterator[psutil.Popen]:
    """`haps sweep` by a worktree's own interpreter, ended with all that it started."""
    command = [str(python), "-m", "haps_search.cli.main", "sweep", "study.yaml", "--name", "s"]
    with (folder / "printed.log").open("w") as printed:
        environment = _environment(tree, folder, cache)
        process = psutil.Popen(command, cwd=folder, env=environment, stdout=printed, stderr=printed)
        try:
            yield process
            process.wait(_PATIENCE_S)
        finally:
            for each in [*_family(process), process]:
                _ended(each)


def _watched(process: psutil.Popen, trials: Path, printed: Path) -> _Began:
    """Looks at the sweep's files, which say what has happened; a process that ended counts as it was last seen."""
    clock, began = _Clock(process), time.monotonic()
    marks: list[float] = []
    wanted = [trials / "000/metrics.jsonl", trials / "000/result.json", trials / "001/metrics.jsonl"]
    first: tuple[float, tuple[tuple[str, float], ...]] | None = None
    while len(marks) < len(wanted):
        clock.look()
        if wanted[len(marks)].exists() and wanted[len(marks)].stat().st_size:
            marks.append(clock.total)
            first = first or (time.monotonic() - began, clock.most(12))
        elif process.poll() is not None or time.monotonic() - began > _PATIENCE_S:
            raise RuntimeError(f"the sweep got no further than {marks}:\n{printed.read_text()[-3000:]}")
        time.sleep(_EVERY_S)
    assert first is not None
    return _Began(marks[0], marks[2] - marks[1], *first)


class _Clock:
    """Seconds of CPU of a process and all its descendants, those that ended too."""

    def __init__(self, process: psutil.Popen) -> None:
        self._process = process
        self._seconds: dict[tuple[int, float], tuple[str, float]] = {}

    @property
    def total(self) -> float:
        return sum(seconds for _, seconds in self._seconds.values())

    def most(self, count: int) -> tuple[tuple[str, float], ...]:
        return tuple(sorted(self._seconds.values(), key=lambda each: -each[1])[:count])

    def look(self) -> None:
        for each in [self._process, *_family(self._process)]:
            try:
                with each.oneshot():
                    times, name = each.cpu_times(), " ".join(each.cmdline()[:1])
                    self._seconds[each.pid, each.create_time()] = (
                        Path(name.split()[0] if name else "").name,
                        (times.user + times.system),
                    )
            except psutil.Error:
                continue


def _family(process: psutil.Process) -> list[psutil.Process]:
    try:
        found: list[psutil.Process] = process.children(recursive=True)
    except psutil.Error:
        return []
    return found


def _ended(process: psutil.Process) -> None:
    with suppress(psutil.Error):
        process.kill()
