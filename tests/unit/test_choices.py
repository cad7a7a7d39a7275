"""Assignments as JSON, and tokenizers that cannot write them."""

from __future__ import annotations

import json

import pytest
from instruct import chat_tokenizer
from tokenizers import Tokenizer, models, pre_tokenizers
from tokenizers.normalizers import Lowercase
from transformers import PreTrainedTokenizerFast

from haps_search.candidates.zoo import ZOO, zoo_path
from haps_search.errors import ConfigError
from haps_search.routing.choices import by_id, choices, continuations
from haps_search.routing.distribution import all_assignments

ROLES, NAMES = ("teacher", "student"), ("a", "b", "c")


def characters(known: str, unknown: str | None = "<unk>") -> PreTrainedTokenizerFast:
    """One token per known character; others are `unknown`, or dropped where that is None."""
    symbols = ["<eos>", *([unknown] if unknown else []), *known]
    vocabulary = {symbol: index for index, symbol in enumerate(symbols)}
    backend = Tokenizer(models.BPE(vocabulary, merges=[], unk_token=unknown))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>", unk_token=unknown)


def merging(known: str, pair: tuple[str, str]) -> PreTrainedTokenizerFast:
    """As `characters`, and one pair of them is a token."""
    symbols = ["<eos>", "<unk>", *known, "".join(pair)]
    backend = Tokenizer(models.BPE({s: i for i, s in enumerate(symbols)}, merges=[pair], unk_token="<unk>"))
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>", unk_token="<unk>")


def test_few_assignments_are_one_object_each_in_their_order() -> None:
    found = choices(ROLES, NAMES, 9)
    assert found.joint
    assert [tuple(json.loads(t)[r] for r in ROLES) for t in found.texts] == all_assignments(NAMES, 2)
    assert found.texts[1] == '{"teacher": "a", "student": "b"}'


def test_more_are_one_object_per_role_and_candidate() -> None:
    found = choices(ROLES, NAMES, 8)
    assert not found.joint
    assert found.texts[:4] == ('{"teacher": "a"}', '{"teacher": "b"}', '{"teacher": "c"}', '{"student": "a"}')
    assert len(found.texts) == 6


def test_names_are_written_as_json_writes_them() -> None:
    (text,) = choices(('the "best" {role}',), ("größe",), 64).texts
    assert text == '{"the \\"best\\" {role}": "größe"}'


def test_a_choice_ends_with_the_end_token() -> None:
    tokenizer = chat_tokenizer()
    (ids,) = continuations(tokenizer, ['{"r": "<|end|>"}'], 1)
    assert ids[-1] == 1
    assert tokenizer.decode(ids[:-1]) == '{"r": "<|end|>"}'
    assert not set(ids[:-1]) & set(tokenizer.added_tokens_decoder)


@pytest.mark.parametrize("unknown", ["<unk>", None])
def test_characters_a_tokenizer_does_not_know_are_named(unknown: str | None) -> None:
    tokenizer = characters("abcdehnrstu: ,", unknown)
    with pytest.raises(ConfigError, match=r'needs the JSON .*does not know " { }:'):
        continuations(tokenizer, choices(ROLES, NAMES, 64).texts, 0)


def test_a_tokenizer_of_whole_words_is_judged_by_its_words() -> None:
    words = ("<unk>", "<eos>", '{"', '":', '"', '"}', "teacher", "a")
    backend = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>", unk_token="<unk>")
    assert continuations(tokenizer, ['{"teacher": "a"}'], 1) == ((2, 6, 3, 4, 7, 5, 1),)
    with pytest.raises(ConfigError, match=r'the JSON \{"teacher": "z"\}.* does not know'):
        continuations(tokenizer, ['{"teacher": "a"}', '{"teacher": "z"}'], 1)


def test_names_that_a_tokenizer_reads_alike_are_refused() -> None:
    tokenizer = chat_tokenizer()
    tokenizer.backend_tokenizer.normalizer = Lowercase()
    with pytest.raises(ConfigError, match=r'reads \{"r": "Qwen"\} and \{"r": "qwen"\} alike'):
        continuations(tokenizer, choices(("r",), ("Qwen", "llama", "qwen"), 64).texts, 1)


