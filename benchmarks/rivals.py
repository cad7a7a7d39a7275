"""Questions per second of this engine against what would be written without it."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from benchmarks.measure import Figure, Measured, Target, interleaved, ratios
from benchmarks.naive import naive
from benchmarks.plain_batched import PlainBatched
from benchmarks.scale import Scale, Size
from benchmarks.subjects import RANK, SCALING, Subject, babbling
from haps_search.candidates.zoo.recipes import build_tokenizer
from haps_search.config.routing import LoraConfig
from haps_search.engines.local import LocalEngine
from haps_search.lora.spec import module_table, resolve
from haps_search.types import Adapter, AdapterLayout, Question

FIGURES = ("naive", "plain_batched")


def measure(scale: Scale, threads: int) -> Measured:
    """Whole steps of the local engine, its router included; the rivals have no router to route with or to update."""
    with tempfile.TemporaryDirectory() as folder:
        lm = scale.large.save(Path(folder))
        size = replace(scale.alone, questions=scale.alone.questions // 2)
        subject = babbling(lm, ["lm"], size, threads)
        engine = LocalEngine.build(subject.experiment, subject.task)
        rivals = Rivals(lm, subject, size)
        variants = {
            "engine": lambda number: subject.step(engine, number),
            "plain_batched": rivals.batch,
            "naive": rivals.one_question,
        }
        found = interleaved(variants, scale.slow_rounds)
    q, what = size.questions, "questions/s of this engine / "
    figures = (
        Figure(
            "naive",
            f"{what}loading per question, decoding one by one under autograd",
            ratios(found["naive"], found["engine"], q),
            Target(8.0, at_least=True),
        ),
        Figure(
            "plain_batched",
            f"{what}batched `generate` and a full second pass",
            ratios(found["plain_batched"], found["engine"]),
            Target(1.8, at_least=True),
        ),
    )
    settings = {**asdict(size), "naive_questions": 1, "threads": threads}
    return Measured(figures, found, settings)


class Rivals:
    """Both references over the candidate in `folder`, with questions that the engine does not get."""

    def __init__(self, folder: Path, subject: Subject, size: Size) -> None:
        self._folder, self._subject, self._size = folder, subject, size
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval().requires_grad_(False)
        self.layout: AdapterLayout = resolve(LoraConfig(rank=RANK, scaling=SCALING), module_table("lm", model))
        self.plain = PlainBatched(model, size.new)

    def batch(self, number: int) -> None:
        """Q questions by the batched rival, one where it warms up."""
        prompts, adapters = self.asked(2 * number, self._size.questions if number else 1)
        self.plain.learnt(prompts, adapters, [1.0] * self._size.episodes)

    def one_question(self, number: int) -> None:
        """One question by the naive loop, one episode of it where it warms up."""
        prompts, adapters = self.asked(2 * number + 1, 1)
        advantages = [1.0] * (self._size.episodes if number else 1)
        naive(self._folder, prompts[0], adapters[0], advantages, self._size.new, number)

    def asked(self, number: int, count: int) -> tuple[Tensor, list[Adapter]]:
        """Prompts (count, S) and their adapters."""
        questions = self._subject.asked(1_000_000 + number, count)
        draw = torch.Generator().manual_seed(number)
        values = 0.01 * torch.randn(count, self.layout.size, generator=draw)
        return _ids(questions), [Adapter(self.layout, row) for row in values]


def _ids(questions: Sequence[Question]) -> Tensor:
    """As the candidate reads them: one token a letter."""
    tokenizer = build_tokenizer()
    return torch.tensor([tokenizer(question.text)["input_ids"] for question in questions])
