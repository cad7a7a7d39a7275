"""The outcome of a judgement in one sentence, which says no more than its interval does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from haps_search.evaluation.intervals import Interval

Outcome = Literal["better", "worse", "not told apart"]


@dataclass(frozen=True)
class Verdict:
    """The router against the best reference in one measure: `difference` is the router minus the reference."""

    measure: str
    reference: str
    difference: Interval
    seeds: int
    split: str

    @property
    def outcome(self) -> Outcome:
        """By where the 95 % interval lies; one that touches 0 tells nothing apart."""
        if self.difference.low > 0:
            return "better"
        return "worse" if self.difference.high < 0 else "not told apart"

    @property
    def sentence(self) -> str:
        d = self.difference
        shown = f"{d.mean:+.4f} [{d.low:+.4f}, {d.high:+.4f}]"
        said = {
            "better": f"beats the best reference, {self.reference}, by {shown}",
            "worse": f"does not beat the best reference, {self.reference}: it is worse, by {shown}",
            "not told apart": f"does not beat the best reference, {self.reference}: {shown}",
        }[self.outcome]
        over = f"{d.count:,} {self.split} questions, {self.seeds} seed{'s' if self.seeds > 1 else ''}"
        return f"In {self.measure} the router {said} ({over}; 95 % interval)."
