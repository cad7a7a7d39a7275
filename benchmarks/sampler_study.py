"""What telling TPE the truth about stopped trials is worth: `python -m benchmarks.sampler_study [--quick]`.

On the embedded task, 12 short trials under ASHA: TPE that is told stopped trials as pruned, TPE that takes their last
value for a result, and random search, on 20 sweep seeds each; what counts is the winner's reward on seeds that the
search has not seen. The runs themselves are made once: a grid of settings on three seeds each, with all their curves,
kept in a file; a search then takes the curve of the grid point next to what was suggested. Sweep seeds share the
table, so intervals are over searches, not over fresh trainings.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from statistics import fmean
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from ray.tune.schedulers import TrialScheduler

from benchmarks.circumstances import circumstances
from haps_search.config.load import dump, parse_study, read_study
from haps_search.config.samplers import Asha
from haps_search.config.sweep import Study
from haps_search.engines.cluster.trial import METRICS
from haps_search.engines.local import LocalEngine
from haps_search.records.jsonl import read_records
from haps_search.records.run_folder import RunFolder
from haps_search.search.loop import run
from haps_search.sweep.events import TrialRecord
from haps_search.sweep.ranking import best_first
from haps_search.sweep.settings import Setting, experiment_of
from haps_search.sweep.suggestions import suggestion
from haps_search.sweep.tune import _JournalAsha
from haps_search.tasks.build import build_task

LOW, HIGH, RANK = "learning.learning_rate.low", "learning.learning_rate.high", "routing.lora.rank"
GRID: dict[str, tuple[float, ...]] = {
    LOW: (1e-4, 3e-4, 1e-3, 3e-3), HIGH: (3e-4, 1e-3, 3e-3), RANK: (2, 4, 8),
}  # fmt: skip
SEEDS = (0, 101, 102)
"""Of a run: the first is searched on, the others confirm."""
STEPS, EVERY, TRIALS, SWEEPS = 60, 10, 12, 20
REWARD = "validation_reward"
SAMPLERS: dict[str, dict[str, Any]] = {
    "tpe, stopped trials pruned": {"type": "tpe", "startup_trials": 4, "stopped": "pruned"},
    "tpe, stopped trials complete": {"type": "tpe", "startup_trials": 4, "stopped": "complete"},
    "random": {"type": "random"},
}
OUT = Path(__file__).parent / "results" / "sampler_study.json"
Curves = dict[str, dict[int, float]]
"""`key` of a grid point and a seed -> validation reward by step."""


def study(sampler: Mapping[str, Any], seed: int) -> Study:
    """The shipped study, short, over the ranges of the grid."""
    values = dump(read_study("skills"))
    values["experiment"]["run"] |= {"steps": STEPS, "questions_per_step": 16, "checkpoint_every": STEPS}
    values["experiment"]["run"]["validation"] |= {"every": EVERY, "questions": 100}
    values["experiment"]["engine"] = {"type": "local", "threads": 1}
    values["space"] = {
        **{name: {"type": "log", "low": GRID[name][0], "high": GRID[name][-1]} for name in (LOW, HIGH)},
        RANK: {"type": "choice", "values": list(GRID[RANK])},
    }
    scheduler = {"type": "asha", "grace_steps": 2 * EVERY, "reduction": 2.0}
    values["sweep"] |= {"trials": TRIALS, "sampler": dict(sampler), "scheduler": scheduler, "seed": seed}
    return parse_study(values)


def key(setting: Mapping[str, float], seed: int) -> str:
    return ", ".join([*(f"{name}={setting[name]:g}" for name in GRID), f"seed={seed}"])


def nearest(parameters: Mapping[str, Any]) -> dict[str, float]:
    """The grid point next to a setting, by ratio."""
    return {
        name: min(points, key=lambda p: abs(math.log(p / float(parameters[name])))) for name, points in GRID.items()
    }


def tabulate(file: Path, most: int | None) -> Curves:
    """The curves of all grid points on all seeds; what the file has is not run again."""
    curves: Curves = {}
    if file.exists():
        stored = json.loads(file.read_text())["curves"]
        curves = {name: {int(step): value for step, value in curve.items()} for name, curve in stored.items()}
    base = study(SAMPLERS["random"], 0)
    settings = [dict(zip(GRID, values, strict=True)) for values in product(*GRID.values())]
    wanted = [(s, seed) for s in settings for seed in SEEDS if key(s, seed) not in curves][:most]
    for done, (setting, seed) in enumerate(wanted, start=1):
        began = time.perf_counter()
        curves[key(setting, seed)] = played(base, {**setting, RANK: int(setting[RANK])}, seed)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"curves": curves}, indent=1) + "\n")
        print(f"{done} of {len(wanted)}: {time.perf_counter() - began:.1f} s", flush=True)
    return curves


def played(base: Study, parameters: Mapping[str, Any], seed: int) -> dict[int, float]:
    experiment = experiment_of(base, Setting(parameters, seed))

    async def play(folder: Path) -> None:
        task = build_task(experiment.task)
        engine = LocalEngine.build(experiment, task)
        try:
            await run(engine, task, experiment, RunFolder(folder, experiment))
        finally:
            await engine.close()

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(play(Path(folder)))
        records = read_records(Path(folder) / "metrics.jsonl")
    return {r.step: r.metrics[REWARD] for r in records if REWARD in r.metrics}


def search(sampler: Mapping[str, Any], seed: int, curves: Curves) -> tuple[float, int]:
    """The confirmed reward of a sweep's winner, and the steps that the sweep took."""
    own, trials, steps = study(sampler, seed), list[TrialRecord](), 0
    assert isinstance(own.sweep.scheduler, Asha)
    for number in range(TRIALS):
        parameters = suggestion(own, trials, number)
        assert parameters is not None
        trials.append(halved(own, trials, number, parameters, curves[key(nearest(parameters), SEEDS[0])]))
        steps += trials[-1].reports[-1][0]
    winner = nearest(best_first(own, trials)[0].parameters)
    return fmean(max(curves[key(winner, each)].values()) for each in SEEDS[1:]), steps


