"""Whole steps of one trial, in this process or on a Ray of its own.

Run as a program by another commit's interpreter, in that commit's folder, so that both take turns in one run: it needs
nothing of this package that a40b5d5 has not.

    python benchmarks/whole_step.py WHERE FOLDER Q G PROMPT NEW THREADS

WHERE is local or ray; FOLDER has the large candidate, or is `zoo`. Then a line with a number for every step.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.on_ray import engines, opened, resources
from benchmarks.scale import Size
from benchmarks.subjects import Subject, babbling, zoo
from haps_search.engines.local import LocalEngine


@contextmanager
def _engine(where: str, subject: Subject, threads: int) -> Iterator[Any]:
    if where == "local":
        yield LocalEngine.build(subject.experiment, subject.task)
        return
    with opened(subject.experiment, **resources(threads)) as live:
        (engine,) = asyncio.run(engines(live, [subject.experiment]))
        yield engine
        asyncio.run(engine.close())


def main() -> None:
    where, folder, *numbers = sys.argv[1:]
    *sizes, threads = map(int, numbers)
    size = Size(*sizes)
    subject = zoo(size) if folder == "zoo" else babbling(Path(folder), ["lm"], size, threads)
    with _engine(where, subject, threads) as engine:
        print(json.dumps({"ready": True}), flush=True)
        for line in sys.stdin:
            began = time.perf_counter()
            subject.step(engine, int(line))
            print(json.dumps({"seconds": time.perf_counter() - began}), flush=True)


if __name__ == "__main__":
    main()
