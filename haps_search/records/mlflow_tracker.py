"""MLflow, as a Tracker: a parent run per sweep, a child run per trial, found again by their tags.

The only place that imports mlflow. Every call is synchronous: MLflow's asynchronous logging through a server
on sqlite loses values without an exception.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import Any

# Read by mlflow when it is imported or at each request. An unreachable server then fails within 15 s
# (two tries of 6 s) instead of minutes; what is set outside stays.
for _name, _value in {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_AGENT_HINT": "true",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "6",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
}.items():
    os.environ.setdefault(_name, _value)

import mlflow  # noqa: E402
from mlflow import MlflowClient  # noqa: E402
from mlflow.entities import Experiment, Metric, Param, Run, RunTag, ViewType  # noqa: E402
from mlflow.exceptions import MlflowException  # noqa: E402
from requests.exceptions import RequestException  # noqa: E402
from sqlalchemy import create_engine  # noqa: E402
from sqlalchemy.exc import SQLAlchemyError  # noqa: E402
from urllib3.exceptions import HTTPError  # noqa: E402

from haps_search.config.base import concealed  # noqa: E402
from haps_search.errors import TrackerError  # noqa: E402
from haps_search.faults.kinds import kind_of  # noqa: E402
from haps_search.records.tracker import Record, Status, StepGate  # noqa: E402

BACKEND_ERRORS = (MlflowException, RequestException, HTTPError, SQLAlchemyError, OSError)
SWEEP_TAG, BEGUN_TAG, TRIAL_TAG = "haps.sweep", "haps.begun", "haps.trial"
KIND_TAG, LAST_STEP_TAG, FAILED_TAG = "haps.kind", "haps.last_step", "haps.failed"
MOST_SAID = 5000
"""Characters of a tag that MLflow's stores take."""
PARENT_TAG = "mlflow.parentRunId"
EXPERIMENT_KIND, CUSTOM_MODELS = "mlflow.experimentKind", "custom_model_development"
"""So that MLflow 3 shows an experiment of runs, not of traces. MLflow 3.17's pages go by the browser's last choice
(`workflowType`) instead, at first GenAI: `records.mlflow_pages` puts it into the address."""
SUMMARY = "summary/"
"""Before the names of a run's summary metrics, so that they never meet a step's."""

_METRICS_PER_CALL = 900  # mlflow refuses above 1000 metrics, tags and parameters together
_PARAMETERS_PER_CALL = 100
_LONGEST_PARAMETER = 6000
_SLOW_S = 0.5  # a call that takes longer to fail is slow, and
_PATIENCE = 10.0  # the next one waits so many times as long as it took
_STATUS: dict[Status, str] = {"finished": "FINISHED", "failed": "FAILED", "stopped": "KILLED"}
_SQLITE = re.compile(r"^sqlite:///(?P<path>.*)$")
_DATABASE = re.compile(r"^(sqlite|postgresql|mysql)(\+\w+)?://")
_DATABASE_TIMEOUT_S = 10
_log = logging.getLogger(__name__)


