"""What an answer is read as, and what it is paid."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from haps_search.config.base import Config, Hook

NormaliserName = Literal["squad", "v1", "default"]


class Normalised(Config):
    """Rewards that compare texts."""

    normaliser: NormaliserName = "default"
    """`default` keeps signs, decimals and operators, folds Unicode, and counts characters where a script has no spaces.
    `squad` is SQuAD's official script, for numbers to be published. `v1` is how studies were scored before this
    setting; a stored study without it means `v1`."""


class Answered(Normalised):
    """Rewards that compare an answer, not all that is said around it."""

    answer: Literal["stated", "whole"] = "stated"
    """`stated`: what stands in a box, an answer tag, a JSON field or behind "the answer is", in a dozen languages; the
    whole text where nothing does. `squad` and `v1` always compare the whole text."""


class F1Reward(Answered):
    """Token F1; but for `squad`, yes, no and noanswer count only when equal (HotpotQA)."""

    type: Literal["f1"] = "f1"


class ExactReward(Answered):
    """1 where the normalised texts are equal."""

    type: Literal["exact"] = "exact"


class RegexReward(Normalised):
    """1 where the first group of `pattern` (or its whole match) equals the reference, normalised."""

    type: Literal["regex"] = "regex"
    pattern: str


class ContainsReward(Normalised):
    """1 where the reference's tokens stand in the answer in a row. It pays for naming everything, unless bounded."""

    type: Literal["contains"] = "contains"
    max_words: PositiveInt | None = None
    """Longer answers earn nothing. Needed while learning, where a router would find out that long lists pay."""


class ChoiceReward(Config):
    """1 where the option that the text states is the reference's."""

    type: Literal["multiple_choice"] = "multiple_choice"
    normaliser: Literal["v1", "default"] = "default"
    """`default` reads the answer that is stated, then boxed, then a lone label, then an option's words; `v1` as studies
    were scored before this setting."""
    labels: Literal["letters", "numbers"] | tuple[str, ...] = "letters"
    """What the options are called in the prompt: A, B, C; 1, 2, 3; or words of your own."""
    reference: Literal["auto", "label", "text", "zero_based", "one_based"] = "auto"
    """What the reference field holds. `auto` takes a label, or else an option's text; a number that counts the options
    has to be declared, since nothing else says whether the first one is 0 or 1."""

    @model_validator(mode="after")
    def _v1_knows_letters_alone(self) -> Self:
        if self.normaliser == "v1" and (self.labels != "letters" or self.reference != "auto"):
            raise ValueError("normaliser: v1 knows neither labels nor reference: leave them out, or choose default")
        return self


class NumericReward(Config):
    """1 where the number that the text states equals the reference's.

    Signs, thousands, fractions, percent, powers of ten and units are read. 50 % equals 0.5 and, where only one side
    has the sign, 50.
    """

    type: Literal["numeric"] = "numeric"
    tolerance: float = Field(default=1e-6, ge=0)
    """How far the two may differ, relative to the reference; absolutely for a reference of 0."""
    decimal: Literal[".", ","] = "."
    """What stands before decimals; the other one parts thousands."""
    units: Literal["optional", "required", "ignored"] = "optional"
    """Where the reference has a unit: an answer's own is converted, or is wrong. `required`: so is none."""


class MathReward(Config):
    """1 where the expression that the text states is mathematically equal to the reference's, by `math-verify`.

    Needs `pip install 'haps-search[math]'`.
    """

    type: Literal["math"] = "math"
    timeout_s: PositiveInt = 10
    """An expression that takes longer to compare earns nothing."""


class FunctionReward(Config):
    """The user's own `function(question, answer) -> float in [0, 1]`, as `module:function`."""

    type: Literal["function"] = "function"
    function: Hook


class PluginReward(Config):
    """What an installed package registers under the entry point group `haps_search.rewards`: called with the options,
    it gives a `function(question, answer) -> float in [0, 1]`."""

    GROUP: ClassVar[str] = "haps_search.rewards"
    type: Literal["plugin"] = "plugin"
    name: str
    options: dict[str, Any] = {}


Reward = Annotated[
    F1Reward
    | ExactReward
    | ChoiceReward
    | RegexReward
    | ContainsReward
    | NumericReward
    | MathReward
    | FunctionReward
    | PluginReward,
    Field(discriminator="type"),
]
