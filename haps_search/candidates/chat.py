"""Messages to prompt tokens: the model's own chat template, or a declared mapping."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from jinja2 import TemplateError
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from haps_search.config.candidates import Chat, PlainChat, TemplateChat
from haps_search.errors import CandidateError
from haps_search.types import Message

_HERE = "an answer stands here"


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


def text_ids(tokenizer: PreTrainedTokenizerBase, chat: Chat, text: str, stop_ids: Sequence[int]) -> list[int]:
    """Token ids of an answer as the model would have to give it, closed by the token that ends a turn; a special token
    that is written in it counts as characters."""
    ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    return [*ids, *_end_of_turn(tokenizer, chat, stop_ids)]


def _end_of_turn(tokenizer: PreTrainedTokenizerBase, chat: Chat, stop_ids: Sequence[int]) -> list[int]:
    """Of the tokens that end a generation the one with which the chat template closes an answer, else the tokenizer's;
    none where there is none."""
    if isinstance(chat, TemplateChat) and tokenizer.chat_template:
        talk = [{"role": "user", "content": "?"}, {"role": "assistant", "content": _HERE}]
        with suppress(TemplateError, ValueError):  # said of a prompt, which it refuses as well
            closing = str(tokenizer.apply_chat_template(talk, tokenize=False)).rpartition(_HERE)[2]
            ends = [i for i in tokenizer(closing, add_special_tokens=False)["input_ids"] if i in stop_ids]
            if ends:
                return ends[:1]
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
    shaped = _merged(messages) if chat.system == "merge" else list(messages)
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


def _merged(messages: Sequence[Message]) -> list[Message]:
    """The system text before the first user message; a user message of its own where there is none."""
    system = "\n\n".join(m.content for m in messages if m.role == "system")
    others = [m for m in messages if m.role != "system"]
    if not system:
        return others
    first = next((i for i, m in enumerate(others) if m.role == "user"), None)
    if first is None:
        return [Message("user", system), *others]
    merged = Message("user", f"{system}\n\n{others[first].content}")
    return [*others[:first], merged, *others[first + 1 :]]
