"""Where a run's parts live: in one process, or on Ray under a cluster profile."""

from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from haps_search.config.base import Config


class Resources(Config):
    """Logical Ray resources and CPU threads of one process."""

    cpus: NonNegativeFloat = 1.0
    gpus: NonNegativeFloat = 0.0
    threads: PositiveInt = 1
    """Threads torch may use; processes that share cores fight over them otherwise."""


class Leases(Config):
    """When the broker takes work back from a worker."""

    deadline_s: PositiveFloat = 300.0
    """A batch not answered by then is given to another worker."""
    attempts: PositiveInt = 3
    """A request that failed so often is answered with an error."""
    rows: PositiveInt = 128
    """At most so many requests in one lease."""
    restarts: PositiveInt = 5
    """A worker that died more often than this ends the pool."""


class ClusterProfile(Config):
    """Resources per candidate worker, router actor and trial; one file of `clusters/profiles/`."""

    name: str
    description: str = ""
    candidate: Resources = Resources()
    router: Resources = Resources()
    trial: Resources = Resources(cpus=0.0)
    replicas: dict[str, PositiveInt] = {}
    """Workers per candidate; one where not named."""
    leases: Leases = Leases()
    worker_start_timeout_s: PositiveFloat = 600.0
    health_check_interval_s: PositiveFloat = 2.0
    address: str | None = None
    """null starts Ray on this machine; `auto` joins the cluster this process runs on."""
    logical_cpus: PositiveInt | None = None
    """For a Ray started here: CPUs to declare, null for the machine's own."""

    @model_validator(mode="after")
    def _a_trial_asks_for_something(self) -> Self:
        if not any((self.trial.cpus, self.trial.gpus, self.router.cpus, self.router.gpus)):
            raise ValueError("trial and router ask for no CPU and no GPU, so Ray cannot place them: give router.cpus")
        return self


class LocalEngineConfig(Config):
    """Everything in one process, no Ray."""

    type: Literal["local"] = "local"
    threads: PositiveInt | None = None
    """Threads torch may use; null leaves torch's choice."""


class RayEngineConfig(Config):
    """The pool as a Ray Train run, one router actor per trial."""

    type: Literal["ray"] = "ray"
    profile: str = "local-cpu"
    """A name in clusters/profiles/ or a path."""


EngineConfig = Annotated[LocalEngineConfig | RayEngineConfig, Field(discriminator="type")]
