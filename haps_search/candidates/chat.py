"""Messages to prompt tokens: the model's own chat template, or a declared mapping."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from jinja2 import TemplateError
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from haps_search.candidates.messages import merged
from haps_search.config.candidates import Chat, PlainChat, TemplateChat
from haps_search.errors import CandidateError
from haps_search.types import Message

_HERE = "an answer stands here"
_SEAM = 4
"""So many of a prompt's last tokens are read again with what follows them."""


def render(tokenizer: PreTrainedTokenizerBase, chat: Chat, messages: Sequence[Message], owner: str) -> list[int]:
    """Token ids of the prompt, ready for the assistant's turn.

    Raises:
        CandidateError: no chat template, a template that refuses or drops the system text, an empty prompt.
    """
    if isinstance(chat, PlainChat):
        ids = _raw_ids(tokenizer, _plain(chat, messages))
    else:
        # A template writes the special tokens itself; adding the default ones would double the BOS.
        text = _templated(tokenizer, chat, messages, owner)
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    if not ids:
        raise CandidateError(f"`{owner}`: the prompt has no tokens: give the task a prompt or a system text")
    return list(ids)


def text_ids(
    tokenizer: PreTrainedTokenizerBase, chat: Chat, prompt: Sequence[int], text: str, stop_ids: Sequence[int]
) -> list[int]:
    """Token ids of an answer as the model would have to give it after `prompt`, closed by the token that ends a turn;
    a special token that is written in it counts as characters.

    A template says how an answer begins. After the prompt of a plain mapping it begins as text goes on: with a space
    where neither of them has white space there, and in the tokens of the whole where these begin with the prompt's.
    """
    ids = _going_on(tokenizer, prompt, text) if isinstance(chat, PlainChat) else _bare(tokenizer, text)
    return [*ids, *_end_of_turn(tokenizer, chat, stop_ids)]


def _going_on(tokenizer: PreTrainedTokenizerBase, prompt: Sequence[int], text: str) -> list[int]:
    tails = [list(prompt[-count:]) for count in range(min(_SEAM, len(prompt)), 0, -1)]
    written = [str(tokenizer.decode(tail)) for tail in tails]
    if not text[:1].isspace() and written and not written[-1][-1:].isspace():
        text = f" {text}"
    for tail, before in zip(tails, written, strict=True):
        whole = _bare(tokenizer, before + text)
        if whole[: len(tail)] == tail:
            return whole[len(tail) :]
    return _bare(tokenizer, text)


def _bare(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])


def _end_of_turn(tokenizer: PreTrainedTokenizerBase, chat: Chat, stop_ids: Sequence[int]) -> list[int]:
    """Of the tokens that end a generation the one with which the chat template closes an answer, or, after a plain
    mapping, a line feed where that ends one (a model without templates knows it best); else the tokenizer's end token;
    none where there is none."""
    if isinstance(chat, TemplateChat) and tokenizer.chat_template:
        talk = [{"role": "user", "content": "?"}, {"role": "assistant", "content": _HERE}]
        with suppress(TemplateError, ValueError):  # said of a prompt, which it refuses as well
            closing = str(tokenizer.apply_chat_template(talk, tokenize=False)).rpartition(_HERE)[2]
            ends = [i for i in tokenizer(closing, add_special_tokens=False)["input_ids"] if i in stop_ids]
            if ends:
                return ends[:1]
    if isinstance(chat, PlainChat) and (feed := _bare(tokenizer, "\n")) and len(feed) == 1 and feed[0] in stop_ids:
        return feed
    return [i for i in (tokenizer.eos_token_id, *stop_ids) if i is not None][:1]


def _plain(chat: PlainChat, messages: Sequence[Message]) -> str:
    mapping = {"system": chat.system, "user": chat.user, "assistant": chat.assistant}
    return "".join(mapping[m.role].replace("{content}", m.content) for m in messages) + chat.generation


def _raw_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """As the tokenizer reads raw text, BOS included where it adds one; one BOS only, and no end token."""
    bare = tokenizer(text, add_special_tokens=False)["input_ids"]
    if tokenizer.bos_token and text.startswith(tokenizer.bos_token):
        return list(bare)
    ids = tokenizer(text)["input_ids"]
    closed = ids[-1:] == [tokenizer.eos_token_id] and (not bare or ids[-len(bare) :] != bare)
    return list(ids[:-1] if closed else ids)


def _templated(tokenizer: PreTrainedTokenizerBase, chat: TemplateChat, messages: Sequence[Message], owner: str) -> str:
    if not tokenizer.chat_template:
        raise CandidateError(
            f"`{owner}`: its tokenizer has no chat template: declare one on the candidate, for instance "
            r'`chat: {type: plain, user: "{content}\n", generation: "Answer:"}`'
        )
    shaped = merged(messages) if chat.system == "merge" else list(messages)
    system = [m.content.strip() for m in shaped if m.role == "system"]
    turns = [{"role": m.role, "content": m.content} for m in shaped]
    try:
        text = str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))
    except (TemplateError, ValueError) as error:
        way_out = "set `chat: {type: template, system: merge}`" if system else "use `chat: {type: plain, ...}`"
        raise CandidateError(f"`{owner}`: its chat template refuses these messages ({error}): {way_out}") from error
    if any(part not in text for part in system):
        raise CandidateError(
            f"`{owner}`: its chat template drops the system text: set `chat: {{type: template, system: merge}}`"
        )
    return text
