"""Playing a table on either engine, and putting it together."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from haps_search.cli.counting import counting
from haps_search.cli.display import wide_console
from haps_search.config.engines import LocalEngineConfig
from haps_search.config.sweep import Study
from haps_search.episodes.play import Sample
from haps_search.records.parts import Parts, same_plan
from haps_search.search.collect import Collection, collect, collection, merge
from haps_search.sweep.lock import Lock
from haps_search.tasks.build import build_task
from haps_search.tasks.outcomes import plan_of
from haps_search.tasks.task import Task
from haps_search.types import Sampled, SampleRequest, Split


def collect_table(study: Study, table: Path, split: Split, samples: int, limit: int | None, chunk: int) -> None:
    """From what is there to the whole table. Safe to kill at any moment and to call again.

    Raises:
        ConfigError: a table or parts of another configuration, or another process at work on it.
    """
    console, task = wide_console(), build_task(study.experiment.task)
    wanted = collection(study.experiment, task, split, samples, limit, chunk)
    plan = wanted.plan()
    if table.exists():
        same_plan(table, plan_of(table), plan)
    parts = Parts(table, plan, wanted.chunks)
    lock = Lock(parts.folder / "lock")
    try:
        if table.exists():
            parts.discard()
            console.print(f"{table} is there already", highlight=False, soft_wrap=True)
            return
        _play(study, task, wanted, parts, console)
        merge(wanted, parts)
    finally:
        lock.release()
    rows = wanted.episodes(range(wanted.chunks))
    console.print(f"{rows} episodes in {table}", highlight=False, soft_wrap=True)
    console.print(f"next  haps warmup FILE --table {table}", highlight=False, soft_wrap=True)


def _play(study: Study, task: Task, wanted: Collection, parts: Parts, console: Console) -> None:
    missing = parts.missing()
    total = wanted.episodes(range(wanted.chunks))
    done = total - wanted.episodes(missing)
    console.print(
        f"{len(wanted.questions)} questions of {wanted.split} x {len(wanted.assignments)} assignments x "
        f"{wanted.samples} {'greedy episode' if wanted.samples == 1 else 'sampled episodes'}"
        + (f", {done} episodes are there" if done else ""),
        highlight=False,
        soft_wrap=True,
    )
    if not missing:
        return
    local = isinstance(study.experiment.engine, LocalEngineConfig)
    opened = _local(study, task) if local else _on_ray(study, wanted, parts.folder / "logs")
    with opened as sample, counting(console, "episodes", done, total) as advance:
        asyncio.run(collect(sample, task, wanted, parts, advance))


@contextmanager
def _local(study: Study, task: Task) -> Iterator[Sample]:
    from haps_search.engines.local import load_candidates

    candidates = load_candidates(study.experiment, task)

    async def sample(candidate: str, requests: Sequence[SampleRequest]) -> list[Sampled]:
        return candidates[candidate].sample(requests)

    yield sample


@contextmanager
def _on_ray(study: Study, wanted: Collection, logs: Path) -> Iterator[Sample]:
    from haps_search.cli.drive import profile_of
    from haps_search.cli.logs import log_to
    from haps_search.engines.cluster.remote_candidates import RemoteCandidates
    from haps_search.engines.cluster.session import session

    profile = profile_of(study)
    log_to(logs / "driver.log")
    with session(study.name, study.experiment.candidates, profile, logs) as live:
        live.wait_for_candidates()
        candidates = RemoteCandidates(live.broker, profile)
        try:
            yield candidates.sample
        finally:
            candidates.leave()
