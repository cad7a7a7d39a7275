"""What task, candidates, routing and learning must agree on where outcomes come from a table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from haps_search.config.base import Config
from haps_search.config.candidates import CandidateConfig, endpoints_of
from haps_search.config.engines import EngineConfig, RayEngineConfig
from haps_search.config.learning import LearningConfig
from haps_search.config.routing import FixedHighLevel, GeneratedLowLevel, ReadingLowLevel, RoutingConfig
from haps_search.config.stages import staged
from haps_search.config.tasks import TaskConfig


def replay_problem(
    task: TaskConfig, candidates: Sequence[CandidateConfig], routing: RoutingConfig, learning: LearningConfig
) -> str | None:
    """The first disagreement, with the path it is at; None where there is none."""
    from_table = [c.name for c in candidates if c.source.type == "table"]
    replays = task.type == "replay"
    if from_table and not replays:
        return f"candidates: {from_table[0]} is a model of a table, got task {task.type}: use task type replay"
    if replays and len(from_table) < len(candidates):
        other = next(c for c in candidates if c.source.type != "table")
        return f"candidates: task replay asks nobody, got {other.name} from {other.source.type}: use type table"
    if replays and learning.signal == "references":
        return "learning.signal: got references, but models of a table learn nothing: set outcomes"
    if replays and routing.low_level.type != "none":
        return f"routing.low_level: got {routing.low_level.type}, but models of a table take no weights: use type none"
    return next(_of_signal(replays, routing, learning), None)


def endpoint_problem(
    candidates: Sequence[CandidateConfig], routing: RoutingConfig, learning: LearningConfig, top_k: int
) -> str | None:
    """What would be asked of an endpoint that it cannot do, with the path it is at; None where nothing would."""
    endpoints = endpoints_of(candidates)
    if not endpoints:
        return None
    low, who = routing.low_level.type, endpoints[0]
    if learning.signal == "references":
        return (
            f"learning.signal: got references, but {who} is an endpoint, which gives no gradient: use rollouts, or "
            "teach the candidates of your own in a study without it"
        )
    if low != "none" and len(endpoints) == len(candidates):
        return (
            f"routing.low_level: got {low}, but all candidates are endpoints, which take no adapter: use type none, or "
            "add a candidate whose weights are yours"
        )
    if top_k:
        return f"run.sampling.top_k: got {top_k}, which {who}, an endpoint, cannot be asked for: use 0, and top_p"
    return None


def _of_signal(replays: bool, routing: RoutingConfig, learning: LearningConfig) -> Iterator[str]:
    if learning.signal == "outcomes":
        if not replays:
            yield "learning.signal: outcomes needs task type replay: episodes of other tasks have to be played"
    else:
        yield from _only_outcomes(routing, learning)
        if replays and learning.cost_weight > 0:
            yield (
                f"learning.cost_weight: got {learning.cost_weight:g}, but an episode of a replay knows no cost: set "
                "learning.signal: outcomes, or cost_weight: 0"
            )
    if learning.signal == "references" and routing.low_level.type == "none":
        yield "learning.signal: got references, which teach the low level, but routing.low_level has type none"
    if learning.cost_conditioned is not None and routing.backbone.type != "features":
        yield "learning.cost_conditioned: only routing.backbone type features reads the weight of cost"


def _only_outcomes(routing: RoutingConfig, learning: LearningConfig) -> Iterator[str]:
    for path, used in (
        ("learning.cost_conditioned", learning.cost_conditioned is not None),
        ("learning.task_smoothing", learning.task_smoothing > 0),
        ("routing.backbone.dropout", getattr(routing.backbone, "dropout", 0.0) > 0),
    ):
        if used:
            yield f"{path}: works on whole rows of a table: set learning.signal: outcomes"


class SamplingConfig(Config):
    """How training episodes are drawn; validation is greedy."""

    max_new_tokens: PositiveInt = 32
    temperature: PositiveFloat = 1.0
    top_k: NonNegativeInt = 0
    top_p: float = Field(default=1.0, gt=0, le=1)
    min_p: float = Field(default=0.0, ge=0, lt=1)
    """Tokens less likely than this share of the likeliest are not drawn."""


class ValidationConfig(Config):
    """Greedy play on validation questions during a run."""

    every: PositiveInt = 25
    questions: PositiveInt = 200
    """During the run, of those that choose; tables use all that are reported on."""
    choosing_share: float = Field(default=0.5, gt=0, le=1)
    """Share of the validation questions, by a hash of the text, that settings and checkpoints are chosen on; tables
    report on the others. 1: all of them do both, which flatters what was chosen."""
    drawn: Literal["hash", "first"] = "hash"
    """Which `questions` of those that choose: drawn by a hash of their ids, or the first of the file, which may be
    sorted by task; so runs were validated before this key was."""
    patience: PositiveInt | None = None
    """Stop after so many validations without a gain; null never."""
    best: Literal["utility", "aiq", "aiq0", "reference_match", "reference_log_likelihood"] = "utility"
    """What the best step is best in: reward less what cost weighs; or, on tables with costs, the reward over all that
    one may want to spend: RouterBench's AIQ, or `aiq0`, with (0, 0) in its hull, which a worse cheap choice beside
    the others cannot lower. With `learning.signal: references` also what is measured without decoding: the share of
    references that greedy decoding would say word for word, or their mean log-likelihood."""


class CollapseConfig(Config):
    """When the alarm of a step rings."""

    route_entropy: float = Field(default=0.05, ge=0)
    """Mean route entropy below this, nats, while one assignment takes nearly all episodes."""
    assignment_share: float = Field(default=0.98, gt=0, le=1)
    answer_share: float = Field(default=0.5, gt=0, le=1)
    """Share of the most frequent answer over the step's questions."""


