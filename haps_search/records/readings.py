"""Who read the test split, and when: a number that was seen once is no longer about unseen questions."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path

from haps_search.errors import ConfigError
from haps_search.records.jsonl import JsonlWriter, read_lines
from haps_search.records.remote import pushed
from haps_search.version import __version__

FILE = "test-readings.jsonl"


@dataclass(frozen=True, slots=True)
class Reading:
    """One reading of the test split: seconds since the epoch, what was judged, and the code's version."""

    time: float
    judged: str
    version: str

    @property
    def when(self) -> str:
        return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(self.time))


def readings(folder: Path) -> list[Reading]:
    """All readings, the first one first. Raises DataError for a damaged file."""
    return [Reading(line["time"], line["judged"], line["version"]) for line in read_lines(folder / FILE).fields]


def earlier_readings(folder: Path, again: bool) -> list[Reading]:
    """The readings there were already. Raises ConfigError where there is one and nobody asked for it `again`."""
    earlier = readings(folder)
    if earlier and not again:
        first = earlier[0]
        raise ConfigError(
            f"{folder.name}: the test split was read on {first.when} ({first.judged}); what is changed after that and "
            "measured on it once more is chosen on it. The result is kept there (table-test.json, of replays "
            "references.json, of arms compare-test.json); to read it once more say --again, which "
            f"{FILE} will tell"
        )
    return earlier


def note_reading(folder: Path, judged: str, again: bool) -> list[Reading]:
    """Write down that the test split is read now, before it is; returns the readings there were already.

    Raises:
        ConfigError: it was read before, and nobody asked for it `again`.
        TrackerError: it cannot be written down.
    """
    earlier = earlier_readings(folder, again)
    writer = JsonlWriter(folder / FILE)
    writer.append(asdict(Reading(time.time(), judged, __version__)))
    writer.close()
    pushed(folder / FILE)
    return earlier
