"""Mathematical equality by `math-verify`, in a process of its own.

An expression may be such that nobody ends working on it (9^9^9^9), and only a process can be ended. `math-verify`
bounds its time by signals, which threads cannot have, and a trial's rewards are not paid in a main thread.
"""

from __future__ import annotations

import atexit
import importlib.util
import json
import logging
import os
import re
import resource
import select
import subprocess
import sys
from typing import Any

from haps_search.errors import ConfigError, DataError
from haps_search.tasks.choice_words import ANSWER, IS
from haps_search.tasks.markup import spoken
from haps_search.tasks.stated import marked, nothing
from haps_search.types import Parsed

_LIBRARY = "math_verify"
_START_S = 120
_LONGEST = 2000
_MOST_BYTES = 4 * 2**30


def require_library() -> None:
    """Raises ConfigError where `math-verify` is not installed."""
    if importlib.util.find_spec(_LIBRARY) is None:
        raise ConfigError("task.reward: type math needs math-verify: pip install 'haps-search[math]'")


_CUED = re.compile(rf"(?:{ANSWER})[^.!?\n]{{0,60}}?(?:{IS})[\s:]*(?=(?P<said>[^\n]+))", re.IGNORECASE)


def read_expression(text: str) -> Parsed:
    """Where a text states its expression: the last box, tag or `####`, or else behind "the answer is", or the text."""
    said = spoken(text)
    if not said:
        return nothing(text)
    found = [(one.content, one.how) for one in marked(said)] or [(m["said"], "stated") for m in _CUED.finditer(said)]
    if not found:
        return Parsed(said, how="the whole text")
    every = tuple(dict.fromkeys("".join(content.split()) for content, _ in found))
    return Parsed(found[-1][0].strip(), stated=every if len(every) > 1 else (), how=found[-1][1])


class Equality:
    """Compares expressions; the process is started by the first comparison and ends with this one."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._process: subprocess.Popen[str] | None = None

    def __call__(self, answer: str, reference: str) -> bool:
        """Whether the two are equal; False where that takes longer than the time allowed.

        Raises:
            DataError: the process cannot be started.
        """
        if len(answer) > _LONGEST:
            return False
        process = self._process if self._process is not None and self._process.poll() is None else self._started()
        reply = self._asked(process, answer, reference)
        if reply is None:
            self.close()
            return False
        return reply == "true"

    def _asked(self, process: subprocess.Popen[str], answer: str, reference: str) -> str | None:
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps([answer, reference]) + "\n")
            process.stdin.flush()
        except BrokenPipeError:  # it died of the comparison before
            return None
        return _line(process, self._timeout_s)

    def _started(self) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "haps_search.tasks.maths"]
        # A job of Ray's finds its modules on a path that its children do not inherit.
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment)
        atexit.register(self.close)
        if _line(self._process, _START_S) != "ready":
            raise DataError(f"task.reward: `{' '.join(command)}` did not start: run it to see why")
        return self._process

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_process": None}


def _line(process: subprocess.Popen[str], timeout_s: float) -> str | None:
    """The next line of its output without the newline; None where there is none in time, or the process has ended."""
    assert process.stdout is not None
    if not select.select([process.stdout], [], [], timeout_s)[0]:
        return None
    return process.stdout.readline().strip() or None


def _equal(answer: str, reference: str) -> bool:
    from math_verify import parse, verify

    return bool(verify(parse(_as_math(reference)), parse(_as_math(answer))))


def _as_math(text: str) -> str:
    r"""Bare LaTeX as `math-verify` finds it: `\frac{1}{2}` in dollars. A text that has some of its own stays."""
    own = any(mark in text for mark in ("$", "\\(", "\\[", "\\boxed", "\n"))
    return text if own or _PROSE.search(text) else f"${text}$"


_PROSE = re.compile(r"(?<![\\\w])[A-Za-z]{2,}\s+[\w$]")


def _serve() -> None:
    """Answer comparisons, a line of JSON each, until the input ends."""
    import math_verify  # noqa: F401 - loaded before the clock of the first comparison runs

    logging.disable(logging.WARNING)  # each expression that takes too long
    resource.setrlimit(resource.RLIMIT_AS, (_MOST_BYTES, _MOST_BYTES))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        answer, reference = json.loads(line)
        sys.stdout.write("true\n" if _equal(answer, reference) else "false\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _serve()
