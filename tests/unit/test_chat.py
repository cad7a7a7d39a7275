"""Messages to prompt tokens, with templates of several manners."""

from __future__ import annotations

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from haps_search.candidates.chat import render, text_ids
from haps_search.config.candidates import Chat, PlainChat, TemplateChat
from haps_search.errors import CandidateError
from haps_search.types import Message

BOS, EOS = 0, 1
NATIVE = (
    "{{ bos_token }}{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
REFUSING = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + NATIVE
DROPPING = NATIVE.replace("in messages", "in messages if m.role != 'system'")
TALK = (Message("system", "Be brief."), Message("user", "Why?"))


def tokenizer(template: str | None = None, ends: bool = False) -> PreTrainedTokenizerFast:
    """Character tokens; BOS before raw text, and EOS after it where `ends`."""
    characters = ["\n", *map(chr, range(32, 127))]
    vocabulary = {token: i for i, token in enumerate(["<s>", "</s>", *characters])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    backend.decoder = decoders.Fuse()
    special = [("<s>", BOS), ("</s>", EOS)]
    single = "<s> $A </s>" if ends else "<s> $A"
    backend.post_processor = processors.TemplateProcessing(single=single, special_tokens=special)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="?", chat_template=template
    )


def text_of(chat: Chat, messages: tuple[Message, ...], template: str | None = None, ends: bool = False) -> str:
    tok = tokenizer(template, ends)
    return "".join(tok.convert_ids_to_tokens(render(tok, chat, messages, "nina")))


def error_of(chat: Chat, messages: tuple[Message, ...], template: str | None) -> str:
    with pytest.raises(CandidateError) as caught:
        render(tokenizer(template), chat, messages, "nina")
    assert "`nina`" in str(caught.value)
    return str(caught.value)


def test_a_template_gets_the_system_role_and_one_bos() -> None:
    assert text_of(TemplateChat(), TALK, NATIVE) == "<s><system>Be brief.\n<user>Why?\n<assistant>"


def test_merge_puts_the_system_text_before_the_first_user_message() -> None:
    talk = (*TALK, Message("assistant", "So."), Message("user", "And?"))
    wanted = "<s><user>Be brief.\n\nWhy?\n<assistant>So.\n<user>And?\n<assistant>"
    assert text_of(TemplateChat(system="merge"), talk, REFUSING) == wanted


def test_merge_without_a_user_message_speaks_as_the_user() -> None:
    assert text_of(TemplateChat(system="merge"), TALK[:1], NATIVE) == "<s><user>Be brief.\n<assistant>"


@pytest.mark.parametrize("template", [REFUSING, DROPPING])
def test_a_template_without_a_system_role_asks_for_merge(template: str) -> None:
    assert "system: merge" in error_of(TemplateChat(), TALK, template)
    assert text_of(TemplateChat(), TALK[1:], template) == "<s><user>Why?\n<assistant>"


def test_a_template_that_refuses_anything_else_asks_for_plain() -> None:
    template = "{{ raise_exception('roles must alternate') }}"
    message = error_of(TemplateChat(), TALK[1:], template)
    assert "roles must alternate" in message
    assert "type: plain" in message


def test_no_template_asks_for_plain() -> None:
    assert "chat: {type: plain" in error_of(TemplateChat(), TALK, None)


def test_plain_fills_content_and_leaves_its_braces_alone() -> None:
    chat = PlainChat(user="Q: {content} {x}\n", generation="A:")
    talk = (Message("system", "{content}{0}"), Message("user", "{y} {"))
    assert text_of(chat, talk) == "<s>{content}{0}\n\nQ: {y} { {x}\nA:"


def test_plain_has_one_bos_and_no_end() -> None:
    assert text_of(PlainChat(), TALK, ends=True) == "<s>Be brief.\n\nWhy?\n"
    assert text_of(PlainChat(system="<s>{content}\n\n"), TALK, ends=True) == "<s>Be brief.\n\nWhy?\n"


def test_plain_keeps_an_end_token_the_mapping_wrote() -> None:
    assert text_of(PlainChat(user="{content}</s>"), TALK[1:], ends=True) == "<s>Why?</s>"


def test_an_empty_prompt_is_refused() -> None:
    template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    assert "no tokens" in error_of(TemplateChat(), (Message("user", ""),), template)


ENDING = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
FEED = 2


@pytest.mark.parametrize(
    ("chat", "template", "stops", "text", "wanted"),
    [
        (TemplateChat(), ENDING, (EOS, FEED), "42", "<user>Why?</s>\n<assistant>|42</s>"),
        (TemplateChat(), NATIVE, (FEED,), "42", "<s><user>Why?\n<assistant>|42\n"),
        (PlainChat(user="{content}\n", generation="A:"), None, (EOS,), "42", "<s>Why?\nA:| 42</s>"),
        (PlainChat(user="{content}\n", generation="A: "), None, (EOS,), "42", "<s>Why?\nA: |42</s>"),
        (PlainChat(user="{content}"), None, (EOS, FEED), "42", "<s>Why?| 42\n"),
        (PlainChat(user="{content}"), None, (EOS,), " 42", "<s>Why?| 42</s>"),
        (PlainChat(), None, (EOS, FEED), "a </s>", "<s>Why?\n|a </s>\n"),
    ],
)
def test_what_is_taught_begins_as_the_prompt_goes_on_and_ends_as_a_turn_does(
    chat: Chat, template: str | None, stops: tuple[int, ...], text: str, wanted: str
) -> None:
    tok = tokenizer(template)
    prompt = render(tok, chat, TALK[1:], "nina")
    ids = text_ids(tok, chat, prompt, text, stops)
    assert "|".join("".join(tok.convert_ids_to_tokens(some)) for some in (prompt, ids)) == wanted
    assert ids[-1] in stops
    assert EOS not in ids[:-1], "a special token in a reference is characters"


def test_tokens_that_straddle_prompt_and_answer_are_taught_as_they_would_be_said() -> None:
    """`A:` then ` 42` is one token with its space where the whole is read so; a merge with the prompt is none."""
    merges = [(" ", "4"), (" 4", "2"), (":", "x")]
    letters = ["A", ":", " ", "4", "2", "x", " 4", " 42", ":x"]
    backend = Tokenizer(models.BPE({t: i for i, t in enumerate(["<s>", "</s>", *letters])}, merges))
    backend.decoder = decoders.Fuse()
    tok = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")
    prompt = tok("A:")["input_ids"]
    assert tok.convert_ids_to_tokens(text_ids(tok, PlainChat(), prompt, "42", (EOS,))) == [" 42", "</s>"]
    spaced = tok("A: ")["input_ids"]
    assert tok.convert_ids_to_tokens(text_ids(tok, PlainChat(), spaced, "42", (EOS,))) == ["4", "2", "</s>"]
