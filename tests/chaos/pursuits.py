"""Faults that go on: each looks at every tick whom there is to hit, until it has had what it wanted."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from processes import holds

from chaos.stage import Stage
from haps_search.sweep.journal import Journal
from haps_search.sweep.layout import TRIALS, trial_name

TRIAL, WORKER = "ray::ImplicitFunc", "ray::RayTrainWorker"
OFTEN = 11
"""Preemptions of one worker; its deaths in a row may be fewer."""


class Pursuit(Protocol):
    def step(self, stage: Stage, moved: bool) -> bool:
        """`moved`: steps were recorded since the last look. False when it is over."""
        ...


@dataclass
class Deadly:
    """A setting that always kills its process: whoever runs this trial dies at once, until it is given up."""

    sweep: Path
    number: int

    def step(self, stage: Stage, moved: bool) -> bool:
        own = f"{self.sweep.resolve() / TRIALS / trial_name(self.number)}"  # of every attempt
        for process in stage.cluster.workers(TRIAL):
            if holds(process.pid, own):
                _kill(process.pid)
        return not any(t.number == self.number and t.ended for t in Journal(self.sweep).trials())


@dataclass
class Preempted:
    """A worker that is taken away again each time after the sweep has got further."""

    victim: int
    known: set[int]
    left: int = OFTEN
    _moved: bool = field(default=True)

    def step(self, stage: Stage, moved: bool) -> bool:
        alive = {process.pid for process in stage.cluster.workers(WORKER)}
        self._moved |= moved
        if self.victim not in alive:
            following = alive - self.known
            if len(following) == 1:
                (self.victim,), self._moved = following, False
            elif following:  # a pool of another driver
                self.victim, self._moved = max(following), False
        self.known |= alive
        if self.victim in alive and self._moved:
            _kill(self.victim)
            self.left, self._moved = self.left - 1, False
        return self.left > 0


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
