"""What a parameter of a space is drawn from."""

from typing import Annotated, Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from haps_search.config.base import Config

Conditions = dict[str, Any]
"""Parent path -> value, or list of values, under which a parameter is active."""


class FloatRange(Config):
    """A uniform float."""

    type: Literal["float"]
    low: float
    high: float
    when: Conditions = {}


class LogRange(Config):
    """A float, uniform in its logarithm."""

    type: Literal["log"]
    low: PositiveFloat
    high: PositiveFloat
    when: Conditions = {}


class IntRange(Config):
    """An integer, both ends included."""

    type: Literal["int"]
    low: int
    high: int
    step: PositiveInt = 1
    when: Conditions = {}


class Choice(Config):
    """One of the listed values; any YAML value will do."""

    type: Literal["choice"]
    values: tuple[Any, ...] = Field(min_length=1)
    when: Conditions = {}


Distribution = Annotated[FloatRange | LogRange | IntRange | Choice, Field(discriminator="type")]
