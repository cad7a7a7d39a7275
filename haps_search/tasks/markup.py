"""Seeing through what surrounds an answer: thinking blocks, Markdown, LaTeX and HTML."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator

_TAGS = (
    "think|thinking|thoughts?|reasoning|reflection|scratchpad|analysis|explanation|rationale|razonamiento|pensamiento"
    "|raisonnement|réflexion|überlegung|gedanken|begründung|ragionamento|raciocínio|рассуждение|思考|推理|分析"
)
_PAIRED = re.compile(
    rf"<(?P<tag>{_TAGS})\b[^>]*>.*?</(?P=tag)\s*>|\[THINK\].*?\[/THINK\]|◁think▷.*?◁/think▷"
    r"|<\|channel\|>\s*(?:analysis|commentary).*?<\|(?:end|return|call)\|>",
    re.IGNORECASE | re.DOTALL,
)
_CLOSE = re.compile(rf"</(?:{_TAGS})\s*>|\[/THINK\]|◁/think▷", re.IGNORECASE)
_OPEN = re.compile(rf"<(?:{_TAGS})\b[^>]*>|\[THINK\]|◁think▷|<\|channel\|>\s*analysis", re.IGNORECASE)
_SPECIAL = re.compile(r"<\|[a-z_]+\|>(?:assistant|final)?")


def spoken(text: str) -> str:
    """The text without what a model thought aloud.

    A block that was never opened (some templates open it in the prompt) begins with the text; one that was never
    closed goes on to the end, and nothing is said after it but what it calls its final answer itself.
    """
    text = _PAIRED.sub("", text)
    closed = [found.end() for found in _CLOSE.finditer(text)]
    text = text[closed[-1] :] if closed else text
    opened = _OPEN.search(text)
    if opened and not (before := text[: opened.start()]).strip():
        final = list(_FINAL.finditer(text))
        text = text[final[-1].start() :] if final else before
    elif opened:
        text = before
    return _SPECIAL.sub(" ", text).strip()


_FINAL = re.compile(r"^\W*final answer\b|<(?:final_)?answer>", re.IGNORECASE | re.MULTILINE)


_WRAPPER = re.compile(
    r"\\(?:text(?:bf|it|rm|sf|tt|normal)?|math(?:bf|rm|it|sf|tt|bb)|bf|rm|mbox|operatorname\*?|bm|boldsymbol"
    r"|underline|emph|displaystyle|large|Large|huge|bold)(?:\s*\{([^{}]*)\}|(?![A-Za-z])\s?)"
)
_BOX = re.compile(r"\\(?:boxed|fbox|framebox)\s*\{")
_BOXED_WORD = re.compile(r"\\boxed\s+(\S+)")
_DELIMITERS = re.compile(r"\\[()\[\]]|\$\$|\\(?:left|right|[bB]igg?[lrm]?)(?=\W)(?!\w)|\\[,;:!](?=\s|\S)|\\q?quad\b")
# Pandoc's rule: what is in dollars has no space inside its ends, and no digit follows.
_DOLLARS = re.compile(r"(?<![\\$\w])\$(?=[^\s$])([^$\n]*?[^\s$\\])\$(?![\d$])")
_ESCAPED = re.compile(r"\\([%#&_{}$*.()\[\]!-])")
_STRUCK = re.compile(r"~~.{1,400}?~~|<(del|s|strike)>.{0,400}?</\1>", re.IGNORECASE | re.DOTALL)
_ELEMENT = re.compile(r"</?(?:b|i|em|strong|u|p|span|div|code|sup|sub|mark|center|font|pre|h[1-6]|ul|ol|li|small|big)\b[^<>]*>", re.I)  # fmt: skip  # noqa: E501
_BREAK = re.compile(r"<br\s*/?>", re.IGNORECASE)
_EMPHASIS = re.compile(r"(?<![\w*])(\*{1,3})(?=\S)(.{1,400}?)(?<=\S)\1(?![\w*])|(?<!\w)(_{1,3})(?=\S)(.{1,400}?)(?<=\S)\3(?!\w)", re.DOTALL)  # fmt: skip  # noqa: E501
_CODE = re.compile(r"(`{1,3})(?:\w{1,20}\n)?(.{1,2000}?)\1", re.DOTALL)
_BULLET = re.compile(r"^[ \t]*(?:[-*+•·●▪➤►>]|\|)[ \t]+(?=\S)", re.MULTILINE)


def plain(text: str) -> str:
    """A text without Markdown, HTML and LaTeX around its words. What is struck through is gone; boxes are opened."""
    text = _BREAK.sub("\n", _STRUCK.sub(" ", text))
    text = html.unescape(_ELEMENT.sub("", text))
    text = _without_boxes(_without_latex(text))
    text = _CODE.sub(r"\2", text)
    for _ in range(2):  # **a *b* c**
        text = _EMPHASIS.sub(lambda found: found[2] or found[4] or "", text)
    return _ESCAPED.sub(r"\1", _BULLET.sub("", text))


def _without_latex(text: str) -> str:
    text = _DELIMITERS.sub(" ", text)
    text = _DOLLARS.sub(r"\1", text)
    for _ in range(3):  # wrappers may be nested
        text = _WRAPPER.sub(lambda found: found[1] or "", text)
    return text


def _without_boxes(text: str) -> str:
    for start, end, content in reversed(list(boxes(text))):
        text = f"{text[:start]}{content}{text[end:]}"
    return text


def boxes(text: str) -> Iterator[tuple[int, int, str]]:
    r"""Start, end and content of every outermost `\boxed{...}`, braces balanced; one that is not closed is none."""
    at = 0
    while found := _BOX.search(text, at):
        depth, at = 1, found.end()
        while depth and at < len(text):
            depth += {"{": 1, "}": -1}.get(text[at], 0) * (text[at - 1] != "\\")
            at += 1
        if not depth:
            yield found.start(), at, text[found.end() : at - 1]
    yield from ((found.start(), found.end(), found[1]) for found in _BOXED_WORD.finditer(text))
