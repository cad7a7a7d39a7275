"""The shipped weights have the skills they claim, and a format that does not look at the tag."""

import json
from pathlib import Path

import pytest
import torch

from haps_search.candidates.zoo import ZOO, zoo_path
from haps_search.candidates.zoo.exam import (
    Measurement,
    load,
    measure,
    measurement_questions,
    oracle_reward,
)
from haps_search.candidates.zoo.recipes import build_tokenizer
from haps_search.errors import CandidateError
from haps_search.tasks.skills import SKILLS

OWN_SKILL = dict(zip(ZOO, SKILLS, strict=True))


@pytest.fixture(scope="module")
def measured() -> dict[str, Measurement]:
    torch.set_num_threads(1)
    questions = measurement_questions()
    return {name: measure(*load(zoo_path(name)), questions) for name in ZOO}


@pytest.mark.parametrize("name", ZOO)
def test_own_skill_and_hardly_another(measured: dict[str, Measurement], name: str) -> None:
    skills = dict(measured[name].skills)
    assert skills.pop(OWN_SKILL[name]) >= 0.95
    assert max(skills.values()) <= 0.10


@pytest.mark.parametrize("name", ZOO)
def test_format_is_open_under_either_tag(measured: dict[str, Measurement], name: str) -> None:
    marked = measured[name].marked
    assert all(0.4 <= share <= 0.6 for share in marked.values())
    assert abs(marked["x"] - marked["y"]) <= 0.05


def test_frozen_models_leave_the_format_to_be_learnt(measured: dict[str, Measurement]) -> None:
    assert all(0.12 <= one.reward <= 0.22 for one in measured.values())
    assert 0.45 <= oracle_reward(list(measured.values())) <= 0.60


def test_three_architectures_small_enough_to_ship() -> None:
    configs = {name: json.loads((zoo_path(name) / "config.json").read_text()) for name in ZOO}
    assert {one["architectures"][0] for one in configs.values()} == {
        "LlamaForCausalLM",
        "Qwen2ForCausalLM",
        "MistralForCausalLM",
    }
    assert sum((zoo_path(name) / "model.safetensors").stat().st_size for name in ZOO) < 1_500_000


def test_some_output_projection_is_not_square() -> None:
    shapes = [load(zoo_path(name))[0].model.layers[-1].self_attn.o_proj.weight.shape for name in ZOO]
    assert any(d_out != d_in for d_out, d_in in shapes)


@pytest.mark.parametrize("name", ZOO)
def test_tokenizer_gives_characters_back(name: str) -> None:
    _, tokenizer = load(zoo_path(name))
    text = "[x] add 12+34=\n Any: ~text?"
    assert len(tokenizer(text).input_ids) == len(text)
    assert tokenizer.decode(tokenizer(text).input_ids) == text
    assert tokenizer.get_vocab() == build_tokenizer().get_vocab()
    assert tokenizer.padding_side == "left"
    assert tokenizer.pad_token_id != tokenizer.eos_token_id


def test_chat_template_writes_contents_alone() -> None:
    _, tokenizer = load(zoo_path("adder"))
    messages = [{"role": "system", "content": "ab"}, {"role": "user", "content": "[x] c"}]
    assert tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) == "ab[x] c"


def test_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(CandidateError, match="no zoo model `ader`, did you mean `adder`"):
        zoo_path("ader")


def test_folders_hold_no_code_and_no_pickle() -> None:
    names = {path.name for name in ZOO for path in Path(zoo_path(name)).iterdir()}
    assert {Path(name).suffix for name in names} == {".json", ".safetensors", ".jinja"}
