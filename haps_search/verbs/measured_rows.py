"""Rows of a comparison, kept as each is measured: whoever is ended while measuring loses the row it was at."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from haps_search.errors import Interrupted
from haps_search.records.remote import pushed
from haps_search.records.sealed import replace_text
from haps_search.search.validation import Scored
from haps_search.sweep.layout import lock_file
from haps_search.sweep.lock import last_holder
from haps_search.types import Completion, Episode, Parsed, Question, Sampled, Split

FOLDER = "measured"


class MeasuredRows:
    """Those of a sweep on one split; in between somebody may want its driver to leave."""

    def __init__(self, sweep: Path, split: Split) -> None:
        self._sweep, self._split = sweep, split

    async def row(
        self, what: Mapping[str, Any], questions: Sequence[Question], measure: Callable[[], Awaitable[Scored]]
    ) -> Scored:
        """The row as it was measured before, or as `measure` gives it now; `what` is all that its rewards depend on
        beside split and questions.

        Raises:
            Interrupted: this process drives the sweep and is to leave, and this row is not there.
        """
        file = self._file(what, questions)
        found = _read(file, questions)
        if found is not None:
            return found
        if self._leaving:
            raise Interrupted("the rows that were measured are kept")
        scored = await measure()
        file.parent.mkdir(exist_ok=True)
        replace_text(file, json.dumps({**what, "split": self._split, **_encoded(scored)}, ensure_ascii=False))
        pushed(file)
        return scored

    @property
    def _leaving(self) -> bool:
        held = last_holder(lock_file(self._sweep))
        return held.get("leaving") is True and held.get("pid") == os.getpid()

    def _file(self, what: Mapping[str, Any], questions: Sequence[Question]) -> Path:
        asked = [[q.id, q.text, q.context, q.references] for q in questions]
        identity = json.dumps([what, self._split, asked], sort_keys=True)
        return self._sweep / FOLDER / f"{hashlib.sha256(identity.encode()).hexdigest()[:24]}.json"


def _encoded(scored: Scored) -> dict[str, Any]:
    """All but messages and tokens."""
    return {
        "rewards": scored.rewards,
        "adapter_norm": scored.adapter_norm,
        "measures": [dict(each) for each in scored.measures],
        "episodes": [
            {"assignment": e.assignment, "completions": [_said(c) for c in e.completions]} for e in scored.episodes
        ],
    }


def _said(completion: Completion) -> dict[str, Any]:
    sampled, parsed = completion.sampled, completion.parsed
    return {
        "role": completion.role,
        "candidate": completion.candidate,
        "text": sampled.text,
        "tokens": [sampled.prompt_tokens, sampled.completion_tokens],
        "parsed": [parsed.answer, parsed.failure, parsed.stated, parsed.how],
    }


def _read(file: Path, questions: Sequence[Question]) -> Scored | None:
    """None where it is not there, or not whole."""
    try:
        found = json.loads(file.read_text())
        episodes = tuple(
            Episode(question, tuple(each["assignment"]), tuple(map(_completion, each["completions"])))
            for question, each in zip(questions, found["episodes"], strict=True)
        )
        return Scored(episodes, tuple(found["rewards"]), found["adapter_norm"], tuple(found["measures"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _completion(said: Mapping[str, Any]) -> Completion:
    answer, failure, stated, how = said["parsed"]
    sampled = Sampled(said["text"], (), (), *said["tokens"])
    return Completion(said["role"], said["candidate"], (), sampled, Parsed(answer, failure, tuple(stated), how))
