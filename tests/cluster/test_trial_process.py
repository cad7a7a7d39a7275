"""A trial's own process: what it imports while it trains, and that its router goes on to the next trial."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import ray
from experiments import tiny_experiment

from haps_search.records.jsonl import read_records

pytestmark = pytest.mark.ray
HEAVY = {"torch", "transformers", "sklearn"}


def trial_process() -> Any:
    """Its class has no name by which another process, which has no tests on its path, would import it."""

    class TrialProcess:
        """Runs trials as Tune would, but for Tune."""

        def run(self, config: dict[str, Any]) -> None:
            from haps_search.engines.cluster import trial

            trial._report = lambda step, metrics: None
            trial.run_trial(config)

        def imported(self, names: set[str]) -> set[str]:
            import sys

            return names & set(sys.modules)

        def router(self) -> str:
            from haps_search.engines.cluster import trial

            ((_, router),) = trial._routers
            return str(router._actor_id)

    return ray.remote(TrialProcess).options(num_cpus=0).remote()


def test_a_trial_needs_no_torch_and_leaves_its_router_to_the_next(
    tiny_lms: dict[str, Path], tmp_path: Path, on_ray: Any
) -> None:
    experiment = tiny_experiment(tiny_lms, run__steps=2, run__checkpoint_every=1, run__validation={"every": 2})
    other = tiny_experiment(
        tiny_lms, run__steps=2, run__seed=1, run__validation={"every": 2}, routing__lora={"rank": 2}
    )
    with on_ray(experiment) as live:
        process = trial_process()
        routers = []
        for number, each in enumerate((experiment, other, experiment)):
            config = {
                "number": number, "experiment": each.model_dump(mode="json"), "store": None,
                "folder": str(tmp_path / "trials" / f"{number:03d}"), "namespace": live.namespace,
                "profile": live.profile.model_dump(mode="json"),
            }  # fmt: skip
            ray.get(process.run.remote(config))
            routers.append(ray.get(process.router.remote()))
        assert len(set(routers)) == 1
        assert ray.get(process.imported.remote(HEAVY)) == set()
        ray.kill(process)
    first, second, again = (read_records(tmp_path / f"trials/{n:03d}/metrics.jsonl") for n in range(3))
    assert [r.step for r in first] == [1, 2]
    assert first[-1].metrics["reward"] == again[-1].metrics["reward"]
    norms = [records[-1].metrics["adapter_norm"] for records in (first, second, again)]
    assert norms[0] == pytest.approx(norms[2], rel=1e-9)
    assert norms[1] != norms[0]
