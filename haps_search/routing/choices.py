"""What an LM may answer when it is asked who plays which role: assignments as JSON, and their tokens."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from haps_search.errors import ConfigError
from haps_search.routing.distribution import all_assignments
from haps_search.routing.framing import plain_ids


@dataclass(frozen=True, slots=True)
class Choices:
    """The JSON objects that are scored, and the line that asks for one of them.

    `joint`: one text per assignment, in the order of `all_assignments`; else one per role and candidate, roles first.
    """

    texts: tuple[str, ...]
    instruction: str
    joint: bool


def choices(roles: Sequence[str], names: Sequence[str], max_joint: int) -> Choices:
    """All K^R assignments while they are at most `max_joint`, otherwise each role by itself."""
    joint = len(names) ** len(roles) <= max_joint
    if joint:
        objects = [dict(zip(roles, z, strict=True)) for z in all_assignments(names, len(roles))]
        form = dict.fromkeys(roles, "...")
        asked = f"Reply with one JSON object that names a candidate for each role: {_json(form)}"
    else:
        objects = [{role: name} for role in roles for name in names]
        asked = 'Reply with one JSON object that names a candidate for one role: {"role": "..."}'
    return Choices(tuple(map(_json, objects)), asked, joint)


def continuations(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], end: int) -> tuple[tuple[int, ...], ...]:
    """Token ids of each text, `end` included.

    Raises:
        ConfigError: characters that the tokenizer does not know, or two texts that it reads alike.
    """
    ids = [tuple(plain_ids(tokenizer, text)) for text in texts]
    lost = sorted({c for text in texts for c in text if not c.isspace() and _unknown(tokenizer, c)})
    unread = [text for text, row in zip(texts, ids, strict=True) if tokenizer.unk_token_id in row]
    if unread or any(_drops(tokenizer, c) for c in lost):
        raise ConfigError(
            f"routing.high_level: type lm needs the JSON {(unread or texts)[0]}, and the backbone's tokenizer "
            f"does not know {' '.join(lost) or 'its words'}: choose another routing.backbone.source, "
            "other names, or high_level type head"
        )
    first: dict[tuple[int, ...], str] = {}
    for text, row in zip(texts, ids, strict=True):
        if first.setdefault(row, text) != text:
            raise ConfigError(
                f"routing.high_level: the backbone's tokenizer reads {first[row]} and {text} alike: "
                "give the candidates names that differ in more than that"
            )
    return tuple((*row, end) for row in ids)


def _unknown(tokenizer: PreTrainedTokenizerBase, character: str) -> bool:
    return _drops(tokenizer, character) or tokenizer.unk_token_id in plain_ids(tokenizer, character)


def _drops(tokenizer: PreTrainedTokenizerBase, character: str) -> bool:
    return not plain_ids(tokenizer, character)


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
