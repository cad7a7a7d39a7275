"""Rows of well-known data sets as plain rows, so that they need no `fields`: told by their first row."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from haps_search.config.tasks import QaFields
from haps_search.tasks.choice_labels import LETTERS
from haps_search.tasks.question_rows import LeftOut, got
from haps_search.tasks.rows import BadRow

Row = Mapping[str, Any]
MMLU_HEADER = ("question", "A", "B", "C", "D", "answer")
"""The columns of MMLU's own CSV, which has no header."""


@dataclass(frozen=True)
class Shape:
    """How to tell the rows of a data set, and the plain rows that each of them holds; `fields` reads those."""

    name: str
    fits: Callable[[Row], bool]
    plain: Callable[[Row], Iterable[Row | BadRow]]
    fields: QaFields

    def rows(self, row: Row) -> list[Row | BadRow]:
        """The plain rows of one; BadRow where it is not like the first."""
        try:
            return list(self.plain(row))
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            problem = f"{type(error).__name__}: {error}"
            return [BadRow(f"got {got(row)}, needs a row of {self.name} like the first one ({problem})")]


def recognised(row: Row) -> Shape | None:
    """The first shape that a row has."""
    return next((shape for shape in SHAPES if shape.fits(row)), None)


def _squad_article(row: Row) -> Iterable[Row | BadRow]:
    """SQuAD's own JSON: an article with its paragraphs, each with its questions."""
    for paragraph in row["paragraphs"]:
        for asked in paragraph["qas"]:
            answers = [answer["text"] for answer in asked.get("answers", ())]
            yield _squad(asked.get("id"), asked["question"], paragraph["context"], answers)


def _squad_flat(row: Row) -> Iterable[Row | BadRow]:
    yield _squad(row.get("id"), row["question"], row["context"], row["answers"]["text"])


def _squad(id_: Any, question: Any, context: Any, answers: Any) -> Row | BadRow:
    if not answers:
        return LeftOut(f"question {got(id_)} is unanswerable", "unanswerable questions")
    return {"id": id_, "question": question, "context": context, "reference": answers}


def _hotpotqa(row: Row) -> Iterable[Row]:
    """HotpotQA's own rows, and the hub's, whose contexts are columns."""
    context = row["context"]
    if isinstance(context, Mapping):
        context = [list(pair) for pair in zip(context["title"], context["sentences"], strict=True)]
    return [{"id": row.get("_id", row.get("id")), "question": row["question"], "reference": row["answer"],
             "context": context}]  # fmt: skip


def _triviaqa(row: Row) -> Iterable[Row]:
    """TriviaQA's own rows (in capitals), and the hub's; every alias counts."""
    folded = {key.lower().replace("_", ""): value for key, value in row.items()}
    answer = {key.lower(): value for key, value in folded["answer"].items()}
    references = [answer["value"], *(answer.get("aliases") or ())]
    return [{"id": folded.get("questionid"), "question": folded["question"], "reference": references}]


def _arc(row: Row) -> Iterable[Row]:
    """ARC, OpenBookQA, CommonsenseQA: options with labels of their own. ARC's own rows have them in the question."""
    asked, choices = row.get("question", row.get("question_stem")), row.get("choices")
    if isinstance(asked, Mapping):
        asked, choices = asked["stem"], asked["choices"]
    if isinstance(choices, list):
        choices = {key: [choice[key] for choice in choices] for key in ("text", "label")}
    assert isinstance(choices, Mapping)
    return [{"id": row.get("id"), "question": asked, "choices": choices["text"], "labels": choices["label"],
             "reference": row["answerKey"]}]  # fmt: skip


def _mmlu(row: Row) -> Iterable[Row | BadRow]:
    """MMLU: the answer is a letter, or the option's number from 0 on."""
    choices, answer = row.get("choices"), row["answer"]
    if choices is None:
        choices = [row[letter] for letter in "ABCD"]
    if isinstance(answer, int) and not 0 <= answer < len(choices):
        return [BadRow(f"`answer`: got {answer}, needs 0 to {len(choices) - 1}, the number of an option")]
    letter = LETTERS[answer] if isinstance(answer, int) else answer
    return [{"question": row["question"], "choices": choices, "labels": list(LETTERS[: len(choices)]),
             "reference": letter}]  # fmt: skip


