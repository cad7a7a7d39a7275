"""The reward function that the user wrote, or that a package makes."""

from __future__ import annotations

import importlib
import math
import numbers
from collections.abc import Callable
from typing import Any

from haps_search.config.rewards import FunctionReward, PluginReward
from haps_search.errors import ConfigError, DataError
from haps_search.tasks.plugins import made_by_package
from haps_search.types import Question


class UserFunction:
    """Calls `function(question, answer) -> float in [0, 1]`, imported at its first call."""

    def __init__(self, own: FunctionReward | PluginReward) -> None:
        self._own = own
        self._function: Callable[[Question, str], Any] | None = None

    def load(self) -> Callable[[Question, str], Any]:
        """The function. Raises ConfigError where there is no such one."""
        if self._function is None:
            own = self._own
            self._function = load_function(own.function) if isinstance(own, FunctionReward) else _of_package(own)
        return self._function

    def __call__(self, question: Question, answer: str) -> float:
        """Raises ConfigError (no such function) or DataError (it failed, or its result is not in [0, 1])."""
        own, function = self._own, self.load()
        path = own.function if isinstance(own, FunctionReward) else own.name
        try:
            value = function(question, answer)
        except Exception as error:  # the user's code may raise anything, and it is raised on with its place
            what = f"{type(error).__name__}: {error}"
            raise DataError(f"reward {path} failed on question {question.id} with {what}") from error
        number = float(value) if isinstance(value, numbers.Real) else math.nan
        if not 0 <= number <= 1:
            got = f"{value!r} ({type(value).__name__})"
            raise DataError(f"reward {path}: got {got} for question {question.id}, needs a float in [0, 1]")
        return number


def _of_package(own: PluginReward) -> Callable[..., Any]:
    function = made_by_package(own)
    if not callable(function):
        raise ConfigError(f"task.reward.name: what {own.name} makes is no function(question, answer): {function!r}")
    made: Callable[..., Any] = function
    return made


def load_function(path: str) -> Callable[..., Any]:
    """The function that `module:function` names.

    Raises:
        ConfigError: no such module or function, or it cannot be called.
    """
    module_name, _, name = path.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        reason = f"task.reward.function: cannot import `{module_name}` ({error})"
        raise ConfigError(f"{reason}: install it, or put its folder on PYTHONPATH") from error
    function = getattr(module, name, None)
    if not callable(function):
        there = "something that cannot be called" if hasattr(module, name) else "nothing"
        raise ConfigError(f"task.reward.function: `{path}` names {there}, needs a function(question, answer)")
    return function
