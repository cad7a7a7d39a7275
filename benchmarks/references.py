"""Learning from references: steps over stored activations against the same with whole passes, and who reads what."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks.measure import Figure, Measured, Target, interleaved, ratios
from benchmarks.scale import Scale
from benchmarks.subjects import LORA, Babble, letters
from haps_search.candidates import stored
from haps_search.candidates.candidate import Candidate
from haps_search.candidates.frozen_lm import FrozenLM
from haps_search.config.run import Experiment
from haps_search.engines.assembly import build_learner
from haps_search.engines.local import LocalEngine
from haps_search.engines.torch_process import prepare_torch
from haps_search.search.reference_step import read_once, reference_step
from haps_search.types import Question

FIGURES = ("reference_step", "reference_reading", "reference_reads")
ANSWER = 3
"""Tokens of a reference, but the one that ends it."""


def measure(scale: Scale, threads: int) -> Measured:
    """With the large candidate, a static adapter on the last layer's o_proj, and prompts of the second length."""
    prepare_torch(threads)
    trials, prompt = scale.trials, scale.prompts[1]
    with _own_cache() as folder, _counted() as computed:
        experiment = _experiment(scale.large.save(folder / "lm"), scale)
        lm: dict[str, Candidate] = {"lm": FrozenLM.load(experiment.candidates[0])}
        whole: dict[str, Candidate] = {
            "lm": FrozenLM.load(experiment.candidates[0].model_copy(update={"suffix_replay": False}))
        }
        several, plain = [_engine(lm, experiment) for _ in range(trials)], _engine(whole, experiment)
        by_round = [_asked(number, prompt, experiment) for number in range(scale.slow_rounds + 1)]

        def reading(number: int) -> None:
            _read(several[0], by_round[number], experiment)

        def by_all(number: int) -> None:
            for engine in several:
                _read(engine, by_round[number], experiment)
                _step(engine, by_round[number], experiment)

        variants = {
            "reading": reading,
            "stored": lambda number: _step(several[0], by_round[number], experiment),
            "whole": lambda number: _step(plain, by_round[number], experiment),
            "eight trials": by_all,
        }
        seconds = interleaved(variants, scale.slow_rounds)
    asked = sum(map(len, by_round))
    step = ratios(seconds["stored"], seconds["whole"])
    figures = (
        Figure("reference_step", "a step over stored activations / with whole passes", step, Target(1 / 20)),
        Figure(
            "reference_reading",
            "reading a step's questions once / whole passes",
            ratios(seconds["reading"], seconds["whole"]),
        ),
        Figure(
            "reference_reads", f"questions read by {trials} trials / questions", (sum(computed) / asked,), Target(1)
        ),
    )
    run = experiment.run
    settings = {
        "questions": run.questions_per_step,
        "prompt_tokens": prompt,
        "answer_tokens": ANSWER + 1,
        "trials": trials,
    }
    return Measured(figures, seconds, settings)


@contextmanager
def _own_cache() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ, HAPS_CACHE=folder):
        yield Path(folder)


@contextmanager
def _counted() -> Iterator[list[int]]:
    """How many rows each batch that was computed had."""
    computed, rows = stored._computed, list[int]()

    def counting(decoder: Any, wanted: Any, some: Sequence[Any]) -> Any:
        rows.append(len(some))
        return computed(decoder, wanted, some)

    with mock.patch.object(stored, "_computed", counting):
        yield rows


def _experiment(folder: Path, scale: Scale) -> Experiment:
    described = {
        "task": {"type": "skills"},
        "candidates": [{"name": "lm", "source": {"type": "path", "path": str(folder)}, "device": "cpu"}],
        "routing": {
            "prompt": "question",
            "backbone": {"source": {"type": "zoo", "name": "reverser"}, "tuning": {"type": "frozen"}, "device": "cpu"},
            "high_level": {"type": "fixed", "assignment": ["lm"]},
            "low_level": {"type": "static", "init": "xavier"},
            "lora": LORA,
        },
        "learning": {"signal": "references"},
        "run": {"questions_per_step": scale.pool.questions},
        "engine": {"type": "local", "threads": 1},
    }
    return Experiment.model_validate(described)


def _asked(number: int, prompt: int, experiment: Experiment) -> list[Question]:
    asked = letters(prompt)(number, experiment.run.questions_per_step)
    return [Question(question.id, question.text, question.text[:ANSWER]) for question in asked]


def _engine(candidates: dict[str, Candidate], experiment: Experiment) -> LocalEngine:
    tables = {name: candidate.table for name, candidate in candidates.items()}
    return LocalEngine(candidates, build_learner(experiment, Babble(), tables))


def _read(engine: LocalEngine, asked: Sequence[Question], experiment: Experiment) -> None:
    asyncio.run(read_once(engine, Babble(), asked, experiment, lambda *told: None, lambda: False))


def _step(engine: LocalEngine, asked: Sequence[Question], experiment: Experiment) -> None:
    asyncio.run(reference_step(engine, Babble(), asked, experiment, 0))
