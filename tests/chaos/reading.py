"""What an MLflow server has of a sweep."""

from __future__ import annotations

from mlflow import MlflowClient
from mlflow.entities import Run

from chaos.points import Logged, Point
from haps_search.records.mlflow_tracker import KIND_TAG, PARENT_TAG, SWEEP_TAG, TRIAL_TAG


def logged(uri: str, sweep: str) -> list[Logged]:
    """Every run of the sweep, with the history of every metric."""
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("haps_search")
    if experiment is None:
        return []
    runs = client.search_runs([experiment.experiment_id], filter_string=f"tags.`{SWEEP_TAG}` = '{sweep}'")
    return [_logged(client, run) for run in runs]


def _logged(client: MlflowClient, run: Run) -> Logged:
    tags, own = run.data.tags, run.info.run_id
    points = {
        name: [Point(m.step, m.value, m.timestamp) for m in client.get_metric_history(own, name)]
        for name in run.data.metrics
    }
    return Logged(tags[KIND_TAG], tags.get(TRIAL_TAG, ""), tags.get(PARENT_TAG, ""), own, run.info.status, points)
