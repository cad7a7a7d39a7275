"""The only worker of a candidate frozen for good: it is ended on its node, and Train replaces it."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
from experiments import tiny_experiment
from patience import wait_for

from haps_search.types import Message, SampleRequest, Sampling

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def test_the_only_worker_of_a_candidate_that_hangs_is_ended_and_replaced(
    tiny_lms: Any, on_ray: Callable[..., AbstractContextManager[Any]]
) -> None:
    experiment = tiny_experiment(tiny_lms)
    request = [SampleRequest((Message("user", "a question"),), Sampling(4))]
    with on_ray(experiment, leases={"deadline_s": 10}, worker_start_timeout_s=900) as live:
        live.wait_for_candidates()

        async def story() -> tuple[Any, Any]:
            engine = await live.engine(experiment)
            try:
                before = await engine.sample("llama", request)
                os.kill(frozen[0], signal.SIGSTOP)
                return before, await engine.sample("llama", request)
            finally:
                await engine.close()

        frozen = [w["pid"] for w in live.status()["workers"].values() if w["candidate"] == "llama"]
        before, after = asyncio.run(story())
        assert [s.text for s in after] == [s.text for s in before], "asked again, and answered by another"
        wait_for(lambda: not os.path.exists(f"/proc/{frozen[0]}"), "the frozen process is still there")
        workers = [w for w in live.status()["workers"].values() if w["candidate"] == "llama" and w["pid"] not in frozen]
        assert len(workers) == 1
        assert live.status()["ended"] is None
