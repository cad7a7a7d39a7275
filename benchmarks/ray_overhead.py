"""What Ray costs a single trial: the same step on Ray and in one process."""

from __future__ import annotations

import asyncio
import tempfile
from dataclasses import asdict, replace
from pathlib import Path

from benchmarks.measure import Figure, Measured, Target, interleaved, ratios
from benchmarks.on_ray import Opened, engines, opened, resources
from benchmarks.scale import Scale
from benchmarks.subjects import Subject, babbling, zoo
from haps_search.engines.local import LocalEngine

FIGURES = ("ray_overhead", "ray_overhead_zoo")


def measure(scale: Scale, threads: int, open_session: Opened = opened) -> Measured:
    """The large candidate has `threads` on both sides; the zoo one thread in every process."""
    half = replace(scale.alone, questions=scale.alone.questions // 2)
    with tempfile.TemporaryDirectory() as folder:
        lm = babbling(scale.large.save(Path(folder)), ["lm"], half, threads)
        large = _seconds(lm, threads, scale.slow_rounds, open_session)
    tiny = _seconds(zoo(scale.pool), 1, scale.rounds, open_session)
    what = "step time on Ray / local engine, "
    figures = (
        Figure("ray_overhead", f"{what}large candidate", ratios(large["ray"], large["local"]), Target(1.10)),
        Figure("ray_overhead_zoo", f"{what}zoo of three", ratios(tiny["ray"], tiny["local"])),
    )
    seconds = {
        f"{name} {kind}": values for name, of in (("large", large), ("zoo", tiny)) for kind, values in of.items()
    }
    settings = {"large": asdict(half), "zoo": asdict(scale.pool), "threads": threads, "zoo_threads": 1}
    return Measured(figures, seconds, settings)


def _seconds(subject: Subject, threads: int, rounds: int, open_session: Opened) -> dict[str, list[float]]:
    local = LocalEngine.build(subject.experiment, subject.task)
    with open_session(subject.experiment, **resources(threads)) as live:
        (apart,) = asyncio.run(engines(live, [subject.experiment]))
        # One number for both: the same questions, seeds and texts.
        variants = {
            "local": lambda number: subject.step(local, number),
            "ray": lambda number: subject.step(apart, number),
        }
        found = interleaved(variants, rounds)
        asyncio.run(apart.close())
    return found
