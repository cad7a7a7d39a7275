"""Where a run's parts live: in one process, or on Ray under a cluster profile."""

from collections.abc import Iterable
from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from haps_search.config.base import Config

OBJECT_STORE, OBJECT_STORE_MOST_GB = 0.3, 200.0
"""The share of a machine's memory that Ray gives to objects, and the most."""


class Resources(Config):
    """Logical Ray resources and CPU threads of one process."""

    cpus: NonNegativeFloat = 1.0
    gpus: NonNegativeFloat = 0.0
    """Whole GPUs, or a fraction of one, which may use that fraction of its memory."""
    threads: PositiveInt = 1
    """Threads torch may use; processes that share cores fight over them otherwise."""

    @model_validator(mode="after")
    def _whole_or_a_part_of_one(self) -> Self:
        if self.gpus > 1 and self.gpus != int(self.gpus):
            raise ValueError(f"gpus: got {self.gpus:g}; Ray gives whole GPUs or a part of one: use {int(self.gpus)}")
        return self


class Nodes(Config):
    """Equal machines of a cluster, for `haps plan` to count with. GB are 10^9 bytes."""

    count: PositiveInt = 1
    cpus: PositiveFloat
    gpus: NonNegativeInt = 0
    gpu_memory_gb: PositiveFloat | None = None
    """Of one GPU; null: what sits on GPUs is not compared with their memory."""
    memory_gb: PositiveFloat | None = None
    """Of one machine; null: what sits on CPUs is not compared with it."""
    object_store_gb: PositiveFloat | None = None
    """Of that, what Ray was given for objects (`ray start --object-store-memory`); null: its own choice, 30 % of
    `memory_gb`."""

    @property
    def store_gb(self) -> float | None:
        """Of one machine, where it is known."""
        own = None if self.memory_gb is None else min(OBJECT_STORE * self.memory_gb, OBJECT_STORE_MOST_GB)
        return self.object_store_gb or own


class Leases(Config):
    """What a worker gets at a time, and when the broker takes it back."""

    deadline_s: PositiveFloat = 300.0
    """A batch not answered by then is given to another worker."""
    attempts: PositiveInt = 3
    """A request that failed so often is answered with an error."""
    rows: PositiveInt = 128
    """At most so many requests in one lease."""
    gb: PositiveFloat = 1.0
    """At most so many GB (10^9 bytes) of adapters and gradients in one lease; a single ticket may have more."""
    restarts: PositiveInt = 5
    """A worker that died more often than this without having answered anything in between ends the pool; what was
    lost with its node does not count."""


class Retries(Config):
    """How long and how often is tried again what broke; see `faults.policy`."""

    deaths: PositiveInt = 3
    """A trial whose process died so often without getting further has failed; lost nodes do not count."""
    within_s: NonNegativeFloat = 600.0
    """What passes by itself (a store, the network, a full disk, a lost pool) is tried again for so long; 0: not at
    all."""
    longest_pause_s: PositiveFloat = 30.0


class Serving(Config):
    """How candidates grow under `haps serve`; `replicas` are then the least."""

    most_replicas: dict[str, PositiveInt] = {}
    """Replicas of a candidate, at most; as many as `replicas` where it is not named."""
    target_requests: PositiveFloat = 16.0
    """Requests of a replica, above which another one is started."""


class ClusterProfile(Config):
    """Resources per candidate worker, router actor and trial; one file of `clusters/profiles/`."""

    name: str
    description: str = ""
    candidate: Resources = Resources()
    candidates: dict[str, Resources] = {}
    """Candidates that need other resources than `candidate`, by name; each kind of resources is a Train run."""
    endpoint: Resources = Resources(cpus=0.05)
    """Candidates behind an address, unless `candidates` names them: their workers wait, and twenty share a CPU."""
    router: Resources = Resources()
    trial: Resources = Resources(cpus=0.0)
    replicas: dict[str, PositiveInt] = {}
    """Workers per candidate; one where not named."""
    serving: Serving = Serving()
    leases: Leases = Leases()
    retries: Retries = Retries()
    grace_s: PositiveFloat = 60.0
    """Whoever is asked to leave may take so long to end its step and save it; less than what the scheduler gives."""
    worker_start_timeout_s: PositiveFloat = 600.0
    health_check_interval_s: PositiveFloat = 2.0
    address: str | None = None
    """null starts Ray on this machine; `auto` joins the cluster this process runs on."""
    dashboard: str | None = None
    """URL of the cluster's dashboard, for `haps submit --profile`; null: `--address` says it."""
    logical_cpus: PositiveInt | None = None
    """For a Ray started here: CPUs to declare, null for the machine's own."""
    nodes: tuple[Nodes, ...] = ()
    """The machines `haps plan` and `haps sweep` count with, the head's first; empty: they are not known."""

    @model_validator(mode="after")
    def _a_trial_asks_for_something(self) -> Self:
        if not any((self.trial.cpus, self.trial.gpus, self.router.cpus, self.router.gpus)):
            raise ValueError("trial and router ask for no CPU and no GPU, so Ray cannot place them: give router.cpus")
        return self

    def resources_of(self, candidate: str) -> Resources:
        """What each worker of this candidate takes."""
        return self.candidates.get(candidate, self.candidate)

    def with_endpoints(self, names: Iterable[str]) -> Self:
        """The same with the resources of these candidates, which are endpoints, under their names."""
        return self.model_copy(update={"candidates": {**dict.fromkeys(names, self.endpoint), **self.candidates}})

    def workers_of(self, candidate: str) -> int:
        return self.replicas.get(candidate, 1)

    def machines(self) -> tuple[Nodes, ...]:
        """The declared nodes; where Ray is started here with declared CPUs, this machine; empty: not known."""
        if self.nodes or self.address is not None or self.logical_cpus is None:
            return self.nodes
        return (Nodes(cpus=self.logical_cpus),)


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