def halved(
    own: Study, past: Sequence[TrialRecord], number: int, parameters: Mapping[str, Any], curve: Mapping[int, float]
) -> TrialRecord:
    """The trial as ASHA lets it run, after those before it."""
    assert isinstance(own.sweep.scheduler, Asha)
    scheduler: Any = _JournalAsha(own.sweep.scheduler, own, past)
    config = {"number": number, "experiment": own.experiment.model_dump(mode="json")}
    trial = SimpleNamespace(trial_id=f"t{number}", config=config)
    scheduler.on_trial_add(None, trial)
    record = TrialRecord(number, parameters, 0, "search", "", "finished", attempts=1)
    for step, value in curve.items():
        record = replace(record, reports=(*record.reports, (step, {REWARD: value})))
        decision = scheduler.on_trial_result(None, trial, {"step": step, f"{METRICS}{REWARD}": value})
        if decision == TrialScheduler.STOP:
            return replace(record, state="stopped", metrics={REWARD: value})
    best = max(curve.values())  # a run's end has the metrics of its best step
    return replace(record, metrics={REWARD: best})


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """The mean with the 95 % interval of a bootstrap over sweep seeds."""
    draw = np.random.default_rng(0).choice(np.asarray(values), (10_000, len(values))).mean(1)
    low, high = np.quantile(draw, (0.025, 0.975))
    return fmean(values), float(low), float(high)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sampler_study", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two runs and made-up curves: does it run")
    parser.add_argument("--out", type=Path, default=OUT, help="JSON with the curves and what came of them")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    curves = tabulate(arguments.out, 2 if arguments.quick else None)
    if arguments.quick:
        curves = {
            key(dict(zip(GRID, v, strict=True)), s): made_up(v, s) for v in product(*GRID.values()) for s in SEEDS
        }
    sweeps = 2 if arguments.quick else SWEEPS
    found = {name: [search(sampler, seed, curves) for seed in range(sweeps)] for name, sampler in SAMPLERS.items()}
    rewards = {name: [reward for reward, _ in each] for name, each in found.items()}
    first = next(iter(rewards))
    rows = {}
    for name, values in rewards.items():
        gap = interval([a - b for a, b in zip(rewards[first], values, strict=True)])
        rows[name] = {
            "confirmed": interval(values),
            "steps": fmean(s for _, s in found[name]),
            f"{first} minus this": gap,
        }
        print(f"{name}: {rows[name]}")
    if not arguments.quick:
        stored = {"circumstances": circumstances(), "rows": rows, "rewards": rewards, "curves": curves}
        arguments.out.write_text(json.dumps(stored, indent=1) + "\n")


def made_up(values: Sequence[float], seed: int) -> dict[int, float]:
    """A curve that rises to a height of the setting's."""
    height = 0.3 + 0.05 * math.log(values[0] / 1e-4) + 0.01 * (seed % 3)
    return {step: height * (1 - math.exp(-step / 30)) for step in range(EVERY, STEPS + 1, EVERY)}


if __name__ == "__main__":
    main()
