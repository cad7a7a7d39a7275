"""The objective and the optimiser."""

from typing import Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat

from haps_search.config.base import Config


class LearningRates(Config):
    """Learning rates per level; the shared backbone takes the high-level one."""

    high: PositiveFloat = 1e-3
    low: PositiveFloat = 1e-3


class ScheduleConfig(Config):
    """Learning-rate factor over the steps of a run: linear warm-up, then constant or decay."""

    type: Literal["constant", "linear", "cosine"] = "cosine"
    warmup_steps: NonNegativeInt = 0
    final_fraction: float = Field(default=0.1, ge=0, le=1)
    """What is left of the learning rate at the last step."""


class LearningConfig(Config):
    """Reward-augmented training of both levels."""

    credit: Literal["paper", "leave_one_out", "group_normalised"] = "leave_one_out"
    """How rewards become credits; `paper`: the reward, or -1 where it is 0."""
    entropy_bonus: NonNegativeFloat = 0.01
    """Weight of the route entropy, nats."""
    kl_weight: NonNegativeFloat = 0.0
    """Weight of the KL to the frozen candidate, nats per utterance."""
    learning_rate: LearningRates = LearningRates()
    schedule: ScheduleConfig = ScheduleConfig()
    weight_decay: NonNegativeFloat = 0.0
    gradient_clip: PositiveFloat | None = 1.0
    """Bound on the norm of the gradient of all router weights together; null for none."""
