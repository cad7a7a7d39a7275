"""Texts as tokens to compare: `squad` (the official script), `v1` (of stored studies) and `default`.

`default` keeps what makes another answer of a text (signs, decimals, operators) and folds what does not (letter case,
ways of writing dashes, quotes, digits and widths, punctuation around words, markup).
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Callable, Iterator, Mapping

from haps_search.config.rewards import NormaliserName
from haps_search.tasks.markup import plain
from haps_search.tasks.split_key import split_key

Normaliser = Callable[[str], list[str]]
"""A text -> its tokens. Two texts are the same where their tokens are."""

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_SQUAD_ARTICLES = re.compile(r"\b(a|an|the)\b", re.UNICODE)


def squad(text: str) -> list[str]:
    """`normalize_answer` of SQuAD's evaluate-v2.0.py: lower case, no ASCII punctuation, no English articles."""
    return _SQUAD_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split()


def v1(text: str) -> list[str]:
    """As studies were scored before rewards named their normaliser."""
    return split_key(text).split()


# No spaces between words: Thai, Lao, Tibetan, Burmese, Khmer, kana, Bopomofo, Han.
SPACELESS = (
    "\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u3100-\u312f\u31a0-\u31bf"
    "\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
# A character with the vowels and tone marks on it.
_PIECE = re.compile(rf"[{SPACELESS}][\u0300-\u036f\u0e31\u0e34-\u0e3a\u0e47-\u0e4e\u0eb1\u0eb4-\u0ebc\u0ec8-\u0ecd\u0f71-\u0f84\u102b-\u103e\u17b6-\u17d3\u3099\u309a]*|[^{SPACELESS}]+")  # fmt: skip  # noqa: E501

_SIGNS = str.maketrans(
    dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2015\u2212\ufe58\ufe63\uff0d", "-")
    | dict.fromkeys("\u2018\u2019\u201a\u201b\u02bc\u2032\u00b4\u0060", "'")
    | dict.fromkeys("\u201c\u201d\u201e\u201f\u00ab\u00bb\u2033", '"')
    | {"\u00d7": "*", "\u22c5": "*", "\u2217": "*", "\u00f7": "/", "\u2044": "/", "\u2215": "/"}
    | {"\u2122": None, "\u00ae": None, "\u00a9": None}
)
_RAISED = {"\u2070": "0", "\u00b9": "1", "\u00b2": "2", "\u00b3": "3", "\u207a": "+", "\u207b": "-"} | {
    chr(0x2070 + digit): str(digit) for digit in range(4, 10)
}
_EXPONENT = re.compile(f"[{''.join(_RAISED)}]+")
_VULGAR = re.compile(r"(?<=\d)(?=[\u00bc-\u00be\u2150-\u215e])")


def fold(text: str) -> str:
    """One way of writing each character: NFKC; dashes, quotes, operators and digits in ASCII; x² as x^2."""
    text = _EXPONENT.sub(lambda found: "^" + "".join(_RAISED[c] for c in found[0]), _VULGAR.sub(" ", text))
    text = unicodedata.normalize("NFKC", text.translate(_SIGNS)).translate(_SIGNS)
    return "".join(_character(c) for c in text)


def _character(c: str) -> str:
    kind = unicodedata.category(c)
    if kind == "Nd":
        return str(unicodedata.decimal(c))
    return "" if kind == "Cf" or "\ufe00" <= c <= "\ufe0f" else c


_REWRITES: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"(?<![\d.,])(\d{1,3}(?:,\d{3})+)(?![\d,])"), ""),  # thousands, see _rewritten
    (re.compile(r"(?<![\w.])\.(?=\d)"), "0."),
    (re.compile(r"(?<=\w)'(?=\w)"), ""),  # don't, O'Brien
    (re.compile(r"(?<=[^\W\d_])\.(?=[^\W\d_])"), ""),  # U.S.A., Ph.D.
    (re.compile(r"(?<=\w) & (?=\w)"), " and "),
    (re.compile(r"(?<=[^\W\d_])\s*-\s*(?=[^\W\d_])|(?<=[^\W\d_])-(?=\d)|(?<=[^\W\d_]) - (?=\d)"), " "),  # well-known
    (re.compile(r"(?<=[\w)\]])\s*([<>=\u2264\u2265\u2260*/^]+)\s*(?=[\w(\[.+-])"), r"\1"),
    (re.compile(r"(?<=[\w)\]])\s+([+-])\s+(?=[\w(\[.])"), r"\1"),
    (re.compile(r"(?<=\d)\s+(?=%)"), ""),
)
# A capital "A" within a sentence is a name: Vitamin A.
_ARTICLE = re.compile(r"(?:(?:^|(?<=[.!?]\s))A|\b(?:(?i:the|an)|a))\s+(?=\w)")
_CLOSING = {"(": ")", "[": "]", "{": "}"}
_OPENING = {closing: opening for opening, closing in _CLOSING.items()}
_KEPT = frozenset("-+<>=/^%$&@\\")


def default(text: str) -> list[str]:
    """Tokens as a reader would compare them; a character each where a script has no spaces.

    A text that nothing would be left of keeps its characters.
    """
    written = fold(plain(text)).strip()
    words = [word for part in _ARTICLE.sub("", _rewritten(written)).split() if (word := _edged(part))]
    words = [word for word in words if word not in _KEPT or len(words) == 1]
    found = [piece for word in words for piece in _pieces(word.casefold())]
    return found or written.casefold().split()


def _rewritten(text: str) -> str:
    thousands, *others = _REWRITES
    text = thousands[0].sub(lambda found: found[0].replace(",", ""), text)
    for pattern, written in others:
        text = pattern.sub(written, text)
    return text


def _pieces(word: str) -> Iterator[str]:
    """A word, or the characters of a script without spaces, punctuation between them left out."""
    for piece in _PIECE.findall(word):
        if piece := _edged(piece) if piece != word else piece:
            yield piece


def _edged(word: str) -> str:
    """A word without the punctuation around it. Signs, currency and operators stay, and brackets that are balanced."""
    while word and _drops(word[0], word, first=True):
        word = word[1:]
    while word and _drops(word[-1], word, first=False):
        word = word[:-1]
    wrapped = word[:1] in _CLOSING and word.endswith(_CLOSING[word[0]])
    return _edged(word[1:-1]) if wrapped else word


def _drops(c: str, word: str, first: bool) -> bool:
    if c in _KEPT:
        return False
    if c == "#":  # C#, but #1
        return first
    if c in _CLOSING:
        return not first or word.count(c) > word.count(_CLOSING[c])
    if c in _OPENING:
        return first or word.count(c) > word.count(_OPENING[c])
    return unicodedata.category(c).startswith("P") or c in "`|~"


NORMALISERS: Mapping[NormaliserName, Normaliser] = {"squad": squad, "v1": v1, "default": default}
