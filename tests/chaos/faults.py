"""What can go wrong, one function per kind. Each says whom it hit, or None where there is nobody to hit now."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from typing import TypeAlias

import psutil
from processes import GONE_S, title

from chaos.pursuits import OFTEN, TRIAL, WORKER, Deadly, Preempted, Pursuit
from chaos.stage import DEADLINE_S, TRIALS, Stage
from haps_search.records.checkpoint import TENSORS
from haps_search.sweep.journal import Journal
from haps_search.sweep.layout import trial_folder

BROKER, CONTROLLER, ROUTER = "ray::Broker", "ray::TrainController", "ray::RouterActor"
FROZEN_S, AWAKE_S = 90.0, 10.0
"""How long a node stands still, which is longer than Ray waits for one (about a minute), and may go on afterwards."""
REFUSED = 2
"""What `haps` ends with where a setting is wrong, as the name of a sweep that another driver has."""


@dataclass
class Repairs:
    """What has to be mended, and when, by `time.monotonic`."""

    due: list[tuple[float, Callable[[], object]]] = field(default_factory=list)

    def later(self, seconds: float, mend: Callable[[], object]) -> None:
        self.due.append((time.monotonic() + seconds, mend))

    def mend(self, everything: bool = False) -> None:
        now = time.monotonic()
        ready = [item for item in self.due if everything or item[0] <= now]
        self.due = [item for item in self.due if item not in ready]
        for _, mend in ready:
            mend()


@dataclass
class Scene:
    """What a fault may touch, and what it found out of itself."""

    stage: Stage
    random: Random
    repairs: Repairs = field(default_factory=Repairs)
    problems: list[str] = field(default_factory=list)
    pursuits: list[Pursuit] = field(default_factory=list)
    deadly: dict[str, int] = field(default_factory=dict)
    """Sweep -> the trial of it that may fail."""

    def pursue(self, moved: bool) -> None:
        self.pursuits = [one for one in self.pursuits if one.step(self.stage, moved)]

    def mend(self) -> None:
        """Everything; a setting that kills its process stays one."""
        self.pursuits = [one for one in self.pursuits if isinstance(one, Deadly)]
        self.repairs.mend(everything=True)


Injury: TypeAlias = Callable[[Scene], str | None]


def _driver_killed(scene: Scene, number: int = signal.SIGKILL) -> str | None:
    driver = scene.stage.driver
    if driver is None or driver.poll() is not None:
        return None
    driver.signal(number)
    return f"driver {driver.pid}"


def _asked_early(scene: Scene) -> str | None:
    """A driver one of whose trials has begun and not taken a step."""
    trials = Journal(scene.stage.sweep).trials() if scene.stage.holds else []
    fresh = [t.number for t in trials if t.state == "running" and not _steps_of(scene.stage.sweep, t.number)]
    return _driver_killed(scene, signal.SIGTERM) if fresh else None


def _steps_of(sweep: Path, number: int) -> bool:
    file = trial_folder(sweep, number) / "metrics.jsonl"
    return file.exists() and file.stat().st_size > 0


def _killed_measuring(scene: Scene) -> str | None:
    """A driver all of whose trials have ended."""
    journal = Journal(scene.stage.sweep)
    trials = journal.trials() if scene.stage.holds else []
    over = len(trials) == TRIALS and all(t.ended for t in trials) and journal.ended() is None
    return _driver_killed(scene) if over else None


def _hung_for_good(scene: Scene) -> str | None:
    """The only worker of its candidate, and nobody wakes or ends it."""
    found = scene.stage.cluster.workers(WORKER)
    if not found:
        return None
    victim = scene.random.choice(found)
    victim.suspend()
    return f"{WORKER} {victim.pid}"


def _setting_deadly(scene: Scene) -> str | None:
    """One of a sweep, so that others are left."""
    sweep = scene.stage.sweep
    trials = Journal(sweep).trials() if scene.stage.holds and sweep.name not in scene.deadly else []
    running = [trial.number for trial in trials if trial.state == "running"]
    if not running:
        return None
    number = scene.deadly[sweep.name] = scene.random.choice(running)
    scene.pursuits.append(Deadly(sweep, number))
    return f"{sweep.name}, trial {number}"


def _preempted_often(scene: Scene) -> str | None:
    found = scene.stage.cluster.workers(WORKER)
    if not found or any(isinstance(one, Preempted) for one in scene.pursuits):
        return None
    victim = scene.random.choice(found).pid
    scene.pursuits.append(Preempted(victim, {process.pid for process in found}))
    return f"{WORKER} {victim}, and its followers, {OFTEN} times"


def _sick_at_load(what: str, scene: Scene) -> str | None:
    """A worker has to be loaded again, and cannot be for a while."""
    cluster = scene.stage.cluster
    if not cluster.workers(WORKER):
        return None
    cluster.sick.write_text(what)
    seconds = scene.random.uniform(5, 20)
    scene.repairs.later(seconds, partial(cluster.sick.unlink, missing_ok=True))
    return f"{_killed(WORKER, scene)}, {what} for {seconds:.0f} s"


def _store_filled(scene: Scene) -> str | None:
    if not scene.stage.holds or (scene.stage.hog is not None and scene.stage.hog.poll() is None):
        return None
    seconds = scene.random.uniform(15, 40)
    scene.repairs.later(seconds, scene.stage.fill().kill)
    return f"for {seconds:.0f} s"


def _node_frozen(scene: Scene) -> str | None:
    """With a trial on it, which wakes beside its successor."""
    cluster = scene.stage.cluster
    with_trials = (name for name, node in cluster.nodes.items() if any(title(p).startswith(TRIAL) for p in node.tree()))
    name = next(with_trials, None)
    if name is None:
        return None
    cluster.freeze(name)
    scene.repairs.later(FROZEN_S, partial(cluster.thaw, name))
    scene.repairs.later(FROZEN_S + AWAKE_S, partial(cluster.replace, name))
    return f"{name} for {FROZEN_S:.0f} s, then awake for {AWAKE_S:.0f} s"


def _killed(title: str, scene: Scene) -> str | None:
    found = scene.stage.cluster.workers(title)
    if not found:
        return None
    victim = scene.random.choice(found)
    os.kill(victim.pid, signal.SIGKILL)
    return f"{title} {victim.pid}"


def _worker_hung(scene: Scene) -> str | None:
    found = scene.stage.cluster.workers(WORKER)
    if not found:
        return None
    victim = scene.random.choice(found)
    victim.suspend()
    seconds, dies = DEADLINE_S + scene.random.uniform(0, 5), scene.random.random() < 0.5
    scene.repairs.later(seconds, partial(_release, victim, dies))
    return f"{WORKER} {victim.pid} for {seconds:.0f} s, then {'killed' if dies else 'awake'}"


def _release(process: psutil.Process, dies: bool) -> None:
    if process.is_running():
        process.kill() if dies else process.resume()


def _node_removed(scene: Scene) -> str | None:
    cluster = scene.stage.cluster
    if not cluster.nodes:
        return None
    name, seconds = scene.random.choice(sorted(cluster.nodes)), scene.random.uniform(5, 25)
    cluster.remove(name)
    scene.repairs.later(seconds, cluster.add)
    return f"{name}, another after {seconds:.0f} s"


def _server_killed(scene: Scene) -> str | None:
    server = scene.stage.server
    if not server.up:
        return None
    seconds = scene.random.uniform(5, 20)
    server.kill()
    scene.repairs.later(seconds, server.start)
    return f"down for {seconds:.0f} s"


def _checkpoint_cut(scene: Scene) -> str | None:
    """Of a run that goes on from the one before it; the driver is dead meanwhile, and its trials with it."""
    if not _cuttable(scene.stage.sweep) or _driver_killed(scene) is None:
        return None
    deadline = time.monotonic() + GONE_S
    while scene.stage.cluster.workers(TRIAL, ROUTER):
        if time.monotonic() > deadline:
            scene.problems.append(f"trials were alive {GONE_S:g} s after their driver was killed")
            return "driver only"
        time.sleep(0.2)
    runs = _cuttable(scene.stage.sweep)
    if not runs:
        return "driver only: its trials had ended"
    newest = scene.random.choice(runs)
    os.truncate(newest / TENSORS, (newest / TENSORS).stat().st_size // 2)
    return f"driver, and trial {newest.parents[1].name}: {newest.name}"


def _cuttable(sweep: Path) -> list[Path]:
    """The newest checkpoint of every run that has not ended and has an older one."""
    found = []
    for trial in Journal(sweep).trials():
        folder = trial_folder(sweep, trial.number)
        steps = sorted(p for p in folder.glob("checkpoints/step-*") if p.name.removeprefix("step-").isdigit())
        if len(steps) > 1 and not (folder / "result.json").exists():
            found.append(steps[-1])
    return found


def _second_driver(scene: Scene) -> str | None:
    if not scene.stage.holds:
        return None
    code, said = scene.stage.second()
    holder = scene.stage.driver.pid if scene.stage.driver else 0
    if code != REFUSED or f"process {holder} " not in said:
        scene.problems.append(f"a second driver was not refused by the name of {holder}: exit {code}, {said!r}")
    return f"exit {code}: {said[:100]}"


FAULTS: dict[str, Injury] = {
    "driver-killed": _driver_killed,
    "driver-asked": partial(_driver_killed, number=signal.SIGTERM),
    "driver-asked-early": _asked_early,
    "driver-killed-measuring": _killed_measuring,
    "worker-killed": partial(_killed, WORKER),
    "worker-hung": _worker_hung,
    "worker-hung-for-good": _hung_for_good,
    "worker-preempted-often": _preempted_often,
    "load-stale": partial(_sick_at_load, "ESTALE"),
    "load-503": partial(_sick_at_load, "503"),
    "setting-deadly": _setting_deadly,
    "trial-killed": partial(_killed, TRIAL),
    "router-killed": partial(_killed, ROUTER),
    "broker-killed": partial(_killed, BROKER),
    "controller-killed": partial(_killed, CONTROLLER),
    "node-removed": _node_removed,
    "node-frozen": _node_frozen,
    "store-filled": _store_filled,
    "mlflow-killed": _server_killed,
    "checkpoint-cut": _checkpoint_cut,
    "second-driver": _second_driver,
}
ENDS_DRIVER = {"driver-killed", "driver-asked", "driver-asked-early", "driver-killed-measuring", "checkpoint-cut"}
"""After these a driver is started again; after any other, one that ended by itself needed a human."""
