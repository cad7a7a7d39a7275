"""What an LM may answer when it is asked who plays which role: assignments as JSON, and their tokens.

A candidate is written by its name, or by an id of one token: summed log-probabilities favour short names, whatever
is asked (a name of 10 tokens beat one of 22 with p = 0.999).
"""

from __future__ import annotations

import itertools
import json
import string
from collections.abc import Iterable, Mapping, Sequence
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


SYMBOLS = (string.ascii_uppercase, string.digits, string.ascii_letters + string.digits)
"""Ids to try: the first whose characters are one token each."""


@dataclass(frozen=True, slots=True)
class Spoken:
    """Choices as tokens: `lead`, which all of them begin with and which is read with the prompt, then `ids` of each."""

    lead: tuple[int, ...]
    ids: tuple[tuple[int, ...], ...]
    instruction: str
    joint: bool


def by_id(tokenizer: PreTrainedTokenizerBase, roles: Sequence[str], names: Sequence[str], max_joint: int) -> Spoken:
    """The choices of `choices` with an id of one token for each name, up to the last id; the instruction says whose.

    Raises:
        ConfigError: more candidates than ids, or a tokenizer to which no kind of id is one token each.
    """
    joint = len(names) ** len(roles) <= max_joint
    for symbols in SYMBOLS:
        own = dict(zip(names, symbols, strict=False))
        seats = [zip(roles, z, strict=True) for z in itertools.product(own.values(), repeat=len(roles))] if joint else [
            [(role, symbol)] for role in roles for symbol in own.values()
        ]  # fmt: skip
        rows = [row for each in seats if (row := _up_to_last_id(tokenizer, each)) is not None]
        if len(own) == len(names) and len(set(rows)) == len(seats):
            shared = _shared(rows)
            ids = tuple(row[shared:] for row in rows)
            return Spoken(rows[0][:shared], ids, _asked_by_id(own, roles, joint), joint)
    raise ConfigError(
        f"routing.high_level.ids: got single_token, but letters or digits for {len(names)} candidates are not one "
        "token each to the backbone's tokenizer: use ids: names, or another routing.backbone.source"
    )


def _shared(rows: Sequence[Sequence[int]]) -> int:
    """How many tokens all rows begin with; the last of each stays its own."""
    alike = itertools.takewhile(lambda tokens: len(set(tokens)) == 1, zip(*(row[:-1] for row in rows), strict=False))
    return sum(1 for _ in alike)


def _asked_by_id(own: Mapping[str, str], roles: Sequence[str], joint: bool) -> str:
    legend = ", ".join(f"{symbol} = {name}" for name, symbol in own.items())
    form, seats = (_json(dict.fromkeys(roles, "...")), "each role") if joint else ('{"role": "..."}', "one role")
    return f"Candidates by id: {legend}\nReply with one JSON object that gives a candidate's id for {seats}: {form}"


def _up_to_last_id(tokenizer: PreTrainedTokenizerBase, seats: Iterable[tuple[str, str]]) -> tuple[int, ...] | None:
    """Tokens of the JSON of (role, id) pairs up to its last id; None where an id is not one known token of its own."""
    text, read = "", list[int]()
    for role, symbol in seats:
        text += f'{", " if text else "{"}{_json(role)}: "'
        before, after = plain_ids(tokenizer, text), plain_ids(tokenizer, text + symbol)
        if before[: len(read)] != read or after[:-1] != before or after[-1] == tokenizer.unk_token_id:
            return None
        text, read = f'{text}{symbol}"', after
    return tuple(read)


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
