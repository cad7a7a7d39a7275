"""The folder of one run: everything it leaves behind, under names that do not change.

experiment.json    the configuration
metrics.jsonl      one line per step
examples.jsonl     texts of the first validation questions, at each validation
checkpoints/       the newest and the best
doing.json         what it does before its first step, and how much of it is done; gone afterwards
result.json        there once the run has ended
error.json         there if it broke for good
output.log         what the process of a sweep's trial printed

Where an object store keeps the runs, records go there with each checkpoint.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from haps_search.config.anchors import unplaced
from haps_search.config.run import Experiment
from haps_search.config.stored import as_stored
from haps_search.errors import CheckpointError
from haps_search.records.checkpoint import Checkpoint, CheckpointStore
from haps_search.records.jsonl import JsonlTracker, JsonlWriter, read_records, truncate_after
from haps_search.records.printed import OUTPUT
from haps_search.records.remote import pushed, remote_of
from haps_search.records.remote_checkpoints import pull_checkpoints, push_checkpoints
from haps_search.records.result import has_steps_left
from haps_search.records.room import room_on
from haps_search.records.sealed import replace_text
from haps_search.types import Episode, Snapshot

_log = logging.getLogger(__name__)
EXAMPLES = 20
ERROR_FILE, DOING_FILE = "error.json", "doing.json"
RECORDS = ("metrics.jsonl", "examples.jsonl")


class RunFolder:
    """Reads and writes one run's folder; one writer at a time."""

    def __init__(self, path: Path, experiment: Experiment) -> None:
        self.path = path
        kept, self._checkpoints = experiment.run.keep_checkpoints, path / "checkpoints"
        self._store = CheckpointStore(self._checkpoints, identity(experiment), kept, _today)
        self._remote = remote_of(path)
        path.mkdir(parents=True, exist_ok=True)
        self._steps = experiment.total_steps
        described = path / "experiment.json"
        if not described.exists() or _has_grown(described, experiment):
            with room_on(path):
                replace_text(described, experiment.model_dump_json(indent=1))
            pushed(described)

    @staticmethod
    def experiment_of(path: Path) -> Experiment:
        """The configuration of an existing run. Raises CheckpointError where there is none."""
        described = path / "experiment.json"
        if not described.exists():
            raise CheckpointError(f"{path}: no run here (experiment.json is missing)")
        return Experiment.model_validate(as_stored(json.loads(described.read_text())))

    @cached_property
    def _tracker(self) -> JsonlTracker:
        return JsonlTracker(self.path / "metrics.jsonl")

    @cached_property
    def _examples(self) -> JsonlWriter:
        return JsonlWriter(self.path / "examples.jsonl")

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._tracker.log(step, metrics)

    def doing(self, label: str, done: int, total: int) -> None:
        """Say how far something is that comes before the first step."""
        file = self.path / DOING_FILE
        if done >= total:
            file.unlink(missing_ok=True)
        else:
            with room_on(self.path):
                replace_text(file, json.dumps({"label": label, "done": done, "total": total}))

    def save(self, step: int, snapshot: Snapshot, state: Mapping[str, Any], best: bool, stage: int = 0) -> None:
        """Keep this step, of the stage that began after step `stage`. Raises PoolError where disk or object store have
        no room; the former one stays."""
        with room_on(self.path):
            self._tracker.settle()  # a resume from this step would never log what lies before it again
            self._store.save(step, snapshot, state, best, stage)
        if self._remote is not None:
            self._push_records()  # before the checkpoint, which cuts off what lies beyond it
            push_checkpoints(self._remote, self._checkpoints)

    def latest(self) -> Checkpoint | None:
        """The newest intact checkpoint. Raises CheckpointError where all are damaged, or it belongs elsewhere or lies
        beyond the run's last step."""
        self._pull_checkpoints()
        found = self._store.latest(skip_damaged=True)
        for reason in found.skipped if found else ():
            _log.warning("passed over a damaged checkpoint: %s", reason)
        if found is not None and found.step > self._steps:
            raise CheckpointError(f"{found.path}: the run is beyond run.steps = {self._steps}; it may only be raised")
        return found

    def best(self) -> Checkpoint | None:
        self._pull_checkpoints()
        return self._store.best()

    def forget_after(self, step: int) -> None:
        """Drop records above a step: the run goes on from there. Raises PoolError where the disk has no room."""
        with room_on(self.path):
            self._tracker.truncate_after(step)
            if (self.path / "examples.jsonl").exists():
                truncate_after(self.path / "examples.jsonl", step)

    def keep_examples(self, step: int, episodes: Sequence[Episode], rewards: Sequence[float]) -> None:
        for episode, reward in list(zip(episodes, rewards, strict=True))[:EXAMPLES]:
            self._examples.append(
                {
                    "step": step,
                    "question": episode.question.id,
                    "text": episode.question.text,
                    "reference": episode.question.reference,
                    "assignment": list(episode.assignment),
                    "completions": [u.sampled.text for u in episode.completions],
                    "failures": [u.parsed.failure for u in episode.completions],
                    "reward": reward,
                }
            )

    def metrics_at(self, step: int) -> dict[str, float]:
        """The metrics of a step, empty where it has none."""
        for record in read_records(self.path / "metrics.jsonl"):
            if record.step == step:
                return dict(record.metrics)
        return {}

    def result(self) -> dict[str, Any] | None:
        """How the run ended, None while it has not, or has steps again since `run.steps` was raised."""
        path = self.path / "result.json"
        result: dict[str, Any] | None = json.loads(path.read_text()) if path.exists() else None
        return None if result is None or has_steps_left(result, self._steps) else result

    def finish(self, result: Mapping[str, Any]) -> None:
        self._tracker.finish("finished", result["metrics"])
        self._end("result.json", result)

    def fail(self, kind: str, message: str) -> None:
        """Write down the error that ended the run for good."""
        self._end(ERROR_FILE, {"kind": kind, "message": message})

    def _end(self, name: str, content: Mapping[str, Any]) -> None:
        with room_on(self.path):
            replace_text(self.path / name, json.dumps(content, indent=1))
        if self._remote is not None:
            self._push_records()
            self._remote.push(self.path / name)

    def _push_records(self) -> None:
        for name in (*RECORDS, OUTPUT):
            if (self.path / name).exists():
                pushed(self.path / name)

    def _pull_checkpoints(self) -> None:
        if self._remote is not None:
            pull_checkpoints(self._remote, self._checkpoints)


