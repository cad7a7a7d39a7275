"""A study: an experiment, the space around it, and how the space is searched."""

import math
from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, field_validator, model_validator

from haps_search.config.base import Config, Name, concealed
from haps_search.config.constraints import Constraint, parse_constraint
from haps_search.config.distributions import Distribution
from haps_search.config.opponents import OpponentsConfig
from haps_search.config.run import Experiment
from haps_search.config.samplers import Asha, NoScheduler, Sampler, Scheduler, TpeSampler


class Objective(Config):
    """A metric of a run's end."""

    metric: Literal[
        "validation_reward",
        "validation_utility",
        "validation_aiq",
        "validation_aiq0",
        "validation_tokens",
        "validation_cost",
        "step_seconds",
        "adapter_norm",
    ] = "validation_reward"
    mode: Literal["max", "min"] = "max"


class SweepConfig(Config):
    """How the space is searched."""

    trials: PositiveInt = 8
    """Settings to search."""
    seeds_per_trial: PositiveInt = 1
    """Runs of each setting, on the same seeds for all; their mean is what is searched. Each run is a trial of its own
    in records and trackers."""
    concurrency: PositiveInt = 2
    """Runs at a time."""
    sampler: Sampler = TpeSampler()
    scheduler: Scheduler = NoScheduler()
    objectives: tuple[Objective, ...] = Field(default=(Objective(),), min_length=1)
    constraints: tuple[str, ...] = ()
    """`METRIC <= NUMBER` or `METRIC >= NUMBER`, on what a run has at its best step: a setting that breaks one ranks
    behind all that keep them, and the sampler is told."""
    enqueue: tuple[dict[str, Any], ...] = ()
    """Settings to try first, dotted path -> value inside the space; parameters left out are drawn."""
    seed: int = 0
    seeds: tuple[int, ...] = Field(default=(0, 1, 2, 3, 4), min_length=1)
    """Run seeds of each arm; they may grow when a sweep is taken up again."""
    max_hours: PositiveFloat | None = None
    comparison: bool = True
    """Search the opponents and measure all rows of the final table; with arms, measure them all on the validation split
    when they have ended."""
    opponents: OpponentsConfig = OpponentsConfig()

    @field_validator("constraints")
    @classmethod
    def _readable(cls, constraints: tuple[str, ...]) -> tuple[str, ...]:
        for text in constraints:
            parse_constraint(text)
        return constraints

    @property
    def limits(self) -> tuple[Constraint, ...]:
        """The constraints, read."""
        return tuple(parse_constraint(text) for text in self.constraints)

    @property
    def asked(self) -> tuple[str, ...]:
        """The metrics that a trial must have finite values of, to have a result."""
        names = [*(o.metric for o in self.objectives), *(c.metric for c in self.limits)]
        return tuple(dict.fromkeys(names))

    def values(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """What a trial's metrics have of all that is asked; NaN for what they lack."""
        bounded = {c.metric: c.value(metrics) for c in self.limits}
        return {name: metrics.get(name, bounded.get(name, math.nan)) for name in self.asked}


class TrackingConfig(Config):
    """Where metrics go beside the JSONL."""

    mlflow: bool = True
    uri: str | None = None
    """null: what MLFLOW_TRACKING_URI says, else an sqlite file under the runs folder."""
    system_metrics: bool = False
    """The driver's machine in MLflow: processors, memory, disk, network, GPUs."""
    also: tuple[str, ...] = ()
    """Trackers beside MLflow, by name: `tensorboard`, or what a package announces under the entry point group
    `haps_search.trackers`."""

    @field_validator("uri")
    @classmethod
    def _no_secrets(cls, uri: str | None) -> str | None:
        if uri is not None and concealed(uri) != uri:
            raise ValueError(
                "it holds a password, and a study is copied into runs and MLflow: put the whole address into the "
                "environment (MLFLOW_TRACKING_URI), or user and password (MLFLOW_TRACKING_USERNAME, _PASSWORD)"
            )
        return uri


class Study(Config):
    """One file of search_spaces/."""

    name: Name
    description: str = ""
    expected: str = ""
    """The number to expect and where it comes from."""
    experiment: Experiment
    space: dict[str, Distribution] = {}
    """Dotted path inside `experiment` -> distribution."""
    arms: dict[str, dict[str, Any]] = {}
    """Settings to compare, instead of a space to search: name -> dotted path inside `experiment` -> value. All run on
    the same `sweep.seeds`; the others are compared with the first."""
    sweep: SweepConfig = SweepConfig()
    tracking: TrackingConfig = TrackingConfig()

    @model_validator(mode="after")
    def _one_objective_for_asha(self) -> Self:
        if isinstance(self.sweep.scheduler, Asha) and len(self.sweep.objectives) > 1:
            raise ValueError("sweep.scheduler: asha stops by one objective; use `type: none` with several")
        return self

    @model_validator(mode="after")
    def _repeats(self) -> Self:
        if self.sweep.seeds_per_trial == 1:
            return self
        if isinstance(self.sweep.scheduler, Asha):
            raise ValueError("sweep.seeds_per_trial: asha stops single runs, and a mean needs all of them; use none")
        if "run.seed" in self.space:
            raise ValueError("sweep.seeds_per_trial: the space searches run.seed; take it out of the space")
        if self.arms:
            raise ValueError("sweep.seeds_per_trial: arms run on sweep.seeds; leave it at 1")
        return self

    @model_validator(mode="after")
    def _arms_or_space(self) -> Self:
        if self.arms and self.space:
            raise ValueError("arms: a study compares arms or searches a space; move what is common into experiment")
        if self.arms and isinstance(self.sweep.scheduler, Asha):
            raise ValueError("sweep.scheduler: asha would stop some arms early, which compares them no more; use none")
        if len(set(self.sweep.seeds)) < len(self.sweep.seeds):
            raise ValueError(f"sweep.seeds: {list(self.sweep.seeds)} names a seed twice")
        return self
