"""Routing prompts as token ids: what stands around them, what is left of a long one, and where its question stands."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import takewhile

from jinja2 import TemplateError
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from haps_search.errors import ConfigError

_HERE = "THE-ROUTING-PROMPT-STANDS-HERE"


@dataclass(frozen=True, slots=True)
class Framed:
    """Token ids of a prompt; the pooled state is over those from `begin` to before `end`."""

    ids: list[int]
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class Framing:
    """`head`, the last `room` tokens of the prompt, `closing`: the end is kept, where the question stands.

    `stem` are the tokens of what all prompts begin with before their question, over which is pooled then; None pools
    over everything.
    """

    tokenise: Callable[[str], list[int]]
    room: int
    pad_id: int
    head: tuple[int, ...] = ()
    closing: tuple[int, ...] = ()
    stem: tuple[int, ...] | None = None

    def framed(self, texts: Sequence[str]) -> list[Framed]:
        """Raises ConfigError for a prompt without any tokens."""
        found = [self._framed(self.tokenise(text)) for text in texts]
        if not all(each.ids for each in found):
            raise ConfigError("router backbone: its tokenizer reads nothing in a routing prompt")
        return found

    def rows(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each prompt. Raises ConfigError for one without any."""
        return [each.ids for each in self.framed(texts)]

    def _framed(self, tokens: list[int]) -> Framed:
        kept = tokens[-self.room :]
        ids = [*self.head, *kept, *self.closing]
        if self.stem is None or not kept:
            return Framed(ids, 0, len(ids))
        # The first token that is not the stem's own: a tokenizer may join the stem's last character with the question.
        own = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(tokens, self.stem, strict=False)))
        end = len(self.head) + len(kept)
        begin = len(self.head) + max(0, own - (len(tokens) - len(kept)))
        return Framed(ids, min(begin, end - 1), end)

    def truncated(self, texts: Sequence[str]) -> int:
        """How many prompts are cut."""
        return sum(len(self.tokenise(text)) > self.room for text in texts)


def bare(tokenizer: PreTrainedTokenizerBase, max_tokens: int, stem: str | None = None) -> Framing:
    """Prompts as the tokenizer reads raw text."""

    def tokenise(text: str) -> list[int]:
        return list(tokenizer(text)["input_ids"])

    return Framing(tokenise, max_tokens, tokenizer.pad_token_id, stem=_tokens(tokenise, stem))


def asking(
    tokenizer: PreTrainedTokenizerBase,
    instruction: str,
    max_tokens: int,
    lead: Sequence[int] = (),
    stem: str | None = None,
) -> Framing:
    """Prompts as a user's message that ends with `instruction`; the assistant's answer has begun with `lead`.

    Without a chat template: prompt, instruction and a line feed, after a BOS where the tokenizer adds one. Prompt
    and instruction are data: special tokens and template marks that stand in them are read as their characters.

    Raises:
        ConfigError: no room for a question within `max_tokens`, or a template that refuses a user's message.
    """
    closing = plain_ids(tokenizer, f"\n{instruction}")
    if tokenizer.chat_template:
        before, after = _around(tokenizer, [{"role": "user", "content": _HERE}], generation=True)
        head = tokenizer(before, add_special_tokens=False)["input_ids"]
        closing += tokenizer(after, add_special_tokens=False)["input_ids"]
    else:
        begun = tokenizer("")["input_ids"][:1]
        head = begun if begun == [tokenizer.bos_token_id] else []
        closing += plain_ids(tokenizer, "\n")
    closing += lead
    room = max_tokens - len(head) - len(closing)
    if room < 1:
        raise ConfigError(
            f"routing.backbone.max_tokens: {max_tokens} tokens leave no room for a question beside the "
            f"{len(head) + len(closing)} of chat template and instruction: raise it, or use another backbone "
            "if it cannot read more"
        )
    tokenise = partial(plain_ids, tokenizer)
    return Framing(tokenise, room, tokenizer.pad_token_id, tuple(head), tuple(closing), _tokens(tokenise, stem))


def _tokens(tokenise: Callable[[str], list[int]], stem: str | None) -> tuple[int, ...] | None:
    return None if stem is None else tuple(tokenise(stem))


def end_token(tokenizer: PreTrainedTokenizerBase, stop_ids: Sequence[int]) -> int:
    """What ends an answer: the token with which the chat template closes a turn, otherwise the end of text."""
    if tokenizer.chat_template:
        talk = [{"role": "user", "content": "?"}, {"role": "assistant", "content": _HERE}]
        _, after = _around(tokenizer, talk, generation=False)
        special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special} | set(stop_ids)
        closing = [i for i in tokenizer(after, add_special_tokens=False)["input_ids"] if i in special]
        if closing:
            return int(closing[0])
    return int(stop_ids[0] if tokenizer.eos_token_id is None else tokenizer.eos_token_id)


def plain_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """The text's own tokens; a special token that is written in it counts as characters."""
    return list(tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])


def _around(tokenizer: PreTrainedTokenizerBase, turns: list[dict[str, str]], generation: bool) -> tuple[str, str]:
    """What the chat template writes before and after the placeholder."""
    try:
        text = str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=generation))
    except (TemplateError, ValueError) as error:
        raise ConfigError(f"routing.backbone: its chat template refuses a plain conversation: {error}") from error
    before, found, after = text.rpartition(_HERE)
    if not found:
        raise ConfigError("routing.backbone: its chat template drops the text of a message: use another backbone")
    return before, after
