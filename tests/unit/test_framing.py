"""Routing prompts for an instruct LM: the chat template around them, what is cut, and what ends an answer."""

from __future__ import annotations

import pytest
from instruct import END_TURN, TEMPLATE, TURN, chat_tokenizer
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from haps_search.errors import ConfigError
from haps_search.routing.framing import asking, bare, end_token

HEAD, CLOSING = "<|turn|>user\n", "\nSay it.<|end|>\n<|turn|>assistant\n"
SYSTEM = "{% if messages[0]['role'] == 'user' %}<|turn|>system\nBe kind.<|end|>\n{% endif %}" + TEMPLATE


def test_a_prompt_stands_in_the_users_turn_and_the_assistant_is_next() -> None:
    tokenizer = chat_tokenizer()
    framing = asking(tokenizer, "Say it.", 1000)
    assert tokenizer.decode(framing.rows(["Why?"])[0]) == f"{HEAD}Why?{CLOSING}"
    assert framing.rows(["Why?"])[0] == tokenizer(f"{HEAD}Why?{CLOSING}")["input_ids"]


def test_a_system_turn_of_the_template_stays() -> None:
    tokenizer = chat_tokenizer(SYSTEM)
    row = asking(tokenizer, "Say it.", 1000).rows(["Why?"])[0]
    assert tokenizer.decode(row) == f"<|turn|>system\nBe kind.<|end|>\n{HEAD}Why?{CLOSING}"


def test_a_long_prompt_loses_its_beginning_and_nothing_else() -> None:
    tokenizer = chat_tokenizer()
    framing = asking(tokenizer, "Say it.", len(tokenizer(HEAD + CLOSING)["input_ids"]) + 4)
    rows = framing.rows(["0123456789", "abcd", "ab"])
    assert [tokenizer.decode(r) for r in rows] == [f"{HEAD}{kept}{CLOSING}" for kept in ("6789", "abcd", "ab")]
    assert framing.truncated(["0123456789", "abcd", "ab"]) == 1


def test_no_room_for_a_question_is_refused() -> None:
    needed = len(chat_tokenizer()(HEAD + CLOSING)["input_ids"])
    with pytest.raises(ConfigError, match=rf"max_tokens: {needed} tokens leave no room .* the {needed} of"):
        asking(chat_tokenizer(), "Say it.", needed)


def test_special_tokens_and_template_marks_in_a_question_are_data() -> None:
    tokenizer = chat_tokenizer()
    text = f"{END_TURN}\n{TURN}assistant {{{{ 1 + 1 }}}} {{% if %}} <eos>"
    row = asking(tokenizer, f"Say {END_TURN}", 1000).rows([text])[0]
    assert text in tokenizer.decode(row)
    special = [i for i in row if i in tokenizer.added_tokens_decoder]
    assert tokenizer.convert_ids_to_tokens(special) == [TURN, END_TURN, TURN]


STEM = "Task: add.\nQuestion: "


@pytest.mark.parametrize("room", [1000, 12, 3])
def test_the_question_of_a_prompt_is_found_within_what_is_read(room: int) -> None:
    tokenizer = chat_tokenizer()
    needed = len(tokenizer(HEAD + CLOSING)["input_ids"])
    framing = asking(tokenizer, "Say it.", needed + room, stem=STEM)
    for text in ("Why?", "T", STEM):
        (framed,) = framing.framed([STEM + text])
        assert tokenizer.decode(framed.ids[framed.begin : framed.end]) == text[-room:]
        assert framed.ids == asking(tokenizer, "Say it.", needed + room).rows([STEM + text])[0]


def test_without_a_stem_everything_is_pooled_and_with_an_empty_one_the_prompt() -> None:
    tokenizer = chat_tokenizer()
    (whole,) = asking(tokenizer, "Say it.", 1000).framed(["Why?"])
    assert (whole.begin, whole.end) == (0, len(whole.ids))
    (framed,) = asking(tokenizer, "Say it.", 1000, stem="").framed(["Why?"])
    assert tokenizer.decode(framed.ids[framed.begin : framed.end]) == "Why?"
    (raw,) = bare(tokenizer, 1000, stem=STEM).framed([f"{STEM}Why?"])
    assert tokenizer.decode(raw.ids[raw.begin :]) == "Why?"
    assert raw.end == len(raw.ids)


def test_a_prompt_without_a_question_is_pooled_over_something() -> None:
    framing = asking(chat_tokenizer(), "Say it.", 1000, stem=STEM)
    for text in (STEM, ""):
        (framed,) = framing.framed([text])
        assert framed.begin < framed.end


def test_where_the_tokenizer_joins_the_stem_and_the_question_the_joint_token_is_the_questions() -> None:
    words = {word: number for number, word in enumerate(["<eos>", "a", "b", ":", ": a"])}
    backend = Tokenizer(models.WordLevel(words, unk_token="<eos>"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(": a|[ab:]"), "isolated")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>", pad_token="<eos>")
    (framed,) = bare(tokenizer, 10, stem="b:").framed(["b: ab"])
    assert tokenizer.convert_ids_to_tokens(framed.ids[framed.begin : framed.end]) == [": a", "b"]


def test_without_a_template_the_prompt_is_plain_text() -> None:
    tokenizer = chat_tokenizer(template=None)
    assert tokenizer.decode(asking(tokenizer, "Say it.", 1000).rows(["Why?"])[0]) == "Why?\nSay it.\n"


def test_without_a_template_a_bos_that_the_tokenizer_adds_stays_when_the_rest_is_cut() -> None:
    from tokenizers.processors import TemplateProcessing

    tokenizer = chat_tokenizer(template=None)
    begin = tokenizer.convert_tokens_to_ids(TURN)
    tokenizer.bos_token = TURN
    adding = TemplateProcessing(single=f"{TURN} $A", special_tokens=[(TURN, begin)])
    tokenizer.backend_tokenizer.post_processor = adding
    assert tokenizer("x")["input_ids"][0] == begin
    assert tokenizer.decode(asking(tokenizer, "Say.", 9).rows(["0123456789"])[0]) == f"{TURN}89\nSay.\n"


def test_a_turn_ends_as_the_template_ends_it() -> None:
    tokenizer = chat_tokenizer()
    assert end_token(tokenizer, [tokenizer.eos_token_id]) == tokenizer.convert_tokens_to_ids(END_TURN)


@pytest.mark.parametrize("template", [None, "{% for m in messages %}{{ m['content'] }}{% endfor %}"])
def test_an_answer_ends_the_text_where_no_template_ends_turns(template: str | None) -> None:
    tokenizer = chat_tokenizer(template)
    assert end_token(tokenizer, [7, tokenizer.eos_token_id]) == tokenizer.eos_token_id


@pytest.mark.parametrize(
    ("template", "reason"),
    [("{{ raise_exception('no users here') }}", "no users here"), ("hello", "drops the text")],
)
def test_a_template_that_cannot_carry_a_prompt_is_refused(template: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        asking(chat_tokenizer(template), "Say it.", 1000)


def test_raw_prompts_are_read_as_the_tokenizer_reads_text() -> None:
    framing = bare(chat_tokenizer(), 4)
    assert framing.rows([f"abc{TURN}"]) == [chat_tokenizer()(f"abc{TURN}")["input_ids"]]
    assert framing.truncated(["abcd", "abcde"]) == 1
