"""What MLflow 3 knows beside metrics: the data a run learned from, and its best checkpoint as a model with its metrics.

Everything is looked for before it is made, so that a kill in between and a resume make nothing twice.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from mlflow.entities import Dataset, DatasetInput, InputTag, LoggedModel, Metric, Run

from haps_search.records.checkpoint import BEST
from haps_search.records.jsonl import read_records
from haps_search.records.mlflow_tracker import MlflowStore, Sweep, attempt, points

CONTEXT = "mlflow.data.context"
MODEL_TYPE = "haps_search router"
CHECKPOINT_TAG, STEP_TAG = "haps.checkpoint", "haps.step"
_DIGEST = 36
_SOURCE = 65_000


@dataclass(frozen=True, slots=True)
class Data:
    """Questions that runs learn from or are validated on. `source` says where they come from, as plain values."""

    name: str
    context: str
    digest: str
    kind: str
    source: Mapping[str, Any]
    count: int


def data_of(context: str, kind: str, source: Mapping[str, Any], rows: Iterable[Sequence[str]]) -> Data:
    """Data under a digest of all its rows (texts, such as id, question and reference)."""
    digest, count = hashlib.sha256(), 0
    for row in rows:
        digest.update("".join(f"{len(text)}:{text}" for text in row).encode())
        count += 1
    return Data(f"{kind}-{context}", context, digest.hexdigest()[:_DIGEST], kind, source, count)


def keep_data(store: MlflowStore, run_id: str, found: Sequence[Data]) -> bool:
    """Say which data a run had; False where the store did not take it."""
    return attempt(lambda: _add_inputs(store, run_id, found), f"the data of run {run_id}")


def _add_inputs(store: MlflowStore, run_id: str, found: Sequence[Data]) -> None:
    there = {(i.dataset.name, i.dataset.digest) for i in _inputs(store, run_id)}
    missing = [data for data in found if (data.name, data.digest) not in there]
    if missing:
        store.client.log_inputs(run_id, datasets=[_input(data) for data in missing])


def _inputs(store: MlflowStore, run_id: str) -> list[DatasetInput]:
    found = store.client.get_run(run_id).inputs
    return list(found.dataset_inputs) if found else []


def _input(data: Data) -> DatasetInput:
    source = json.dumps(data.source, sort_keys=True)[:_SOURCE]
    profile = json.dumps({"questions": data.count})
    return DatasetInput(
        Dataset(data.name, data.digest, f"haps_search {data.kind}", source, profile=profile),
        [InputTag(CONTEXT, data.context)],
    )


def keep_model(store: MlflowStore, sweep: Sweep, trial: str, folder: Path, found: Sequence[Data]) -> bool:
    """The best checkpoint of a trial's run folder as a LoggedModel, with the metrics of its step; False where the
    store did not take it. A run without a checkpoint, or that the store does not have, has none.
    """
    step = best_step(folder)
    return step is None or attempt(partial(_add_model, store, sweep, trial, folder, step, found), f"model of {trial}")


def best_step(folder: Path) -> int | None:
    """The step of a run's best checkpoint, None where it has none."""
    pointer = folder / "checkpoints" / BEST
    steps = json.loads(pointer.read_text())["steps"] if pointer.exists() else []
    return int(steps[0]) if steps else None


def _add_model(store: MlflowStore, sweep: Sweep, trial: str, folder: Path, step: int, found: Sequence[Data]) -> None:
    run = store.trial_run(sweep, trial)
    if run is None:
        return
    model = _model(store, run, f"{sweep.name}-{trial}-step-{step}")
    tags = {CHECKPOINT_TAG: str(folder / "checkpoints" / f"step-{step:06d}"), STEP_TAG: str(step)}
    store.client.set_logged_model_tags(model.model_id, tags)
    metrics = [
        _linked(m, model, found) for r in read_records(folder / "metrics.jsonl") if r.step == step for m in points(r)
    ]
    if metrics:
        store.client.log_batch(run.info.run_id, metrics=metrics)
    store.client.finalize_logged_model(model.model_id, "READY")


def _model(store: MlflowStore, run: Run, name: str) -> LoggedModel:
    """Found by its name, or made."""
    there = store.client.search_logged_models([store.experiment_id], filter_string=f"name = '{name}'")
    own = [model for model in there if model.source_run_id == run.info.run_id]
    if own:
        return own[0]
    parameters = {key: value[:250] for key, value in run.data.params.items()}
    return store.client.create_logged_model(
        store.experiment_id, name, run.info.run_id, params=parameters, model_type=MODEL_TYPE
    )


def _linked(metric: Metric, model: LoggedModel, found: Sequence[Data]) -> Metric:
    """The run's own point once more, which counts once there, with the model and the data it was measured on."""
    validation = next((data for data in found if data.context == "validation"), None)
    on = validation if metric.key.startswith("validation_") else None
    return Metric(
        metric.key, metric.value, metric.timestamp, metric.step, model.model_id,
        on.name if on else None, on.digest if on else None,
    )  # fmt: skip