class WarmupConfig(Config):
    """How `haps warmup` trains the high level on an outcome table; it takes `questions_per_step` and `learning`."""

    epochs: PositiveInt = 10
    held_out: float = Field(default=0.2, gt=0, lt=1)
    """Share of the questions that validate, chosen by a hash of their text."""


class RunConfig(Config):
    """One training from start to checkpoint."""

    steps: PositiveInt = 200
    questions_per_step: PositiveInt = 32
    episodes_per_question: PositiveInt = 4
    seed: int = 0
    sampling: SamplingConfig = SamplingConfig()
    validation: ValidationConfig = ValidationConfig()
    collapse: CollapseConfig = CollapseConfig()
    record_every: PositiveInt = 1
    """Steps from one record of metrics to the next; validated steps always have one. Replay takes thousands of steps
    a minute, more than a tracker wants to hear of."""
    checkpoint_every: PositiveInt = 25
    keep_checkpoints: PositiveInt = 2
    """The newest so many are kept, beside the best by validation."""
    warm_start: str | None = None
    """A run, such as one of `haps warmup`, with whose high level and backbone this one begins: a folder, or the NAME
    of a run beside this one. Low level and optimiser start afresh."""
    warm_start_low: bool = False
    """With the low level of `warm_start` as well; its static adapter becomes what a generated one is a residual of."""
    half: Literal[0, 1] | None = None
    """Learn from one half of the training questions, drawn by a hash of their text; null from all. The two runs whose
    adapters play each other's questions have it (`haps collect --adapters cross-fit`)."""
    warmup: WarmupConfig = WarmupConfig()
    staleness: Literal[0, 1] = 0
    """1 plays the next step's episodes while the router learns from this one's, so they are routed by a router one
    update old; their gradient is taken at its weights. Not before a step that is saved. 0 waits."""