def default_uri(runs_folder: Path) -> str:
    """MLFLOW_TRACKING_URI, which may hold a password; else an sqlite file under the runs folder, absolute, since Ray
    changes the working directory."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{runs_folder.resolve() / 'mlflow.db'}"


@dataclass(frozen=True, slots=True)
class Sweep:
    """Which sweep, or run outside one: its name, and when it was begun, in seconds since the epoch.

    A server has the sweeps of many runs folders, and a name is free again when its folder was deleted.
    """

    name: str
    begun: float

    @property
    def tags(self) -> dict[str, str]:
        return {SWEEP_TAG: self.name, BEGUN_TAG: f"{self.begun:.6f}"}


class MlflowStore:
    """An MLflow experiment in a database or behind a server. The driver opens it once before trials do."""

    def __init__(self, uri: str, experiment: str) -> None:
        """Opens the experiment; makes database and experiment where missing. With an sqlite store,
        artifacts lie beside the database.

        Raises:
            TrackerError: the store cannot be reached or used; says what to do.
        """
        self.uri, self.experiment = concealed(uri), experiment
        database = _sqlite_file(uri)
        try:
            if database is not None and not database.exists():
                _create_database(database)
            _probe_database(uri)
            if _DATABASE.match(uri):
                _check_schema(uri, database)
            self.client = MlflowClient(tracking_uri=uri)
            self._experiment_id = self._open_experiment(database)
        except (*BACKEND_ERRORS, ImportError) as error:
            raise TrackerError(
                f"MLflow at {self.uri} cannot be used: {_brief(error)}\nStart the server or mend the address "
                "(tracking.uri), or go without it (tracking.mlflow: false): the JSONL is kept either way."
            ).of_kind(kind_of(error)) from error

    def sweep_run(self, sweep: Sweep, parameters: Mapping[str, Any], tags: Mapping[str, str]) -> str:
        """The run id of the sweep's parent run, found or made, and RUNNING.

        Raises:
            TrackerError: the store cannot be reached or used.
        """
        own = {**sweep.tags, KIND_TAG: "sweep"}
        return self._open_run(own, {**tags, **own}, sweep.name, parameters).info.run_id

    def trial_tracker(self, sweep: Sweep, trial: str, parameters: Mapping[str, Any]) -> MlflowTracker:
        """The trial's child run, found or made, and RUNNING. The sweep's run is made where missing.

        Raises:
            TrackerError: the store cannot be reached or used.
        """
        parent = self.sweep_run(sweep, {}, {})
        own = {**sweep.tags, KIND_TAG: "trial", TRIAL_TAG: trial}
        run = self._open_run(own, {**own, PARENT_TAG: parent}, trial, parameters)
        return MlflowTracker(self.client, run)

    def end_sweep(self, run_id: str, status: Status) -> bool:
        """Close the parent run; False where the store did not take it."""
        return attempt(lambda: self.client.set_terminated(run_id, _STATUS[status]), f"end of run {run_id}")

    def artifact(self, run_id: str, path: Path) -> bool:
        """Keep a copy of a file or folder with a run; False where the store did not take it."""
        if path.is_dir():
            return attempt(lambda: self.client.log_artifacts(run_id, str(path), path.name), f"artifact {path}")
        return attempt(lambda: self.client.log_artifact(run_id, str(path)), f"artifact {path}")

    @property
    def experiment_id(self) -> str:
        return self._experiment_id

    def trial_run(self, sweep: Sweep, trial: str) -> Run | None:
        """The trial's child run, None where it has none yet. Errors are the backend's own."""
        return self._find_run({**sweep.tags, KIND_TAG: "trial", TRIAL_TAG: trial})

    def _open_experiment(self, database: Path | None) -> str:
        found = self.client.get_experiment_by_name(self.experiment) or self._create_experiment(database)
        if found.lifecycle_stage != "active":
            raise TrackerError(
                f"MLflow at {self.uri}: experiment {self.experiment!r} was deleted; restore it "
                f"(mlflow experiments restore -x {found.experiment_id}) or use another name"
            )
        if EXPERIMENT_KIND not in found.tags:
            self.client.set_experiment_tag(found.experiment_id, EXPERIMENT_KIND, CUSTOM_MODELS)
        return str(found.experiment_id)

    def _create_experiment(self, database: Path | None) -> Experiment:
        place = (database.parent / "mlflow-artifacts").as_uri() if database else None
        try:
            made = self.client.create_experiment(self.experiment, artifact_location=place)
        except MlflowException:
            other = self.client.get_experiment_by_name(self.experiment)
            if other is None:
                raise
            return other  # made by another process in between
        return self.client.get_experiment(made)

    def _open_run(
        self, key: Mapping[str, str], tags: Mapping[str, str], name: str, parameters: Mapping[str, Any]
    ) -> Run:
        try:
            run = self._find_run(key)
            if run is None:
                run = self.client.create_run(self._experiment_id, tags=dict(tags), run_name=name)
            elif run.info.status != "RUNNING":
                self.client.update_run(run.info.run_id, status="RUNNING")
            self._add_parameters(run, parameters)
            return run
        except BACKEND_ERRORS as error:
            said = f"MLflow at {self.uri}: run {name!r} cannot be opened: {_brief(error)}"
            raise TrackerError(said).of_kind(kind_of(error)) from error

    def _find_run(self, key: Mapping[str, str]) -> Run | None:
        runs = self.client.search_runs(
            [self._experiment_id],
            filter_string=" and ".join(f"tags.`{tag}` = '{_unquoted(value)}'" for tag, value in key.items()),
            run_view_type=ViewType.ACTIVE_ONLY,
            order_by=["attributes.start_time ASC"],
            max_results=1,
        )
        return runs[0] if runs else None

    def _add_parameters(self, run: Run, parameters: Mapping[str, Any]) -> None:
        """Those not there yet: MLflow's parameters are written once, and a kill may have come between."""
        there = run.data.params
        wanted = dict(_parameters(parameters))
        changed = [name for name, value in wanted.items() if there.get(name, value) != value]
        if changed:
            _log.warning("run %s keeps its first values of %s", run.info.run_id, ", ".join(changed))
        missing = iter(Param(name, value) for name, value in wanted.items() if name not in there)
        while chunk := list(islice(missing, _PARAMETERS_PER_CALL)):
            self.client.log_batch(run.info.run_id, params=chunk)


