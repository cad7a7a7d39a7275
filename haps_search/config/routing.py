"""The hierarchical router: backbone, high level, low level, LoRA."""

from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, PositiveFloat, PositiveInt, Tag, model_validator

from haps_search.config.base import Config
from haps_search.config.candidates import Dtype, Source, ZooSource
from haps_search.config.features import FeaturesConfig, TfidfFeatures


class LastLayers(Config):
    """The last n layers."""

    last: PositiveInt


class LoraConfig(Config):
    """Which modules are patched, PEFT's names. The update is `scaling * B @ A`."""

    rank: PositiveInt = 4
    scaling: PositiveFloat = 1.0
    """Multiplies B @ A directly (PEFT's lora_alpha / r)."""
    targets: Annotated[tuple[str, ...], Field(min_length=1)] | Literal["all-linear"] = ("o_proj",)
    """Module name endings, as PEFT's `target_modules`, or `all-linear`: all that stand in a layer."""
    layers: LastLayers | Literal["all"] | tuple[int, ...] = LastLayers(last=1)
    """`{last: n}`, `all`, or a list of layer indices counted from the input."""


class FullTuning(Config):
    """All backbone weights learn."""

    type: Literal["full"] = "full"


class FrozenTuning(Config):
    """The backbone stays as it is; only heads learn."""

    type: Literal["frozen"] = "frozen"


class LoraTuning(Config):
    """A PEFT LoRA on the backbone learns."""

    type: Literal["lora"] = "lora"
    rank: PositiveInt = 8
    alpha: PositiveInt = 16
    targets: tuple[str, ...] = Field(default=("q_proj", "v_proj"), min_length=1)


Tuning = Annotated[FullTuning | FrozenTuning | LoraTuning, Field(discriminator="type")]


class BackboneConfig(Config):
    """The shared reading of the routing prompt by an LM (theta of the paper) or by a text encoder."""

    type: Literal["lm", "encoder"] = "lm"
    """`encoder`: any model that `transformers` loads without a head, such as BERT; it reads as many tokens as it has
    positions. For one that stays frozen `type: features` keeps its embeddings on disk."""
    source: Source = ZooSource(name="adder")
    tuning: Tuning = FullTuning()
    dtype: Dtype = "float32"
    device: str = "auto"
    trust_remote_code: bool = False
    max_tokens: PositiveInt = 1024
    """Longer routing prompts keep their end, where the question stands, and are counted. For high level `lm` the
    chat template and the instruction count and stay whole, and the model's own positions are a bound too."""


class FeaturesBackboneConfig(Config):
    """Frozen features of the routing prompt and an MLP over them that learns: for machines without GPUs.

    What is fitted on texts is fitted on the training questions and kept with every checkpoint. Use `prompt:
    question`: all that the full prompt adds is the same for every question.
    """

    type: Literal["features"] = "features"
    features: tuple[FeaturesConfig, ...] = Field(default=(TfidfFeatures(),), min_length=1)
    """Side by side; the rows of each are scaled to length 1."""
    hidden: tuple[PositiveInt, ...] = ()
    """Widths of the layers of the MLP; empty leaves a linear head over the features."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of the features that a step leaves out, others each time; needs `learning.signal: outcomes`."""


def _lm_where_nothing_is_said(value: Any) -> Any:
    """Studies and checkpoints from before there was another kind of backbone name none."""
    named = value.get("type", "lm") if isinstance(value, dict) else getattr(value, "type", None)
    return "lm" if named == "encoder" else named


AnyBackbone = Annotated[
    Annotated[BackboneConfig, Tag("lm")] | Annotated[FeaturesBackboneConfig, Tag("features")],
    Discriminator(_lm_where_nothing_is_said),
]


class HeadHighLevel(Config):
    """A linear head on the pooled backbone, one softmax per role."""

    type: Literal["head"] = "head"


class LmHighLevel(Config):
    """The backbone is an instruct LM that scores each assignment written as one JSON object.

    It learns where `backbone.tuning` is `full` or `lora`; on a `frozen` backbone it routes zero-shot. Use
    `prompt: full`, which names the candidates.
    """

    type: Literal["lm"] = "lm"
    ids: Literal["single_token", "names"] = "single_token"
    """What stands for a candidate in the JSON. `single_token`: a letter or digit, which the instruction explains; what
    the LM answers to a question without content is taken off its scores, and kept with every checkpoint. `names`: the
    names; summed over their tokens, the shortest is likeliest whatever is asked."""
    temperature: PositiveFloat = 1.0
    """Scores, summed log-probabilities in nats, are divided by it before the softmax."""
    max_joint: PositiveInt = 64
    """Up to so many assignments (candidates ** roles) each is scored whole; beyond, each role by itself."""
    batch_rows: PositiveInt = 64
    """At most so many prompts, or pairs of prompt and assignment, in one forward pass."""


class FixedHighLevel(Config):
    """One assignment for every question, nothing to learn."""

    type: Literal["fixed"] = "fixed"
    assignment: tuple[str, ...] = Field(min_length=1)
    """A candidate name per role."""


class RandomHighLevel(Config):
    """Uniform over candidates, nothing to learn."""

    type: Literal["random"] = "random"


HighLevel = Annotated[HeadHighLevel | LmHighLevel | FixedHighLevel | RandomHighLevel, Field(discriminator="type")]


