"""Run the benchmarks: `python -m benchmarks [--all | --only NAME] [--quick]`."""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from transformers.utils import logging as transformers_logging

from benchmarks import (
    broker,
    candidate,
    fair_share,
    gpu_decode,
    many_workers,
    old_steps,
    pool_bytes,
    pool_sharing,
    ray_overhead,
    references,
    rivals,
    serving,
    sharing,
    startup,
    step_scaling,
)
from benchmarks.another_commit import BASE
from benchmarks.circumstances import circumstances
from benchmarks.measure import Figure, Measured
from benchmarks.scale import FULL, QUICK, Scale
from benchmarks.table import page

Benchmark = tuple[tuple[str, ...], Callable[[Scale, int], Measured]]
"""The names of its figures, and what measures them."""

BENCHMARKS: dict[str, Benchmark] = {
    "candidate": (candidate.FIGURES, candidate.measure),
    "rivals": (rivals.FIGURES, rivals.measure),
    "references": (references.FIGURES, references.measure),
    "step_scaling": (step_scaling.FIGURES, step_scaling.measure),
    "ray_overhead": (ray_overhead.FIGURES, ray_overhead.measure),
    "fair_share": (fair_share.FIGURES, fair_share.measure),
    "pool_sharing": (pool_sharing.FIGURES, pool_sharing.measure),
    "sharing": (sharing.FIGURES, sharing.measure),
    "gpu_decode": (gpu_decode.FIGURES, gpu_decode.measure),
}
REHEARSALS: dict[str, Benchmark] = {
    "broker": (broker.FIGURES, broker.measure),
    "pool_bytes": (pool_bytes.FIGURES, pool_bytes.measure),
    "many_workers": (many_workers.FIGURES, many_workers.measure),
    "old_steps": (old_steps.FIGURES, old_steps.measure),
    "startup": (startup.FIGURES, startup.measure),
    "serving": (serving.FIGURES, serving.measure),
}
"""Of what a cluster has and this machine has not; beside those of `make bench`."""
RESULTS = Path(__file__).parent / "results"


def main() -> None:
    arguments = _arguments()
    transformers_logging.disable_progress_bar()
    scale, began, where = QUICK if arguments.quick else FULL, time.perf_counter(), circumstances()
    found: dict[str, Measured] = {}
    for name, (_, measure) in chosen(arguments.all, arguments.only or ()).items():
        if measure is gpu_decode.measure and not (arguments.quick or torch.cuda.is_available()):
            print(f"{name}: left out, torch finds no CUDA device")
        elif measure in (startup.measure, old_steps.measure) and not os.environ.get(BASE):
            print(f"{name}: left out, {BASE} names no worktree of a40b5d5 to compare with")
        else:
            started = time.perf_counter()
            found[name] = measure(scale, arguments.threads)
            print(f"{name}: {time.perf_counter() - started:.0f} s", flush=True)
    minutes = round((time.perf_counter() - began) / 60, 1)
    where |= {"threads": arguments.threads, "seed": 0, "quick": arguments.quick, "minutes": minutes}
    rows = [figure for measured in found.values() for figure in measured.figures]
    print(page(rows, where))
    out = arguments.out
    if out is None and not (arguments.only or arguments.quick):
        out = RESULTS / f"{where['commit']}.json"
    if out is not None:
        write(out, found, rows, where)


def chosen(everything: bool, only: Sequence[str]) -> dict[str, Benchmark]:
    """Benchmarks that were asked for, by their names or those of their figures."""
    if only:
        there = BENCHMARKS | REHEARSALS
        return {name: found for name, found in there.items() if {name, *found[0]} & set(only)}
    return BENCHMARKS | REHEARSALS if everything else BENCHMARKS


def write(out: Path, found: dict[str, Measured], rows: list[Figure], where: dict[str, object]) -> None:
    """Everything as JSON, and the table beside it where nothing was left out."""
    out.parent.mkdir(parents=True, exist_ok=True)
    everything = {"circumstances": where, "benchmarks": {name: m.to_json() for name, m in found.items()}}
    out.write_text(json.dumps(everything, indent=1) + "\n")
    print(f"written: {out}")
    if BENCHMARKS.keys() - {"gpu_decode"} <= found.keys():
        out.with_name("table.md").write_text(page(rows, where))
        print(f"written: {out.with_name('table.md')}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Ratios measured in one run.")
    there = BENCHMARKS | REHEARSALS
    names = sorted({name for key, (figures, _) in there.items() for name in (key, *figures)})
    parser.add_argument("--all", action="store_true", help="the rehearsals of scale too")
    parser.add_argument("--only", action="append", choices=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--quick", action="store_true", help="small shapes: does it run, in a minute")
    parser.add_argument("--threads", type=int, default=2, help="of torch, where the large candidate runs (2)")
    parser.add_argument("--out", type=Path, help="JSON to write; by default results/COMMIT.json for a full run")
    return parser.parse_args()


if __name__ == "__main__":
    main()