class Experiment(Config):
    """Everything one run needs to be the same run again."""

    task: TaskConfig
    candidates: tuple[CandidateConfig, ...] = Field(min_length=1)
    routing: RoutingConfig = RoutingConfig()
    learning: LearningConfig = LearningConfig()
    run: RunConfig = RunConfig()
    engine: EngineConfig = RayEngineConfig()
    stages: tuple[dict[str, Any], ...] = ()
    """Parts of a run, played one after the other, such as references and then rewards: each a mapping of dotted path
    inside `learning` or `run` -> value, over the experiment. A stage has `run.steps` steps of its own, counted on from
    those before (`run.validation.patience` ends it early, and the next begins at its own first step all the same), and
    begins with both levels of the best step so far; optimiser and learning-rate schedule start afresh, and
    `learning.kl_to: start` holds to that beginning. The best step stays the one before until the stage beats it, in
    what `run.validation.best` says there. Records have `stage`, from 1; paths of a space go on inside, as in
    `stages.0.learning.learning_rate.low`."""

    def played(self) -> tuple[Self, ...]:
        """What a run plays, one after the other: its stages, or this experiment where it has none."""
        return staged(type(self), self.model_dump(mode="json"), self.stages) or (self,)

    @property
    def total_steps(self) -> int:
        """Steps of all stages together."""
        return sum(stage.run.steps for stage in self.played())

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [c.name for c in self.candidates]
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice:
            raise ValueError(f"candidates: names must differ, got {', '.join(twice)} twice")
        if self.stages:  # what is run are these, and each of them is checked
            signals = {stage.learning.signal for stage in self.played()}
            if "outcomes" in signals and self.learning.signal != "outcomes":
                raise ValueError("learning.signal: outcomes is what all stages learn from; set it in experiment")
            return self
        problem = replay_problem(self.task, self.candidates, self.routing, self.learning) or endpoint_problem(
            self.candidates, self.routing, self.learning, self.run.sampling.top_k
        )
        if problem is not None:
            raise ValueError(problem)
        best, signal = self.run.validation.best, self.learning.signal
        if best.startswith("aiq") and signal != "outcomes":
            raise ValueError(f"run.validation.best: {best} needs learning.signal: outcomes, whose table has costs")
        if best.startswith("reference") and signal != "references":
            raise ValueError(f"run.validation.best: {best} is measured with learning.signal: references alone")
        if self.run.episodes_per_question == 1 and self.learning.advantage != "paper" and signal == "rollouts":
            raise ValueError(
                f"learning.advantage: {self.learning.advantage} compares episodes of a question and needs "
                "run.episodes_per_question >= 2; use advantage: paper for one episode"
            )
        low = self.routing.low_level
        if (
            self.learning.route == "greedy"
            and signal == "rollouts"
            and isinstance(low, ReadingLowLevel)
            and low.pooled.dropout
        ):
            raise ValueError(
                f"routing.low_level.pooled.dropout: got {low.pooled.dropout:g}, but a greedy route is that of "
                "validation, which leaves nothing out: set it to 0, or learning.route: sampled"
            )
        if self.run.staleness and signal != "rollouts":
            raise ValueError(f"run.staleness: with learning.signal {signal} nothing is played ahead; leave it at 0")
        if self.run.warm_start_low and (self.run.warm_start is None or low.type == "none"):
            raise ValueError("run.warm_start_low: needs run.warm_start and a low level that begins there")
        if self.learning.kl_to == "start" and not self.run.warm_start_low:
            raise ValueError(
                "learning.kl_to: start needs run.warm_start_low, or a stage after the first; without either a run "
                "begins at the frozen model"
            )
        if isinstance(low, GeneratedLowLevel) and not low.static_learns and low.residual_of is None:
            raise ValueError("routing.low_level.static_learns: false without residual_of: static")
        high = self.routing.high_level
        if isinstance(high, FixedHighLevel):
            unknown = sorted(set(high.assignment) - set(names))
            if unknown:
                raise ValueError(f"routing.high_level.assignment: no candidate named {', '.join(unknown)}")
        return self
