"""The hardest question to a run under faults: does it come to the numbers of the same run without any?"""

from __future__ import annotations

import asyncio
import math
from pathlib import Path

from chaos.points import CLOCK, SAME
from haps_search.config.engines import LocalEngineConfig
from haps_search.engines.local import LocalEngine
from haps_search.records.jsonl import read_records
from haps_search.records.run_folder import RunFolder
from haps_search.search.loop import run
from haps_search.sweep.journal import Journal
from haps_search.sweep.layout import trial_folder, trial_name
from haps_search.sweep.settings import experiment_of
from haps_search.tasks.build import build_task


def differences(sweep: Path, folder: Path) -> list[str]:
    """The sweep's most interrupted trial, run again in this process into `folder`, compared metric by metric."""
    journal = Journal(sweep)
    finished = [trial for trial in journal.trials() if trial.state == "finished"]
    if not finished:
        return [f"{sweep.name}: no trial has finished"]
    trial = max(finished, key=lambda record: record.attempts)
    engine = LocalEngineConfig(threads=1)
    experiment = experiment_of(journal.study(), trial).model_copy(update={"engine": engine})
    task = build_task(experiment.task)
    asyncio.run(run(LocalEngine.build(experiment, task), task, experiment, RunFolder(folder, experiment)))
    expected = {record.step: record.metrics for record in read_records(folder / "metrics.jsonl")}
    found = []
    for record in read_records(trial_folder(sweep, trial.number) / "metrics.jsonl"):
        for name, value in record.metrics.items():
            wanted = expected[record.step].get(name, math.nan)
            if not name.endswith(CLOCK) and not math.isclose(value, wanted, rel_tol=SAME, abs_tol=SAME):
                where = f"{sweep.name}: trial {trial_name(trial.number)}: step {record.step}"
                found.append(f"{where}: {name} is {value}, without faults {wanted}")
    return found
