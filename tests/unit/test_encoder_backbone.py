"""A text encoder as the router's backbone, that learns or stays as it is."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import torch
from encoders import saved_bert
from pydantic import ValidationError
from replays import replay_experiment, skilled
from transformers import AutoConfig, AutoModel

from haps_search.candidates.zoo.recipes import build_tokenizer
from haps_search.config.routing import BackboneConfig
from haps_search.engines.local import LocalEngine
from haps_search.engines.placement.memory import router_need, weight_bytes
from haps_search.errors import CandidateError
from haps_search.records.run_folder import RunFolder
from haps_search.routing.backbone import Backbone
from haps_search.search.loop import run
from haps_search.tasks.build import build_task

TEXTS = ["hello", "a much longer text than the others", "ab"]
LORA = {"type": "lora", "rank": 4, "targets": ["query", "value"]}


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return saved_bert(tmp_path_factory.mktemp("bert"))


def described(folder: Path, **changes: Any) -> dict[str, Any]:
    return {"type": "encoder", "source": {"type": "path", "path": str(folder)}, "device": "cpu", **changes}


def backbone(folder: Path, **changes: Any) -> Backbone:
    return Backbone.load(BackboneConfig.model_validate(described(folder, **changes)))


def test_it_reads_what_the_encoder_reads_whatever_shares_the_batch(bert: Path) -> None:
    read, model, tokenizer = backbone(bert), AutoModel.from_pretrained(bert).eval(), build_tokenizer()
    for row, text in zip(read(TEXTS), TEXTS, strict=True):
        states = model(torch.tensor([tokenizer(text)["input_ids"]])).last_hidden_state[0]
        torch.testing.assert_close(row, states.mean(0), atol=1e-5, rtol=1e-5)


def test_it_reads_no_further_than_it_has_positions(bert: Path) -> None:
    read, long = backbone(bert), "abcdefgh" * 10
    torch.testing.assert_close(read([long]), read([long[-64:]]))
    assert read.truncated([long, "short"]) == 1


@pytest.mark.parametrize(("tuning", "learns"), [({"type": "full"}, True), (LORA, True), ({"type": "frozen"}, False)])
def test_it_learns_a_table_s_words_with_the_router(
    bert: Path, tmp_path: Path, tuning: dict[str, Any], learns: bool
) -> None:
    experiment = replay_experiment(
        skilled(tmp_path / "t.jsonl", 120), routing__backbone=described(bert, tuning=tuning), run__steps=20,
        learning__learning_rate={"high": 0.01},
    )  # fmt: skip
    task = build_task(experiment.task)
    engine = LocalEngine.build(experiment, task)
    before = asyncio.run(engine.snapshot()).tensors
    assert learns == any(name.startswith("router.backbone.") for name in before)
    result = asyncio.run(run(engine, task, experiment, RunFolder(tmp_path / "run", experiment)))
    after = asyncio.run(engine.snapshot()).tensors
    body = [name for name in before if name.startswith("router.backbone.")]
    assert learns == any(not torch.equal(before[name], after[name]) for name in body)
    if tuning["type"] == "full":
        assert result is not None
        assert result.metrics["validation_reward"] >= 0.9


def test_a_plan_counts_what_a_built_one_holds(bert: Path, tmp_path: Path) -> None:
    experiment = replay_experiment(skilled(tmp_path / "t.jsonl", 60), routing__backbone=described(bert))
    assert router_need(experiment, {}, 64).weights == weight_bytes(backbone(bert))


def test_an_encoder_answers_no_question_and_has_to_be_there(bert: Path, tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="high_level: type lm asks an LM, got backbone type encoder"):
        replay_experiment(tmp_path / "t", routing__backbone=described(bert), routing__high_level={"type": "lm"})
    with pytest.raises(CandidateError, match=r"router backbone.*no such folder"):
        backbone(tmp_path / "nowhere")
    AutoConfig.for_model("t5").save_pretrained(tmp_path / "t5")
    with pytest.raises(CandidateError, match="of type t5, an encoder with a decoder"):
        backbone(tmp_path / "t5")