def _gsm8k(row: Row) -> Iterable[Row | BadRow]:
    """GSM8K: what stands after `####`, without commas, as its authors compare it."""
    _, marked, answer = str(row["answer"]).rpartition("####")
    if not marked:
        return [BadRow(f"`answer`: got {got(row['answer'])}, needs a number after ####")]
    return [{"question": row["question"], "reference": answer.strip().replace(",", "")}]


def _answered(row: Row) -> Iterable[Row]:
    return [{"id": row.get("id"), "question": row["question"], "reference": row["answer"]}]


def _same(row: Row) -> Iterable[Row]:
    return [row]


def _has(row: Row, *names: str) -> bool:
    return all(name in row for name in names)


def _is(value: Any, *names: str) -> bool:
    """Whether it is an object with these keys, or a list of such."""
    if isinstance(value, list):
        return bool(value) and all(_is(each, *names) for each in value)
    return isinstance(value, Mapping) and _has(value, *names)


def _fits_triviaqa(row: Row) -> bool:
    return _is(row.get("answer"), "aliases", "value") or _is(row.get("Answer"), "Aliases", "Value")


def _fits_arc(row: Row) -> bool:
    options = row.get("choices") if "choices" in row else (row.get("question") or {})
    return "answerKey" in row and (_is(options, "text", "label") or _is(options, "stem", "choices"))


def _fits_mmlu(row: Row) -> bool:
    listed = isinstance(row.get("choices"), list) and all(isinstance(each, str) for each in row["choices"])
    return _has(row, "question", "answer") and (listed or _has(row, *"ABCD"))


def _fits_gsm8k(row: Row) -> bool:
    return _has(row, "question") and "####" in str(row.get("answer", ""))


def _fits_answered(row: Row) -> bool:
    answer = row.get("answer")
    return isinstance(row.get("question"), str) and isinstance(answer, str | list)


_OPTIONS = {"choices": "choices", "labels": "labels"}
SHAPES = (
    Shape("messages", lambda row: _is(row.get("messages"), "role", "content"), _same, QaFields(messages="messages")),
    Shape(
        "SQuAD", lambda row: _is(row.get("paragraphs"), "context", "qas"), _squad_article,
        QaFields(context="context"),
    ),
    Shape(
        "SQuAD", lambda row: _has(row, "question", "context") and _is(row.get("answers"), "text"), _squad_flat,
        QaFields(context="context"),
    ),
    Shape(
        "HotpotQA", lambda row: _has(row, "question", "answer", "context", "supporting_facts"), _hotpotqa,
        QaFields(context="context"),
    ),
    Shape("TriviaQA", _fits_triviaqa, _triviaqa, QaFields()),
    Shape("ARC", _fits_arc, _arc, QaFields(**_OPTIONS)),
    Shape("MMLU", _fits_mmlu, _mmlu, QaFields(id=None, **_OPTIONS)),
    Shape("GSM8K", _fits_gsm8k, _gsm8k, QaFields(id=None)),
    Shape("question and answer", _fits_answered, _answered, QaFields()),
)  # fmt: skip
"""The narrower ones first."""


def headerless(record: Sequence[str]) -> tuple[str, ...] | None:
    """The names of a CSV's columns whose first record is MMLU's first question, None for other files."""
    known = len(record) == len(MMLU_HEADER) and record[-1] in tuple("ABCD") and record != list(MMLU_HEADER)
    return MMLU_HEADER if known else None


def lacking(row: Row, fields: QaFields) -> bool:
    """Whether the default fields are not those of a row."""
    return not _has(row, fields.question, fields.reference)


def listed(value: Any) -> Any:
    """Options in a CSV's cell, where they are JSON."""
    if not isinstance(value, str) or not value.lstrip().startswith("["):
        return value
    try:
        return json.loads(value)
    except json.JSONDecodeError:
        return value