class MlflowTracker:
    """A trial's run. What the store does not take waits here, with its times, and is sent again at the next
    call; a store that fails slowly is left alone for ten times as long as it held the run up."""

    def __init__(self, client: MlflowClient, run: Run, clock: Callable[[], float] = time.monotonic) -> None:
        self.client, self.run_id = client, run.info.run_id
        self.failures = 0
        """Calls that failed, whether or not their records arrived later."""
        self._found, self._took = run.info, False
        self._kept = _last_step(run)
        self._gate = StepGate(self._kept)
        self._pending: list[Record] = []
        self._ending: Callable[[], None] | None = None
        self._clock, self._not_before = clock, 0.0

    @property
    def last_step(self) -> int:
        return self._kept

    @property
    def missed(self) -> int:
        """The run's ending counts as one."""
        return len(self._pending) + (self._ending is not None)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self.log_many([Record.now(step, metrics)])

    def log_many(self, records: Sequence[Record]) -> None:
        self._pending += [record for record in records if self._gate.admit(record.step)]
        if self._clock() >= self._not_before:
            self._send()

    def finish(self, status: Status, summary: Mapping[str, float], reason: str = "") -> None:
        self._ending = partial(self._close, status, summary, reason)
        self._send()
        if self._pending:
            _log.warning("MLflow run %s lacks %d records; the JSONL has them", self.run_id, len(self._pending))

    def _send(self) -> None:
        while self._pending:
            chunk = _chunk(self._pending)
            if not self._try(partial(self._log_batch, chunk)):
                return
            self._kept, self._took = chunk[-1].step, True
            del self._pending[: len(chunk)]
        if self._ending is not None and self._try(self._ending):
            self._ending = None

    def _log_batch(self, records: Sequence[Record]) -> None:
        """Metrics of one call are one transaction, and the same point sent twice counts once."""
        metrics = [metric for record in records for metric in points(record)]
        tag = RunTag(LAST_STEP_TAG, str(records[-1].step))
        self.client.log_batch(self.run_id, metrics=metrics, tags=[tag])

    def _close(self, status: Status, summary: Mapping[str, float], reason: str) -> None:
        """A run that had ended so already, with all of this, keeps the time of its end."""
        record = Record.now(max(self._gate.highest, 0), {f"{SUMMARY}{k}": v for k, v in summary.items()})
        there = self.client.get_run(self.run_id).data
        fresh = [metric for metric in points(record) if not _same(there.metrics.get(metric.key), metric.value)]
        if fresh:
            self.client.log_batch(self.run_id, metrics=fresh)
        said, before = reason[:MOST_SAID], there.tags.get(FAILED_TAG, "")
        if said and said != before:
            self.client.set_tag(self.run_id, FAILED_TAG, said)
        elif before and not said:
            self.client.delete_tag(self.run_id, FAILED_TAG)
        as_before = (
            not self._took and not fresh and said == before and self._found.status in (_STATUS[status], "RUNNING")
        )
        self.client.set_terminated(self.run_id, _STATUS[status], self._found.end_time if as_before else None)

    def _try(self, call: Callable[[], object]) -> bool:
        start = self._clock()
        if attempt(call, f"run {self.run_id}"):
            return True
        self.failures += 1
        took = self._clock() - start
        if took > _SLOW_S:
            self._not_before = start + took + _PATIENCE * took
        return False


def schema_of(uri: str) -> str | None:
    """The revision of a database's MLflow tables, None where it has none. Errors are the backend's own."""
    from mlflow.store.db.utils import _get_schema_version  # with alembic, which a server's client needs not

    engine = create_engine(uri)
    try:
        found = _get_schema_version(engine)
    finally:
        engine.dispose()
    return str(found) if found else None


@lru_cache(maxsize=1)
def latest_schema() -> str:
    """The revision of the installed MLflow's tables."""
    from mlflow.store.db.utils import _get_latest_schema_revision

    return str(_get_latest_schema_revision())


def _check_schema(uri: str, database: Path | None) -> None:
    """Before MLflow sees it: it migrates an older store unasked, without a copy, where a whole table is missing.

    Raises:
        TrackerError: another version's tables.
    """
    found = schema_of(uri)
    if found is not None and found != latest_schema():
        raise TrackerError(_way_out(concealed(uri), database))


