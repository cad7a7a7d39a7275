"""What a browser shows of a sweep in MLflow: its runs with the columns that matter, and its trials compared."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from urllib.parse import quote

from haps_search.records.mlflow_tracker import BEGUN_TAG, KIND_TAG, SWEEP_TAG, TRIAL_TAG, MlflowStore, Sweep

VIEW_TAG = "mlflow.sharedViewState."
"""Before a key, on an experiment: a view of its runs table that `viewStateShareKey=KEY` opens."""
MOST_COMPARED = 50


def share_view(store: MlflowStore, sweep: Sweep, metrics: Sequence[str], parameters: Sequence[str], best: str) -> str:
    """Keep the view of a sweep's runs, best first by metric `best` (`-` before it for the lowest first); its key.

    Errors are the backend's own.
    """
    key = f"haps-{hashlib.sha256(f'{sweep.name} {sweep.begun:.6f}'.encode()).hexdigest()[:12]}"
    state = {
        "searchFilter": f"tags.`{SWEEP_TAG}` = '{sweep.name}' and tags.`{BEGUN_TAG}` = '{sweep.begun:.6f}'",
        "orderByKey": f"metrics.`{best.removeprefix('-')}`",
        "orderByAsc": best.startswith("-"),
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "selectedColumns": [
            *(f"metrics.`{name}`" for name in metrics),
            *(f"params.`{name}`" for name in parameters),
            f"tags.`{KIND_TAG}`",
        ],
    }
    store.client.set_experiment_tag(store.experiment_id, f"{VIEW_TAG}{key}", json.dumps(state))
    return key


def runs_page(base: str, experiment_id: str, key: str) -> str:
    """The runs table of an experiment under a shared view."""
    return f"{base}/#/experiments/{experiment_id}/runs?workflowType=machine_learning&viewStateShareKey={key}"


def compare_page(base: str, store: MlflowStore, sweep: Sweep) -> str | None:
    """The comparison of a sweep's trials, the first fifty; None where it has fewer than two."""
    runs = store.client.search_runs(
        [store.experiment_id],
        filter_string=f"tags.`{SWEEP_TAG}` = '{sweep.name}' and tags.`{BEGUN_TAG}` = '{sweep.begun:.6f}' "
        f"and tags.`{KIND_TAG}` = 'trial'",
        order_by=[f"tags.`{TRIAL_TAG}` ASC"],
        max_results=MOST_COMPARED,
    )
    if len(runs) < 2:
        return None
    ids = json.dumps([run.info.run_id for run in runs], separators=(",", ":"))
    experiments = json.dumps([store.experiment_id], separators=(",", ":"))
    return f"{base}/#/compare-runs?runs={quote(ids)}&experiments={quote(experiments)}"