def doing_in(folder: Path) -> str:
    """What a run does before its first step, in words; nothing where it does nothing such, or has not said so here."""
    try:
        said = json.loads((folder / DOING_FILE).read_text())
    except (FileNotFoundError, ValueError):
        return ""
    return f"{said['label']}: {said['done'] / said['total']:.0%}"


def identity(experiment: Experiment) -> dict[str, Any]:
    """What makes a run the same run: all of its configuration but the machines it is on, and where copies lie there.

    Under a constant learning rate no step depends on how many there will be, so such a run may be given more.
    """
    described = dict(unplaced(experiment.model_dump(mode="json", exclude={"engine": True})))
    if experiment.learning.schedule.type == "constant" and not experiment.stages:
        described["run"] = {key: value for key, value in described["run"].items() if key != "steps"}
    return described


def _has_grown(described: Path, experiment: Experiment) -> bool:
    """Whether the run was begun with fewer steps."""
    begun = Experiment.model_validate(as_stored(json.loads(described.read_text())))
    return begun.run.steps < experiment.run.steps and identity(begun) == identity(experiment)


def _today(stored: Mapping[str, Any]) -> Mapping[str, Any]:
    """A stored identity with the fields that later versions added, at their defaults; as it is where it is refused."""
    try:
        return identity(Experiment.model_validate(as_stored(stored)))
    except ValidationError:
        return stored
