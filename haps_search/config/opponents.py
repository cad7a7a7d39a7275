"""What a searched router is compared with, and what those that learn may search themselves."""

from typing import Any, Literal

from pydantic import Field, PositiveInt

from haps_search.config.base import Config
from haps_search.config.distributions import Distribution

Learning = Literal["architecture_only", "static", "plain_lora"]
LEARNING: tuple[Learning, ...] = ("architecture_only", "static", "plain_lora")
BASES: dict[Learning, dict[str, Any]] = {
    "architecture_only": {"routing.low_level": {"type": "none"}},
    "static": {"routing.low_level": {"type": "static"}},
    "plain_lora": {
        "routing.low_level": {"type": "static", "max_relative_norm": None},
        "routing.lora.targets": "all-linear",
        "routing.lora.layers": "all",
    },
}
"""What makes each opponent what it is: dotted path inside `experiment` -> value."""


class Opponent(Config):
    """A comparison that learns: with the best trial's settings but for what it is, searched in a space of its own."""

    settings: dict[str, Any] = {}
    """Dotted path inside `experiment` -> value, such as fewer steps; over the best trial's. Adapters of another run
    that the study begins with (`run.warm_start_low`) are not its own: it begins with those named here, or with none."""
    space: dict[str, Distribution] | None = Field(default=None, min_length=1)
    """Dotted path inside `experiment` -> distribution. null: its learning rates; that of adapters from 3e-4 to 3e-2,
    which is about what a step adds to each of their numbers, and that of the high level as the study's own space has
    it, or within a factor of ten of the best trial's where nothing else learns."""
    trials: PositiveInt | None = None
    """null: what `match` gives."""


class FewShot(Config):
    """Frozen candidates whose prompts begin with answered training questions. Not for models of the zoo, and only for
    tasks of one role. Candidate and number are chosen on the questions that choose."""

    examples: tuple[PositiveInt, ...] = Field(default=(1, 2, 4, 8), min_length=1)
    """Numbers of examples to try."""


class OpponentsConfig(Config):
    """Who stands beside the best trial in the final table; null leaves one out."""

    match: Literal["trials", "core_seconds"] = "trials"
    """What each opponent that learns gets as much of as the study's own search did."""
    architecture_only: Opponent | None = Opponent()
    """The router without adapters."""
    static: Opponent | None = Opponent()
    """One trained adapter per candidate where the best trial has its generated ones."""
    plain_lora: Opponent | None = Opponent()
    """One trained adapter per candidate over all linear modules of all layers, without a bound on its norm."""
    few_shot: FewShot | None = FewShot()

    @property
    def learning(self) -> dict[Learning, Opponent]:
        """Those that learn and are not left out."""
        found: dict[Learning, Opponent | None] = {name: getattr(self, name) for name in LEARNING}
        return {name: opponent for name, opponent in found.items() if opponent is not None}
