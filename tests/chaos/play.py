"""The loop: a driver is kept going, faults come at random moments, and at the end everything is mended."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from chaos.faults import ENDS_DRIVER, FAULTS, Scene
from chaos.witness import Fault, Witness

LOOK_S = 0.25
QUIET_S, IMPATIENT = (1.0, 8.0), 0.2
STALLED_S = 900.0
"""Nothing is recorded for so long although everything is mended: nobody will go on by itself."""
WAIT_FOR_THEIR_MOMENT = {"driver-asked-early", "driver-killed-measuring", "node-frozen", "setting-deadly"}
"""They do not hold up others."""

Say = Callable[[str], None]


class Stuck(Exception):
    """A sweep that does not go on."""


@dataclass
class Play:
    """`run` for so long, then `finish`."""

    scene: Scene
    kinds: list[str]
    say: Say
    witness: Witness = field(default_factory=Witness)
    faults: list[Fault] = field(default_factory=list)
    resumes: list[float] = field(default_factory=list)
    """When drivers were started again, in seconds since 1970."""
    _deck: list[str] = field(default_factory=list)
    _unsent: list[str] = field(default_factory=list)
    _struck: bool = False
    """Whether the driver was ended, or asked to leave, since it was started."""
    _driven: float = 0.0
    _moved: float = field(default_factory=time.monotonic)

    def run(self, seconds: float) -> None:
        """Raises Stuck."""
        random, end = self.scene.random, time.monotonic() + seconds
        self.scene.stage.begin()
        next_at, patient = time.monotonic() + random.uniform(*QUIET_S), True
        while time.monotonic() < end:
            self._tick(begins=True)
            if time.monotonic() < next_at or (patient and not self._recovered()):
                continue
            if self._strike():
                next_at, patient = time.monotonic() + random.uniform(*QUIET_S), random.random() > IMPATIENT

    def finish(self) -> None:
        """Mend everything, drive the last sweep to its end, and those again that ended while MLflow was away.

        Raises Stuck.
        """
        self.say("faults are over, everything is mended")
        stage = self.scene.stage
        self.scene.mend()
        stage.server.wait()
        self._moved = time.monotonic()
        while self._tick(begins=False):
            pass
        for name in self._unsent:
            self.say(f"{name} ended while MLflow was away: resumed for its points")
            code = stage.again(name)
            if code or stage.owes():
                raise Stuck(f"{name} could not be resumed after its end: exit {code}, {stage.said()!r}")

    def _tick(self, begins: bool) -> bool:
        """Look, mend, and keep a driver going; False where the sweep is complete and no other is to begin."""
        time.sleep(LOOK_S)
        stage, before = self.scene.stage, len(self.witness.sightings)
        self.witness.look(stage.sweep)
        moved = len(self.witness.sightings) > before
        if moved:
            self._moved = time.monotonic()
        self.scene.pursue(moved)
        if self.scene.repairs.due:
            self._moved = time.monotonic()
            self.scene.repairs.mend()
        code = stage.driver.poll() if stage.driver else 0
        if code is None:
            if time.monotonic() - self._moved > STALLED_S:
                raise Stuck(f"{stage.sweep.name}: no step for {STALLED_S:g} s; the driver said {stage.said()!r}")
            return True
        self._moved = time.monotonic()
        return self._ended(code, begins)

    def _ended(self, code: int, begins: bool) -> bool:
        stage = self.scene.stage
        if code == 0:
            if stage.owes():
                self._unsent.append(stage.sweep.name)
            self.say(f"{stage.sweep.name} is complete")
            if begins:
                self._driven, self._struck = time.time(), False
                stage.begin()
            return begins
        if not self._struck:
            raise Stuck(f"{stage.sweep.name} needs a human: its driver ended with {code} by itself: {stage.said()!r}")
        self.say(f"the driver ended with {code} ({stage.said()}): resumed")
        self.resumes.append(time.time())
        self._driven, self._struck = time.time(), False
        stage.resume()
        return True

    def _recovered(self) -> bool:
        """The driver has the sweep, and a step was recorded since it was started and since the last fault."""
        since = max(self._driven, self.faults[-1].time if self.faults else 0.0)
        return self.scene.stage.holds and bool(self.witness.since(since))

    def _strike(self) -> bool:
        """The next kind of a shuffled deck that has somebody to hit."""
        if set(self._deck) <= WAIT_FOR_THEIR_MOMENT:
            self._deck += self.scene.random.sample(self.kinds, len(self.kinds))
        for kind in self._deck:
            at = time.time()
            target = FAULTS[kind](self.scene)
            if target is not None:
                self._deck.remove(kind)
                self._struck |= kind in ENDS_DRIVER
                self.faults.append(Fault(at, kind, target))
                self.say(f"{kind}: {target}")
                return True
        return False
