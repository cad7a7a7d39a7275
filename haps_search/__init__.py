"""haps_search: joint search over which LLM answers a question and with which LoRA weights.

    import haps_search as haps

    study = haps.load_study("skills", {"sweep.trials": 4})
    result = haps.sweep(study, name="first")        # or haps.resume("first")
    result.trials, result.comparison                # pandas tables
    run = haps.load_run("first")                    # the best trial, or any run
    run.route(["[y] sort plum="]), run.ask("[y] sort plum="), run.export(["[y] sort plum="], "adapters")

Every verb of the command line is a function here. What it needs is imported when it is first used.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from haps_search.version import __version__

if TYPE_CHECKING:
    from haps_search.config.load import load_profile, load_study, make_study
    from haps_search.errors import HapsError
    from haps_search.serving.server import Listening, serve, served_run
    from haps_search.tasks.own import QuestionTask, hold_task
    from haps_search.tasks.question_lines import read_questions
    from haps_search.types import Completion, Episode, Message, Parsed, Question, Role, Turn
    from haps_search.verbs.check_reward import check_reward
    from haps_search.verbs.collect import collect
    from haps_search.verbs.compare import compare
    from haps_search.verbs.confirm import confirm
    from haps_search.verbs.evaluate import evaluate
    from haps_search.verbs.events import Counted, Frame, Said
    from haps_search.verbs.explain import explain
    from haps_search.verbs.extend import extend
    from haps_search.verbs.inspect import inspect
    from haps_search.verbs.loaded_run import load_run
    from haps_search.verbs.plan import plan
    from haps_search.verbs.report import report
    from haps_search.verbs.second_chance import retry, skip
    from haps_search.verbs.status import status
    from haps_search.verbs.stop import stop
    from haps_search.verbs.submit import submit
    from haps_search.verbs.sweep import resume, sweep
    from haps_search.verbs.train import train
    from haps_search.verbs.validate import validate
    from haps_search.verbs.warmup import warmup


_PLACES = {
    "config.load": ("load_profile", "load_study", "make_study"),
    "errors": ("HapsError",),
    "serving.server": ("Listening", "serve", "served_run"),
    "tasks.own": ("QuestionTask", "hold_task"),
    "tasks.question_lines": ("read_questions",),
    "types": ("Completion", "Episode", "Message", "Parsed", "Question", "Role", "Turn"),
    "verbs.check_reward": ("check_reward",),
    "verbs.collect": ("collect",),
    "verbs.compare": ("compare",),
    "verbs.confirm": ("confirm",),
    "verbs.evaluate": ("evaluate",),
    "verbs.events": ("Counted", "Frame", "Said"),
    "verbs.explain": ("explain",),
    "verbs.extend": ("extend",),
    "verbs.inspect": ("inspect",),
    "verbs.loaded_run": ("load_run",),
    "verbs.plan": ("plan",),
    "verbs.report": ("report",),
    "verbs.second_chance": ("retry", "skip"),
    "verbs.status": ("status",),
    "verbs.stop": ("stop",),
    "verbs.submit": ("submit",),
    "verbs.sweep": ("resume", "sweep"),
    "verbs.train": ("train",),
    "verbs.validate": ("validate",),
    "verbs.warmup": ("warmup",),
}
"""Module -> what of it is the package's interface."""
_NAMES = {name: module for module, names in _PLACES.items() for name in names}


class _Package(ModuleType):
    """Importing a room sets an attribute of its name on the package; where a verb has that name too, the verb stays."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _NAMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(importlib.import_module(f"{__name__}.{_NAMES[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_NAMES})


__all__ = [
    "Completion",
    "Counted",
    "Episode",
    "Frame",
    "HapsError",
    "Listening",
    "Message",
    "Parsed",
    "Question",
    "QuestionTask",
    "Role",
    "Said",
    "Turn",
    "__version__",
    "check_reward",
    "collect",
    "compare",
    "confirm",
    "evaluate",
    "explain",
    "extend",
    "hold_task",
    "inspect",
    "load_profile",
    "load_run",
    "load_study",
    "make_study",
    "plan",
    "read_questions",
    "report",
    "resume",
    "retry",
    "serve",
    "served_run",
    "skip",
    "status",
    "stop",
    "submit",
    "sweep",
    "train",
    "validate",
    "warmup",
]  # fmt: skip
