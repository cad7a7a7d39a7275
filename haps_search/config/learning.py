"""The objective and the optimiser."""

import math
from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, model_validator

from haps_search.config.base import Config

COST_WEIGHT = "cost_weight"
"""The attribute of a question that says what its cost weighs, for routers that read it."""


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


class ExpectedReward(Config):
    """Minus the expected reward under the router's distribution over assignments."""

    type: Literal["expected_reward"] = "expected_reward"


class SoftTargets(Config):
    """Cross-entropy to q(z|x) proportional to exp(R/temperature); at 0 the best assignments share it equally."""

    type: Literal["soft_targets"] = "soft_targets"
    temperature: NonNegativeFloat = 0.1


class Pairwise(Config):
    """Bradley-Terry over pairs of assignments with different rewards, weighted by the difference."""

    type: Literal["pairwise"] = "pairwise"


class Contrastive(Config):
    """InfoNCE: the assignments within `margin` of the best against all others."""

    type: Literal["contrastive"] = "contrastive"
    margin: NonNegativeFloat = 0.0


class SquaredError(Config):
    """Least squares: `temperature` * log p predicts the reward, up to a constant of the question."""

    type: Literal["squared_error"] = "squared_error"
    temperature: PositiveFloat = 0.1
    """The reward that a difference of 1 in log p stands for."""


OutcomeLoss = Annotated[
    ExpectedReward | SoftTargets | Pairwise | Contrastive | SquaredError, Field(discriminator="type")
]


class CostRange(Config):
    """Weights of cost, drawn uniformly in their logarithm."""

    low: PositiveFloat
    high: PositiveFloat

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"high: got {self.high:g}, needs more than low, {self.low:g}")
        return self

    def told(self, weight: float) -> float:
        """A weight of cost as a router reads it, from -1 to 1; below the lowest it is the lowest."""
        low, high = math.log(self.low), math.log(self.high)
        return 2 * (math.log(max(weight, self.low)) - low) / (high - low) - 1


class ReferencesConfig(Config):
    """What `signal: references` teaches the low level: the likelihood of the questions' references, by teacher forcing.

    loss = -1/Q * sum over questions, candidates and texts of w * (share of the text) * log p(text),

    shares are even among references, and go by rewards where there are `completions`,
    log p summed over the tokens of an answer, the one that ends it included. w is 1, or the router's probability.
    """

    of: Literal["all", "routed"] = "all"
    """`all`: every candidate learns every question. `routed`: each as much as the router would choose it; one that it
    never chooses costs nothing."""
    text: str = "{reference}"
    """How an answer is written; as the task's reward reads it."""
    completions: str | None = None
    """A table of `haps collect`: its completions are taught beside the references. Each distinct text of a question
    weighs exp(R/temperature), divided by the sum of these, where R is what it earned, and 1 for a reference. A question
    whose texts all earned the same is left out; one without completions there is taught its references."""
    completions_of: Literal["all", "own"] = "all"
    """Whose completions a candidate is taught: those of all candidates, or only what it said itself."""
    temperature: PositiveFloat = 0.1
    """The reward that makes a text weigh e times as much."""
    shortlist: NonNegativeInt = 0
    """While learning, take likelihoods over a reference's own tokens, those that end an answer, and so many that the
    frozen model finds likeliest at each of its places, 64 for instance, instead of the whole vocabulary (0): less to
    compute where the vocabulary is large. Held-out references are always measured over all of it."""

    @model_validator(mode="after")
    def _names_the_reference(self) -> Self:
        if "{reference}" not in self.text:
            raise ValueError(f"text: got `{self.text}`, needs {{reference}} where the reference is to stand")
        return self


class LearningConfig(Config):
    """Reward-augmented training of both levels."""

    signal: Literal["rollouts", "outcomes", "references"] = "rollouts"
    """What a step learns from: episodes that were played; (task `replay`) the whole row of the table, whose expectation
    is exact; or the questions' references, from which the low level alone learns."""
    references: ReferencesConfig = ReferencesConfig()
    advantage: Literal["paper", "leave_one_out", "group_normalised"] = "leave_one_out"
    """How rewards, less what cost weighs, become advantages; `paper`: the reward whatever the cost, or -1 where it is
    0."""
    route: Literal["sampled", "greedy"] = "sampled"
    """`greedy`: every episode plays the likeliest assignment and the choice has no log-probability in the objective,
    as in the paper's released code."""
    outcome_loss: OutcomeLoss = SoftTargets()
    """What the high level learns from where every assignment's reward is known (warm-up, replay)."""
    cost_weight: NonNegativeFloat = 0.0
    """Reward given up per unit of price; prices stand with the candidates. In replay the unit is the mean cost of
    the dearest model over the training questions."""
    cost_conditioned: CostRange | None = None
    """Draw the weight of cost for each question from a range, and let the router read it: one router serves every
    weight at use time. Where nobody says one, it is `cost_weight`, at least `low`."""
    task_smoothing: float = Field(default=0.0, ge=0, le=1)
    """In replay: so much of each reward is replaced by the model's mean on the question's task (training rows)."""
    entropy_bonus: NonNegativeFloat = 0.01
    """Weight of the route entropy, nats."""
    kl_weight: NonNegativeFloat = 0.0
    """Weight of KL(adapted || frozen candidate), nats per completion: reverse, over the whole vocabulary at each
    sampled (or taught) token, summed. Its gradient takes the tokens before as given, so it leaves out that a token
    decides which tokens come after it and what the KL is there."""
    kl_to: Literal["frozen", "start"] = "frozen"
    """What `kl_weight` holds to: the frozen candidate; or, in a run that begins with the low level of another
    (`run.warm_start_low`), the candidate under the adapters that it began with."""
    learning_rate: LearningRates = LearningRates()
    schedule: ScheduleConfig = ScheduleConfig()
    weight_decay: NonNegativeFloat = 0.0
    gradient_clip: PositiveFloat | None = 1.0
    """Bound on the norm of the gradient of all router weights together; null for none."""
