"""What a zoo model can do, measured from its folder on held-out questions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, cast

import torch
from rich.table import Table
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast

from haps_search.config import tasks as config
from haps_search.tasks.skills import SKILLS, TAGS, Skill, SkillsTask, Tag, same_content
from haps_search.types import Question

MAX_NEW_TOKENS = 8
MARKED_STARTS = "#ABCDEFGHIJKLMNOPQRSTUVWXYZ"
"""Characters an answer in the `y` format can start with; none of the `x` format starts so."""


@dataclass(frozen=True)
class Measurement:
    """Skills and formats of one model over a list of questions."""

    texts: tuple[str, ...]
    """Greedy answers, one per question."""
    rewarded: tuple[bool, ...]
    """Whether a greedy answer is right, format included."""
    skills: Mapping[Skill, float]
    """Share of greedy answers with the right content, whatever the format."""
    marked: Mapping[Tag, float]
    """Mean P(answer starts in the `y` format | tag) at temperature 1, over the best skill's questions."""
    marked_greedy: Mapping[Tag, float]
    """The same for the greedy answers."""

    @property
    def skill(self) -> Skill:
        return max(self.skills, key=lambda skill: self.skills[skill])

    @property
    def reward(self) -> float:
        return fmean(self.rewarded)


def load(folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """A stored model, held in float32, and its tokenizer."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model.eval(), cast(PreTrainedTokenizerFast, AutoTokenizer.from_pretrained(folder))


def measurement_questions(size: int = 1500) -> tuple[Question, ...]:
    """Validation questions at the default difficulty, a third per skill."""
    return tuple(SkillsTask(config.SkillsTask(sizes={"validation": size})).questions("validation"))


def measure(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, questions: Sequence[Question]) -> Measurement:
    """Greedy answers and first-token format of a model on questions, in one batch."""
    prompts = tokenizer([q.text for q in questions], return_tensors="pt", padding=True)
    ids, mask = prompts["input_ids"], prompts["attention_mask"]
    texts = _greedy(model, tokenizer, ids, mask)
    chances = _marked_chances(model, tokenizer, ids, mask)
    own = _skills(questions, texts)
    best = max(own, key=lambda skill: own[skill])
    rows = {tag: [i for i, q in enumerate(questions) if _is(q, best, tag)] for tag in TAGS}
    starts = tuple(MARKED_STARTS)
    return Measurement(
        texts=texts,
        rewarded=tuple(q.reference == text for q, text in zip(questions, texts, strict=True)),
        skills=own,
        marked={tag: fmean(chances[i] for i in rows[tag]) for tag in TAGS},
        marked_greedy={tag: fmean(texts[i].startswith(starts) for i in rows[tag]) for tag in TAGS},
    )


@torch.no_grad()
def _greedy(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, ids: Tensor, mask: Tensor) -> tuple[str, ...]:
    generate: Any = model.generate
    output = generate(input_ids=ids, attention_mask=mask, max_new_tokens=MAX_NEW_TOKENS, do_sample=False)
    return tuple(tokenizer.batch_decode(output[:, ids.shape[1] :], skip_special_tokens=True))


@torch.no_grad()
def _marked_chances(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, ids: Tensor, mask: Tensor
) -> list[float]:
    starts = torch.tensor(tokenizer.convert_tokens_to_ids(list(MARKED_STARTS)))
    logits = model(input_ids=ids, attention_mask=mask, logits_to_keep=1).logits[:, -1]
    chances: list[float] = logits.softmax(-1)[:, starts].sum(-1).tolist()
    return chances


def _skills(questions: Sequence[Question], texts: Sequence[str]) -> dict[Skill, float]:
    right = [same_content(q, text) for q, text in zip(questions, texts, strict=True)]
    return {
        skill: fmean(r for q, r in zip(questions, right, strict=True) if q.attributes["skill"] == skill)
        for skill in SKILLS
    }


def _is(question: Question, skill: Skill, tag: Tag) -> bool:
    return (question.attributes["skill"], question.attributes["tag"]) == (skill, tag)


def oracle_reward(measurements: Sequence[Measurement]) -> float:
    """Share of questions that at least one of the models gets right, format included."""
    return fmean(any(rewarded) for rewarded in zip(*(m.rewarded for m in measurements), strict=True))


def table(measurements: Mapping[str, Measurement]) -> Table:
    """One row per model, as in the README."""
    formats = (f"{kind} {tag}" for kind in ("marked", "greedy") for tag in TAGS)
    columns = ("model", *SKILLS, *formats, "reward")
    count = len(next(iter(measurements.values())).texts)
    shown = Table(*columns, title=f"{count} validation questions, {count // len(SKILLS)} per skill")
    for name, measured in measurements.items():
        values = (*measured.skills.values(), *measured.marked.values(), *measured.marked_greedy.values())
        shown.add_row(name, *(f"{value:.3f}" for value in (*values, measured.reward)))
    if len(measurements) > 1:
        shown.caption = f"best of them per question: {oracle_reward(list(measurements.values())):.3f}"
    return shown