def _way_out(uri: str, database: Path | None) -> str:
    """For a store that another version of MLflow made."""
    made = f"MLflow at {uri} was made by another version of MLflow than this one, {mlflow.__version__}"
    if database is None:
        return f"{made}: back it up and run `mlflow db upgrade` on it where it is served, or use that version"
    return (
        f"{made}: `haps mlflow --upgrade --runs {database.parent}` brings it up to date and keeps a copy of it as it "
        "is, or install the version that made it; without MLflow (tracking.mlflow: false) the JSONL is kept either way"
    )


class SystemMetrics:
    """A thread that sends the state of this machine to a run, under `system/`, every ten seconds."""

    def __init__(self, uri: str, run_id: str) -> None:
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        self._monitor = SystemMetricsMonitor(run_id, resume_logging=True, tracking_uri=uri)
        self._monitor.start()

    def stop(self) -> None:
        self._monitor.finish()


def attempt(call: Callable[[], object], what: str) -> bool:
    try:
        call()
    except BACKEND_ERRORS as error:
        _log.warning("MLflow did not take %s: %s", what, _brief(error))
        return False
    return True


def _last_step(run: Run) -> int:
    """The tag is written just after its metrics: after a kill between the two, the metrics know better."""
    steps = [m.step for m in run.data.to_proto().metrics if not m.key.startswith(SUMMARY)]
    return max([int(run.data.tags.get(LAST_STEP_TAG, -1)), *steps])


def _same(stored: float | None, value: float) -> bool:
    """Whether a store's metric is this value: NaN is NaN, and databases keep the largest float for what is infinite."""
    if stored is None or math.isnan(stored) or math.isnan(value):
        return stored is not None and math.isnan(stored) and math.isnan(value)
    return stored == value or (stored == math.copysign(sys.float_info.max, value) and math.isinf(value))


def _chunk(records: Sequence[Record]) -> list[Record]:
    """As many whole records from the front as one call takes, one at least."""
    total = 0
    for count, record in enumerate(records):
        total += len(record.metrics)
        if total > _METRICS_PER_CALL and count:
            return list(records[:count])
    return list(records)


def points(record: Record) -> list[Metric]:
    at = int(record.time * 1000)
    return [Metric(_entity(name), value, at, record.step) for name, value in record.metrics.items()]


def _entity(name: str) -> str:
    """A name MLflow takes: letters, digits, `_-. :/`, and no path that normalises to another."""
    parts = (part for part in re.sub(r"[^\w\-. :/]", "_", name).split("/") if part not in ("", ".", ".."))
    return "/".join(parts)[:250] or "_"


def _parameters(values: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    """Nested values under dotted names; texts as they are, the rest as JSON, cut to MLflow's length."""
    for key, value in values.items():
        name = f"{path}.{key}" if path else str(key)
        if isinstance(value, Mapping):
            yield from _parameters(value, name)
        else:
            text = value if isinstance(value, str) else json.dumps(value, default=str)
            yield _entity(name), text[:_LONGEST_PARAMETER]


def _sqlite_file(uri: str) -> Path | None:
    match = _SQLITE.match(uri)
    if match is None:
        return None
    if not match["path"].startswith("/"):
        raise TrackerError(
            f"tracking.uri: {uri} is relative, and trials run in other working directories; "
            f"give an absolute path with four slashes: sqlite:///{Path(match['path']).resolve()}"
        )
    if set("%?") & set(match["path"]):
        raise TrackerError(f"tracking.uri: {uri}: a database's path cannot hold % or ?; choose another folder")
    return Path(match["path"])


def _probe_database(uri: str) -> None:
    """One connection, because mlflow tries a dead database for 100 s. Servers are left to mlflow."""
    if not _DATABASE.match(uri):
        return
    bounded = {} if uri.startswith("sqlite") else {"connect_timeout": _DATABASE_TIMEOUT_S}
    engine = create_engine(uri, connect_args=bounded)
    try:
        engine.connect().close()
    finally:
        engine.dispose()


def _create_database(path: Path) -> None:
    """Written aside and linked: making the tables takes seconds, and a kill would leave half of them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.new-{os.getpid()}")
    aside.unlink(missing_ok=True)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)
    try:
        MlflowClient(tracking_uri=f"sqlite:///{aside}").search_experiments(max_results=1)
        os.link(aside, path)
    except FileExistsError:
        _log.info("%s: another process made it first", path)
    finally:
        aside.unlink(missing_ok=True)


def _unquoted(value: str) -> str:
    if "'" in value:
        raise TrackerError(f"{value!r}: a sweep or trial name cannot hold a quote; rename it")
    return value


def _brief(error: Exception) -> str:
    lines = concealed(str(error)).strip().splitlines()
    return lines[0][:500] if lines else type(error).__name__
