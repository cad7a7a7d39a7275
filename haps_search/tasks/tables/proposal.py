"""A description of a table that was not recognised, as well as its names and first rows let it be guessed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, takewhile
from pathlib import Path
from typing import Any

from haps_search.tasks.paths import NoField, value_at

UNKNOWN = "WHICH_COLUMN"
_MONEY = re.compile(r"cost|price|usd|dollar|\beur", re.IGNORECASE)
_NO_SCORE = re.compile(r"token|latency|time|length|cluster|index|seed|(^|_)id$|^unnamed|^$", re.IGNORECASE)
_AMOUNT = re.compile(r"(?P<sign>[^\w\s.+-]?)\s*(?P<number>[-+]?(\d[\d,]*)?\.?\d+(e[-+]?\d+)?)\s*(?P<percent>%?)")
_MOST_MODELS = 60


@dataclass(frozen=True)
class _Column:
    """A column, or a path one below it, with its values that are not null."""

    name: str
    values: Sequence[Any]

    @property
    def amounts(self) -> list[tuple[str, float, str]]:
        """(sign, number, percent) of the values that are numbers, however they are written."""
        found = (_AMOUNT.fullmatch(str(value).strip()) for value in self.values)
        return [(m["sign"], float(m["number"].replace(",", "")), m["percent"]) for m in found if m]

    @property
    def numeric(self) -> bool:
        truths = sum(isinstance(v, bool) or str(v).lower() in ("true", "false") for v in self.values)
        return bool(self.values) and len(self.amounts) + truths >= 0.8 * len(self.values)

    @property
    def counts(self) -> bool:
        """Whether it numbers the rows."""
        numbers = [number for _, number, _ in self.amounts]
        return len(numbers) > 1 and all(b - a == 1 for a, b in pairwise(numbers))

    @property
    def mean_length(self) -> float:
        texts = [v for v in self.values if isinstance(v, str)]
        return sum(map(len, texts)) / len(texts) if texts else 0.0


def proposed(path: Path, rows: Sequence[Mapping[str, Any]], named: Mapping[str, str]) -> str:
    """The YAML of a description; `named` has the columns whose role their names say.

    What cannot be guessed is called WHICH_COLUMN.
    """
    import yaml

    columns = _columns(rows)
    money = [c for c in columns if c.numeric and _MONEY.search(c.name)]
    free = [c for c in columns if c not in money and c.name not in named.values()]
    scores = [c for c in free if c.numeric and not c.counts and not _NO_SCORE.search(c.name)]
    text = named.get("text") or _longest(free)
    model = named.get("model") or _of_few(free, text, rows)
    if "score" in named:
        scores = [c for c in columns if c.name == named["score"]]
    if model is not None and len(scores) <= 1:
        layout = _long(named, text, model, scores, money)
    else:
        layout = _wide(named, text, scores, money)
    described = {"file": str(path), "layout": layout, **_units(scores, money)}
    return str(yaml.safe_dump(described, sort_keys=False, allow_unicode=True, default_flow_style=False))


def _columns(rows: Sequence[Mapping[str, Any]]) -> list[_Column]:
    """Mappings are opened, as deep as they go."""
    names = dict.fromkeys(path for row in rows for path in _paths(row))
    return [_Column(name, [v for row in rows if (v := _or_none(row, name)) is not None]) for name in names]


def _paths(row: Mapping[str, Any], before: str = "") -> list[str]:
    found: list[str] = []
    for name, value in row.items():
        found += _paths(value, f"{before}{name}.") if isinstance(value, Mapping) else [f"{before}{name}"]
    return found


def _or_none(row: Mapping[str, Any], path: str) -> Any:
    try:
        return value_at(row, path)
    except NoField:
        return None


def _longest(columns: Sequence[_Column]) -> str:
    texts = [c for c in columns if not c.numeric and c.mean_length > 0]
    return max(texts, key=lambda c: c.mean_length).name if texts else UNKNOWN


def _of_few(columns: Sequence[_Column], text: str, rows: Sequence[Mapping[str, Any]]) -> str | None:
    """A column of a few short names, where the same texts come with different ones."""
    if len({str(_or_none(row, text)) for row in rows}) == len(rows):
        return None
    few = [
        c for c in columns
        if c.name != text and not c.numeric and 2 <= len(set(map(str, c.values))) <= min(_MOST_MODELS, len(rows) // 2)
    ]  # fmt: skip
    return few[0].name if few else None


def _long(
    named: Mapping[str, str], text: str, model: str, scores: Sequence[_Column], money: Sequence[_Column]
) -> dict[str, Any]:
    layout = {"type": "long", "id": named.get("id"), "text": text, **_labels(named), "model": model}
    layout["score"] = scores[0].name if scores else UNKNOWN
    return layout | ({"cost": money[0].name} if money else {})


def _wide(named: Mapping[str, str], text: str, scores: Sequence[_Column], money: Sequence[_Column]) -> dict[str, Any]:
    models = _model_names([c.name for c in scores]) or {"MODEL": UNKNOWN}
    costs = {
        model: cost.name for model in models for cost in money if re.search(rf"(^|\W|_){re.escape(model)}", cost.name)
    }
    layout = {"type": "wide", "id": named.get("id"), "text": text, **_labels(named), "scores": models}
    return layout | ({"costs": costs} if costs else {})


def _labels(named: Mapping[str, str]) -> dict[str, str]:
    return {role: named[role] for role in ("task", "split") if role in named}


def _model_names(columns: Sequence[str]) -> dict[str, str]:
    """Model to column: what the columns' names do not share at their beginning and end."""
    if len(columns) < 2:
        return {name: name for name in columns}
    before = len(_cut(_shared(columns)))
    after = len(_cut(_shared([name[::-1] for name in columns])))
    names = [name[before : len(name) - after] for name in columns]
    whole = all(names) and len(set(names)) == len(names)
    return dict(zip(names if whole else columns, columns, strict=True))


def _shared(names: Sequence[str]) -> str:
    """What all names begin with."""
    alike = takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False))
    return "".join(letters[0] for letters in alike)


def _cut(shared: str) -> str:
    """What is shared, up to its last separator, so that no model's own name is cut."""
    found = re.match(r".*[\W_]", shared, re.DOTALL)
    return found[0] if found else ""


def _units(scores: Sequence[_Column], money: Sequence[_Column]) -> dict[str, Any]:
    amounts = [amount for column in scores for amount in column.amounts]
    found: dict[str, Any] = {}
    low, high = min((n for _, n, _ in amounts), default=0.0), max((n for _, n, _ in amounts), default=1.0)
    if any(percent for _, _, percent in amounts) or (low >= 0 and 1 < high <= 100):
        found["score_range"] = [0.0, 100.0]
    elif low < 0 or high > 1:
        found["score_range"] = [low, high]
    signs = {sign for column in money for sign, _, _ in column.amounts if sign}
    return found | ({"currency": min(signs)} if signs else {})
