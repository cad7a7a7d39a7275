"""What a zoo model is taught: its own skill in either format, and to answer the other skills with `?`.

Problems are the train split's over the whole range of the task's default difficulty. The format is drawn
apart from the prompt's tag, so that nothing in a prompt tells which one comes.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from haps_search.candidates.zoo.recipes import Recipe
from haps_search.candidates.zoo.tokenizer import EOS
from haps_search.config.tasks import SkillsTask
from haps_search.tasks.skills import SKILLS, TAGS, Problem, Skill, draw, formatted, split_of

DIFFICULTY = SkillsTask()
OTHER_SHARE = 0.1
"""Share of examples that show another skill."""
OTHER_ANSWER = "?"
IGNORED = -100


def _train_problem(skill: Skill, rng: random.Random) -> Problem:
    while split_of(problem := draw(skill, DIFFICULTY, rng)) != "train":
        pass
    return problem


def _example(skill: Skill, rng: random.Random) -> tuple[str, str]:
    """A prompt and the answer to learn; the answer's format does not look at the prompt's tag."""
    tag, form = rng.choice(TAGS), rng.choice(TAGS)
    if rng.random() < OTHER_SHARE:
        other = rng.choice([s for s in SKILLS if s != skill])
        return _train_problem(other, rng).text(tag), OTHER_ANSWER
    problem = _train_problem(skill, rng)
    return problem.text(tag), formatted(problem.content, form)


def batches(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless (ids, labels), both (batch, T), padded on the right; labels only on the answer and its end."""
    rng = random.Random(recipe.seed)
    while True:
        prompts, answers = zip(*(_example(recipe.skill, rng) for _ in range(recipe.batch)), strict=True)
        asked = tokenizer(list(prompts))["input_ids"]
        said = tokenizer([answer + EOS for answer in answers])["input_ids"]
        longest = max(len(prompt) + len(answer) for prompt, answer in zip(asked, said, strict=True))
        ids = torch.full((recipe.batch, longest), tokenizer.pad_token_id)
        labels = torch.full((recipe.batch, longest), IGNORED)
        for row, (prompt, answer) in enumerate(zip(asked, said, strict=True)):
            end = len(prompt) + len(answer)
            ids[row, :end] = torch.tensor(prompt + answer)
            labels[row, len(prompt) : end] = torch.tensor(answer)
        yield ids, labels
