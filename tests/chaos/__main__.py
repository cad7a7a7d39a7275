"""python -m chaos [--minutes 10] [--seed 0] [--faults a,b] [--out FILE] [--keep FOLDER]."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from random import Random
from typing import Any

from processes import left_over

from benchmarks.circumstances import circumstances
from chaos.again import differences
from chaos.faults import FAULTS, Scene
from chaos.play import Play, Say, Stuck
from chaos.points import mlflow_problems, retold
from chaos.reading import logged
from chaos.reconcile import sweep_problems
from chaos.stage import Stage
from chaos.witness import table, tolls
from haps_search.sweep.journal import Journal

SHOWN = 50


def main() -> int:
    options = _options()
    folder = Path(tempfile.mkdtemp(prefix="hs", dir="/tmp"))  # short: unix sockets allow about 100 characters
    where, began = circumstances(), time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - began:7.1f} s  {text}", flush=True)

    say(f"in {folder}: starting Ray and MLflow")
    stage = Stage(folder, options.seed)
    try:
        stage.start()
        play = Play(Scene(stage, Random(options.seed)), options.faults, say)
        problems = [*_played(play, 60 * options.minutes), *play.scene.problems, *_reckoning(play.scene, say)]
    finally:
        stage.end()
        if options.keep:
            shutil.copytree(folder, options.keep, dirs_exist_ok=True, ignore=shutil.ignore_patterns("ray", "token"))
    problems += [f"a process was left over: {pid} {name}" for pid, name in left_over(folder).items()]
    shutil.rmtree(folder, ignore_errors=True)
    _conclude(options, where, play, problems)
    return 1 if problems else 0


def _played(play: Play, seconds: float) -> list[str]:
    try:
        play.run(seconds)
        play.finish()
    except (Stuck, TimeoutError) as error:
        return [str(error)]
    return []


def _reckoning(scene: Scene, say: Say) -> list[str]:
    """Every sweep, by its folder, by MLflow, and one trial of each by the same run without faults."""
    found: list[str] = []
    stage = scene.stage
    for name in stage.sweeps:
        sweep, runs = stage.runs / name, logged(stage.server.uri, name)
        deadly = {scene.deadly[name]} if name in scene.deadly else ()
        problems = [*sweep_problems(sweep, deadly), *mlflow_problems(sweep, runs)]
        problems += differences(sweep, stage.folder / "again" / name)
        attempts = [trial.attempts for trial in Journal(sweep).trials()]
        say(f"{name}: attempts {attempts}, {retold(sweep, runs)} steps as MLflow heard first, {_count(problems)}")
        found += problems
    return found


def _count(problems: list[str]) -> str:
    return f"{len(problems)} problems" if problems else "all there once"


def _conclude(options: argparse.Namespace, where: dict[str, Any], play: Play, problems: list[str]) -> None:
    rows = tolls(play.faults, play.witness.sightings, play.resumes)
    print(f"\n{table(rows)}\n")
    for problem in problems[:SHOWN]:
        print(f"NOT RECONCILED  {problem}")
    again = sum(sighting.again for sighting in play.witness.sightings)
    sweeps = len(play.scene.stage.sweeps)
    print(f"{len(play.faults)} faults, {sweeps} sweeps, {again} steps done again, {_count(problems)}")
    if options.out:
        asked = {"seed": options.seed, "minutes": options.minutes, "faults": len(play.faults), "sweeps": sweeps}
        figures = {**where, **asked, "steps_again": again, "problems": problems, "table": [asdict(row) for row in rows]}
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(figures, indent=1) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--faults", default=",".join(FAULTS), help=f"of {', '.join(FAULTS)}")
    parser.add_argument("--out", type=Path, help="write the table as JSON")
    parser.add_argument("--keep", type=Path, help="copy runs and logs there")
    options = parser.parse_args()
    options.faults = options.faults.split(",")
    unknown = sorted(set(options.faults) - set(FAULTS))
    if unknown:
        parser.error(f"--faults: no {', '.join(unknown)}; there are {', '.join(FAULTS)}")
    return options


if __name__ == "__main__":
    sys.exit(main())
