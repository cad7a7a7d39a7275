"""Which training questions a run learns from, which validation questions settings and checkpoints are chosen on, and
which the tables report on."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Literal

from haps_search.config.run import Experiment
from haps_search.errors import ConfigError
from haps_search.tasks.split_key import split_key
from haps_search.tasks.tables.splits import folds
from haps_search.tasks.task import Task, answerable
from haps_search.types import Question

Held = Literal["validation", "test"]
"""The splits that a router was not trained on."""
_SCALE = float(2**64)


def halved(questions: Sequence[Question], share: float) -> tuple[list[Question], list[Question]]:
    """Those that choose, about `share` of them, and those that are reported on, in their order.

    By a hash of normalised text and context, so equal questions stay together and no question moves when others come
    or go. Where all would fall on one side, the last one over goes to the other. With `share` 1, or one question, all
    do both.
    """
    if share >= 1:
        return list(questions), list(questions)
    places = [_place(question) for question in questions]
    low, high = min(places, default=0.0), max(places, default=0.0)
    if low == high:
        return list(questions), list(questions)
    cut = min(max(share, math.nextafter(low, math.inf)), high)
    chosen = [place < cut for place in places]
    return (
        [q for q, chooses in zip(questions, chosen, strict=True) if chooses],
        [q for q, chooses in zip(questions, chosen, strict=True) if not chooses],
    )


def of_half(questions: Sequence[Question], half: int | None) -> Sequence[Question]:
    """Those of one half, 0 or 1, in their order; all for None. By a hash of normalised text, so equal questions stay
    together.

    Raises:
        ConfigError: none.
    """
    if half is None:
        return questions
    sides = folds([question.text for question in questions], 2, "half")
    found = [question for question, side in zip(questions, sides, strict=True) if side == half]
    if not found:
        raise ConfigError(f"run.half: none of {len(questions)} training questions is in half {half}; it needs more")
    return found


def learnt(task: Task, experiment: Experiment) -> Sequence[Question]:
    """The training questions that a run learns from. Raises as `of_half`."""
    return of_half(answerable(task, "train", [c.name for c in experiment.candidates]), experiment.run.half)


def choosing(task: Task, experiment: Experiment) -> list[Question]:
    """The validation questions that settings and checkpoints are chosen on."""
    return halved(_validation(task, experiment), experiment.run.validation.choosing_share)[0]


def reported(task: Task, experiment: Experiment, split: Held) -> list[Question]:
    """What a table is measured on: of validation the questions that chose nothing, of test all.

    Raises:
        ConfigError: the split has no file. DataError: malformed rows.
    """
    if split == "test":
        return list(answerable(task, split, [c.name for c in experiment.candidates]))
    return halved(_validation(task, experiment), experiment.run.validation.choosing_share)[1]


def what_it_costs(task: Task, experiment: Experiment) -> str:
    """How many questions choose, how many are reported on, and how wide that makes a mean's interval at most."""
    asked = _validation(task, experiment)
    if experiment.run.validation.choosing_share >= 1:
        return (
            f"warning: settings, checkpoints and the table share all {len(asked)} validation questions "
            "(run.validation.choosing_share: 1), so what was chosen is flattered"
        )
    first, rest = halved(asked, experiment.run.validation.choosing_share)
    if len(first) == len(asked):
        return f"warning: {len(asked)} validation questions are too few to choose on some and report on others"
    wide, all_of_them = (0.98 / math.sqrt(len(each)) for each in (rest, asked))
    return (
        f"{len(first)} validation questions choose settings and checkpoints, tables report on the other {len(rest)}: a "
        f"mean of zeros and ones to ±{wide:.3f} at worst (±{all_of_them:.3f} on all of them)"
    )


def _validation(task: Task, experiment: Experiment) -> Sequence[Question]:
    return answerable(task, "validation", [c.name for c in experiment.candidates])


def _place(question: Question) -> float:
    """Uniform in [0, 1)."""
    text = f"{split_key(question.text)}\0{split_key(question.context)}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / _SCALE
