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
from haps_search.routing.choices import choices, continuations
from haps_search.routing.distribution import all_assignments

ROLES, NAMES = ("teacher", "student"), ("a", "b", "c")


def characters(known: str, unknown: str | None = "<unk>") -> PreTrainedTokenizerFast:
    """One token per known character; others are `unknown`, or dropped where that is None."""
    symbols = ["<eos>", *([unknown] if unknown else []), *known]
    vocabulary = {symbol: index for index, symbol in enumerate(symbols)}
    backend = Tokenizer(models.BPE(vocabulary, merges=[], unk_token=unknown))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>", unk_token=unknown)


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