@pytest.mark.parametrize("name", ZOO)
def test_the_shipped_lms_can_write_assignments(name: str) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(zoo_path(name))
    texts = choices(ROLES, ZOO, 64).texts
    assert [tokenizer.decode(ids[:-1]) for ids in continuations(tokenizer, texts, 1)] == list(texts)


def read(tokenizer: PreTrainedTokenizerFast, tokens: tuple[int, ...]) -> str:
    return "".join(tokenizer.convert_ids_to_tokens(list(tokens)))


SAID = '{}", :teachrsudn'
"""The characters of the JSON, without ids."""


def test_ids_are_letters_and_what_all_choices_begin_with_is_read_with_the_prompt() -> None:
    tokenizer = characters(SAID + "ABC")
    one = by_id(tokenizer, ROLES[:1], NAMES, 64)
    assert read(tokenizer, one.lead) == '{"teacher": "'
    assert [read(tokenizer, ids) for ids in one.ids] == ["A", "B", "C"]
    assert one.instruction.splitlines()[0] == "Candidates by id: A = a, B = b, C = c"
    two = by_id(tokenizer, ROLES, NAMES, 64)
    assert two.joint
    assert read(tokenizer, two.lead) == '{"teacher": "'
    assert [read(tokenizer, ids) for ids in two.ids] == [f'{a}", "student": "{b}' for a in "ABC" for b in "ABC"]


def test_beyond_the_limit_each_role_is_answered_by_itself() -> None:
    tokenizer = characters(SAID + "ABC")
    found = by_id(tokenizer, ROLES, NAMES, 8)
    assert not found.joint
    assert [read(tokenizer, found.lead + ids) for ids in found.ids] == [
        f'{{"{role}": "{one}' for role in ROLES for one in "ABC"
    ]


def test_one_candidate_keeps_a_token_to_score() -> None:
    assert [len(ids) for ids in by_id(characters(SAID + "A"), ROLES, ("a",), 64).ids] == [1]


def test_where_letters_are_no_tokens_digits_are_taken() -> None:
    tokenizer = characters(SAID + "0123456789")
    found = by_id(tokenizer, ROLES[:1], NAMES, 64)
    assert [read(tokenizer, ids) for ids in found.ids] == ["0", "1", "2"]


def test_a_letter_that_the_tokenizer_joins_with_its_quote_is_no_id() -> None:
    tokenizer = merging(SAID + "ABC012", ('"', "A"))
    found = by_id(tokenizer, ROLES[:1], NAMES, 64)
    assert [read(tokenizer, ids) for ids in found.ids] == ["0", "1", "2"]


def test_a_letter_that_the_tokenizer_joins_with_the_quote_after_it_is_no_id() -> None:
    tokenizer = merging(SAID + "ABC012", ("B", '"'))
    assert [read(tokenizer, ids) for ids in by_id(tokenizer, ROLES[:1], NAMES, 64).ids] == ["A", "B", "C"]
    assert {ids[0] for ids in by_id(tokenizer, ROLES, NAMES, 64).ids} == {
        tokenizer.convert_tokens_to_ids(c) for c in "012"
    }


@pytest.mark.parametrize(("count", "last"), [(26, "Z"), (27, "A"), (62, "9")])
def test_many_candidates_have_ids_too(count: int, last: str) -> None:
    tokenizer = chat_tokenizer()
    found = by_id(tokenizer, ("r",), [f"model-{i}" for i in range(count)], 64)
    assert tokenizer.decode(found.ids[-1]) == last
    assert len(set(found.ids)) == count


def test_more_than_there_are_ids_are_refused_with_the_way_out() -> None:
    with pytest.raises(ConfigError, match=r"63 candidates are not one token each.*use ids: names"):
        by_id(chat_tokenizer(), ("r",), [f"model-{i}" for i in range(63)], 64)
    with pytest.raises(ConfigError, match=r"3 candidates are not one token each.*use ids: names"):
        by_id(characters(SAID), ROLES, NAMES, 64)