class _Leash(Config):
    """How far an update may go from the weight it is added to; null for as far as it likes."""

    max_relative_norm: PositiveFloat | None = 0.5
    """Bound on the Frobenius norm of each update relative to that of the weight it is added to. What a weight has
    spread over all directions an update of low rank has in a few, so it may still exceed the weight there."""
    max_relative_spectral_norm: PositiveFloat | None = None
    """Bound on the spectral norm (largest singular value) of each update relative to that of the weight, so that no
    input's change exceeds this share of the most that the weight does to any. Of two bounds both hold."""


class PooledConfig(Config):
    """What the low level reads of a question: a mean of the backbone's last states."""

    of: Literal["prompt", "question"] = "prompt"
    """`question`: over the question's own tokens. With `prompt: full` the others are the same for every question, and
    the means of two questions hardly differ (40 of them had a mean cosine of 0.997)."""
    standardised: bool = False
    """Each number less its mean over training questions (256 at most) and divided by its deviation. Both are taken
    before the first step and kept with every checkpoint."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of the numbers that a step leaves out, others each time; routing and learning leave out the same ones."""


class ReadingLowLevel(_Leash):
    """A low level whose adapters depend on the question."""

    pooled: PooledConfig = PooledConfig()


class GeneratedLowLevel(ReadingLowLevel):
    """The hypernetwork: the pooled backbone through an MLP per candidate gives the LoRA weights."""

    type: Literal["generated"] = "generated"
    residual_of: Literal["static"] | None = None
    """`static`: what is generated is added to a static adapter of the same rank, so together they have twice the rank.
    The static one keeps to 0.9 of the bounds, and what is generated to what it leaves: the bounds hold for the sum."""
    static_learns: bool = True
    """false: the static adapter stays as it began (see `run.warm_start_low`), and what is generated learns alone."""
    hidden: tuple[PositiveInt, ...] = (256, 256)
    sharing: Literal["per_layer", "shared"] = "per_layer"
    """`shared`: equal modules of all patched layers get the same A and B (before the bound below, which is
    relative to each layer's own weight)."""
    init: Literal["zero", "xavier"] = "zero"
    """`zero`: B starts at 0, so the first step is the frozen model."""
    scale_output: bool = False
    """Divide what the last layer adds to its bias by the square root of its width, so that a step of the optimiser
    moves an adapter by as much whatever that is."""


class StaticLowLevel(_Leash):
    """One trained adapter per candidate, the same for every question: what generating has to beat."""

    type: Literal["static"] = "static"
    init: Literal["zero", "xavier"] = "zero"


class BankLowLevel(ReadingLowLevel):
    """A few adapters per candidate that all questions share, mixed by the question: the mixture's lora_A and lora_B are
    the means of theirs, weighted by a softmax that is linear in the pooled backbone."""

    type: Literal["bank"] = "bank"
    size: int = Field(default=8, ge=2)
    init: Literal["zero", "xavier"] = "zero"


class NoLowLevel(Config):
    """Frozen candidates as they are: architecture-only."""

    type: Literal["none"] = "none"


LowLevel = Annotated[GeneratedLowLevel | BankLowLevel | StaticLowLevel | NoLowLevel, Field(discriminator="type")]


class RoutingConfig(Config):
    """Who decides, and from what reading."""

    prompt: Literal["question", "full"] = "full"
    """`full`: task, roles, candidate cards and question; `question`: the question's text alone."""
    backbone: AnyBackbone = BackboneConfig()
    share_backbone: bool = True
    """false gives the low level a copy of its own, equal at the start, under the low learning rate. The router
    then holds the backbone twice, its optimiser moments too."""
    high_level: HighLevel = HeadHighLevel()
    low_level: LowLevel = GeneratedLowLevel()
    lora: LoraConfig = LoraConfig()

    @property
    def reads_by_a_model(self) -> bool:
        """Whether a router of its own has an LM or encoder, which a GPU helps."""
        return isinstance(self.backbone, BackboneConfig)

    @model_validator(mode="after")
    def _readable(self) -> Self:
        if self.backbone.type != "lm" and self.high_level.type == "lm":
            raise ValueError(f"high_level: type lm asks an LM, got backbone type {self.backbone.type}: use type head")
        return self

    @model_validator(mode="after")
    def _the_question_in_sight(self) -> Self:
        read = self.backbone.features if isinstance(self.backbone, FeaturesBackboneConfig) else ()
        blind = [features.type for features in read if features.type in ("heading", "encoder")]
        if self.prompt == "full" and blind:
            raise ValueError(
                f"prompt: got full, whose beginning is the same for every question, and {blind[0]} features read the "
                "beginning: use prompt: question"
            )
        return self

    @model_validator(mode="after")
    def _a_question_to_pool(self) -> Self:
        of_question = isinstance(self.low_level, ReadingLowLevel) and self.low_level.pooled.of == "question"
        if of_question and self.prompt == "full" and isinstance(self.backbone, FeaturesBackboneConfig):
            raise ValueError(
                "low_level.pooled.of: got question, but features are of the whole prompt: use prompt: question"
            )
        return self

    @model_validator(mode="after")
    def _something_to_share(self) -> Self:
        both = self.high_level.type in ("head", "lm") and isinstance(self.low_level, ReadingLowLevel)
        if not (self.share_backbone or both):
            raise ValueError(
                f"share_backbone: false with high level {self.high_level.type} and low level {self.low_level.type}, "
                "of which not both read the backbone: leave it true, or use head or lm with generated or bank"
            )
        return self
