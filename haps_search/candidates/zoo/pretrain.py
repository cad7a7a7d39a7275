"""Train the zoo again from seeds: `python -m haps_search.candidates.zoo.pretrain [--only NAME] [--out DIR]`."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor, nn
from torch.optim import AdamW, Muon, Optimizer
from torch.optim.lr_scheduler import LambdaLR
from transformers import PreTrainedModel, PreTrainedTokenizerFast
from transformers.utils import logging

from haps_search.candidates.zoo import ZOO, zoo_path
from haps_search.candidates.zoo.exam import load, measure, measurement_questions, table
from haps_search.candidates.zoo.recipes import EOS, RECIPES, Recipe, build_tokenizer
from haps_search.config.tasks import SkillsTask
from haps_search.tasks.skills import SKILLS, TAGS, Problem, Skill, draw, formatted, split_of

WARMUP_STEPS = 50
DECAY_SHARE = 0.5
"""Share of the steps, at the end, over which the learning rate falls to 0."""


def _loss(model: PreTrainedModel, ids: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy over answer tokens; the head reads only the positions that predict them."""
    hidden = model.model(input_ids=ids[:, :-1]).last_hidden_state
    wanted = labels[:, 1:] != IGNORED
    return nn.functional.cross_entropy(model.lm_head(hidden[wanted]), labels[:, 1:][wanted])


def _optimisers(model: PreTrainedModel, rate: float) -> list[Optimizer]:
    """Muon for the weight matrices inside the layers, AdamW for embeddings, norms and biases."""
    named = list(model.named_parameters())
    inner = [p for name, p in named if p.ndim == 2 and "embed" not in name]
    outer = [p for name, p in named if p.ndim != 2 or "embed" in name]
    return [
        Muon(inner, lr=rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        AdamW(outer, lr=rate, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def _schedules(optimisers: list[Optimizer], steps: int) -> list[LambdaLR]:
    def factor(step: int) -> float:
        return min((step + 1) / WARMUP_STEPS, 1.0, (steps - step) / (DECAY_SHARE * steps))

    return [LambdaLR(optimiser, factor) for optimiser in optimisers]


def _initial(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        return recipe.build(tokenizer).float()


def train(recipe: Recipe, tokenizer: PreTrainedTokenizerFast, on_step: Callable[[], None]) -> PreTrainedModel:
    """The finished model in float32; `on_step` is called after each step."""
    model = _initial(recipe, tokenizer)
    optimisers = _optimisers(model, recipe.learning_rate)
    schedules = _schedules(optimisers, recipe.steps)
    for ids, labels in itertools.islice(batches(recipe, tokenizer), recipe.steps):
        model.zero_grad()
        _loss(model, ids, labels).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimiser, schedule in zip(optimisers, schedules, strict=True):
            optimiser.step()
            schedule.step()
        on_step()
    return model


def build(recipe: Recipe, folder: Path, on_step: Callable[[], None]) -> None:
    """Train one model and write it in float16, with its tokenizer, to a folder."""
    tokenizer = build_tokenizer()
    model = train(recipe, tokenizer, on_step)
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _folder(name: str, out: Path | None) -> Path:
    return out / name if out else zoo_path(name)


def rebuild(names: Sequence[str], out: Path | None, seed: int, console: Console) -> None:
    """Build zoo models by name into `out/<name>`, or into the package where `out` is None."""
    with Progress(console=console) as progress:
        for name in names:
            recipe = dataclasses.replace(RECIPES[name], seed=seed)
            row = progress.add_task(name, total=recipe.steps)
            build(recipe, _folder(name, out), partial(progress.advance, row))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m haps_search.candidates.zoo.pretrain", description=__doc__)
    parser.add_argument("--only", choices=ZOO, help="train this model alone")
    parser.add_argument("--out", type=Path, help="a folder for the models; default: the package's own")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    # One thread: sums in one order, so the same machine gives the same weights.
    torch.set_num_threads(1)
    names = (arguments.only,) if arguments.only else ZOO
    logging.disable_progress_bar()
    console = Console()
    rebuild(names, arguments.out, arguments.seed, console)
    questions = measurement_questions()
    measured = {name: measure(*load(_folder(name, arguments.out)), questions) for name in names}
    console.print(table(measured))


if __name__ == "__main__":
    main()


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
