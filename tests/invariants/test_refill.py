"""Requests that join a batch as texts end say what they would have said alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from families import build_family
from verbs import same, sampled_and_scored

from haps_search.candidates import sample as sample_module
from haps_search.candidates.frozen_lm import FrozenLM
from haps_search.config.candidates import CandidateConfig, PathSource
from haps_search.config.routing import LastLayers, LoraConfig
from haps_search.lora.spec import resolve
from haps_search.types import Adapter, Message, SampleRequest, Sampling

TEXTS = [
    "a question of some length", "what is it now, again", "what is it now, again", "why not today, my friend",
    "hello there, everyone", "a question of some length", "zebras are animals too", "and so on and so forth ever",
]  # fmt: skip
"""None is twice as long as another with its text, so that all may decode together."""
LENGTHS = [2, 9, 3, 12, 1, 7, 5, 10]
FAMILIES = {"llama": "o_proj", "gemma3_text": "down_proj", "mistral-late": "k_proj", "phi": "dense"}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    torch.set_num_threads(1)
    return build_family(tmp_path_factory.mktemp(request.param), request.param), FAMILIES[request.param]


def load(folder: Path, **how: Any) -> FrozenLM:
    source = PathSource(path=str(folder))
    return FrozenLM.load(CandidateConfig(name="lm", source=source, dtype="float64", device="cpu", **how))


def requests(lm: FrozenLM, target: str) -> list[SampleRequest]:
    """Texts of very different lengths, those of a question under one adapter, one without."""
    layouts = [resolve(LoraConfig(rank=2, targets=(target,), layers=LastLayers(last=n)), lm.table) for n in (1, 2)]
    draw, under = torch.Generator().manual_seed(0), dict[str, Adapter | None]()
    for number, text in enumerate(dict.fromkeys(TEXTS)):
        layout = layouts[number % 2]
        under[text] = Adapter(layout, 0.3 * torch.randn(layout.size, generator=draw, dtype=torch.float64))
    under[TEXTS[6]] = None
    return [
        SampleRequest((Message("user", text),), Sampling(length, 0.9, row, top_p=0.95), under[text])
        for row, (text, length) in enumerate(zip(TEXTS, LENGTHS, strict=True))
    ]


@pytest.mark.parametrize("decode", ["eager", "static"])
def test_whoever_joins_says_and_learns_what_it_would_alone(
    family: tuple[Path, str], decode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, target = family
    lm, wide = load(folder, decode=decode, batch_rows=3), load(folder, decode="eager")
    asked = requests(lm, target)
    joined, side_by_side = list[int](), sample_module.side_by_side

    def noted(one: Any, other: Any, config: Any) -> Any:
        joined.append(len(other.mask))
        return side_by_side(one, other, config)

    monkeypatch.setattr(sample_module, "side_by_side", noted)
    found = sampled_and_scored(lm, asked)
    assert sum(joined) >= 3, "some joined a batch that was decoding"
    wanted = [said for request in asked for said in sampled_and_scored(wide, [request])]
    assert len({said.sampled.token_ids for said in wanted}) > 4
    same(found, wanted)
    same(sampled_and_scored(wide, asked), wanted)


def test_no_more_rows_decode_than_may_and_the_episodes_of_a_prompt_begin_together(family: tuple[Path, str]) -> None:
    folder, _ = family
    lm = load(folder, batch_rows=4)
    rows: list[int] = []
    with lm._lm.model.get_input_embeddings().register_forward_pre_hook(lambda m, args: rows.append(len(args[0]))):
        asked = [
            SampleRequest((Message("user", text),), Sampling(2 + row % 5, 1.0, row))
            for row, text in enumerate("aaabbbcccddd")
        ]
        lm.sample(asked)
    assert max(rows) <= 4
    assert sample_module._runs("aaabbbcccddd", 4) == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]]
    assert sample_module._runs("aaaaab", 2) == [[0, 1], [2, 3], [4], [5]]
