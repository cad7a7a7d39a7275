"""How a space is searched: what draws the next setting, and what stops a trial early.

Every option of Optuna's that decides a suggestion stands here with a value of ours, so that another version's defaults
do not change a sweep.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from haps_search.config.base import Config


class TpeSampler(Config):
    """Optuna's tree-structured Parzen estimator."""

    type: Literal["tpe"] = "tpe"
    startup_trials: PositiveInt = 5
    """So many are drawn independently first."""
    candidates: PositiveInt = 24
    """Draws among which the most promising is taken."""
    multivariate: bool | None = None
    """Parameters are drawn jointly; null: with one objective."""
    group: bool = False
    """Joint draws also among parameters that a condition turns on together; needs `multivariate`."""
    constant_liar: bool = True
    """Running trials count as poor, so that concurrent ones do not crowd together."""
    stopped: Literal["pruned", "complete"] = "pruned"
    """What a trial that the scheduler stopped is told as, with one objective. `pruned`: with its curve, and ranked
    below every complete trial, by the step it reached and then by its value there. `complete`: its last value is taken
    for a result. With several objectives it is always `complete`."""

    @model_validator(mode="after")
    def _grouped(self) -> Self:
        if self.group and self.multivariate is not True:
            raise ValueError("group: draws jointly within groups, so it needs multivariate: true")
        return self


class GpSampler(Config):
    """Optuna's Gaussian process; for spaces without conditions. A stopped trial's last value is taken for a result."""

    type: Literal["gp"] = "gp"
    startup_trials: PositiveInt = 5
    deterministic: bool = False
    """No noise is assumed in the objective."""


class CmaEsSampler(Config):
    """Optuna's CMA-ES; for two and more floats and integers, without conditions, and one objective. A stopped trial's
    last value is taken for a result."""

    type: Literal["cmaes"] = "cmaes"
    startup_trials: PositiveInt = 1
    population: PositiveInt | None = Field(default=None, ge=2)
    """Settings in a generation; null: 4 + 3 ln(number of parameters)."""
    sigma: PositiveFloat | None = None
    """The first generation's spread, as a share of each range; null: a sixth."""
    separable: bool = False
    """A diagonal covariance."""
    margin: bool = False
    """Integers keep a lower bound on their spread."""


class RandomSampler(Config):
    """Independent draws."""

    type: Literal["random"] = "random"


class GridSampler(Config):
    """Every combination of choices and integers, inactive parameters left out."""

    type: Literal["grid"] = "grid"


Sampler = Annotated[TpeSampler | GpSampler | CmaEsSampler | RandomSampler | GridSampler, Field(discriminator="type")]


class Asha(Config):
    """Asynchronous successive halving on the first objective, in steps."""

    type: Literal["asha"] = "asha"
    grace_steps: PositiveInt = 50
    reduction: float = Field(default=3.0, gt=1)


class NoScheduler(Config):
    """Every trial runs to its end."""

    type: Literal["none"] = "none"


Scheduler = Annotated[Asha | NoScheduler, Field(discriminator="type")]
