"""Steps of the table's sizes against those of a40b5d5, which had one verb for sampling and gradients."""

from __future__ import annotations

import os
import tempfile
from dataclasses import asdict, astuple, replace
from pathlib import Path

from benchmarks.another_commit import BASE, in_turns
from benchmarks.measure import Figure, Measured, Target, ratios
from benchmarks.scale import Scale

FIGURES = ("old_steps", "old_steps_zoo", "old_steps_ray", "old_steps_ray_zoo")
_PROGRAM = Path(__file__).with_name("whole_step.py")
_LARGE, _ZOO = Target(1.05), Target(1.15)


def measure(scale: Scale, threads: int) -> Measured:
    """The large candidate with `threads`, the zoo with one; on Ray scoring is a round trip of its own."""
    base = Path(os.environ[BASE])
    half = replace(scale.alone, questions=scale.alone.questions // 2)
    figures, seconds = [], {}
    with tempfile.TemporaryDirectory() as folder:
        large = scale.large.save(Path(folder))
        for where, place in (("local", ""), ("ray", "_ray")):
            for kind, subject, size, of, rounds, target in (
                ("", large, half, threads, scale.slow_rounds, _LARGE),
                ("_zoo", "zoo", scale.pool, 1, 2 * scale.rounds, _ZOO),
            ):
                taken = in_turns(base, _PROGRAM, (where, subject, *astuple(size), of), rounds)
                name = f"old_steps{place}{kind}"
                what = f"step time, this commit / a40b5d5, {'zoo of three' if kind else 'large candidate'}, {where}"
                figures.append(Figure(name, what, ratios(taken["here"], taken["base"]), target))
                seconds |= {f"{name} {tree}": values for tree, values in taken.items()}
    settings = {"large": asdict(half), "zoo": asdict(scale.pool), "threads": threads, "zoo_threads": 1}
    return Measured(tuple(figures), seconds, settings)
