"""How a step's time grows with questions, episodes, candidates and prompts."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.measure import Figure, Measured, Target, exponents, interleaved
from benchmarks.scale import Scale, Size
from benchmarks.subjects import Subject, babbling, changed, letters
from haps_search.candidates.candidate import Candidate
from haps_search.engines.assembly import build_learner
from haps_search.engines.local import LocalEngine, load_candidates
from haps_search.types import Question, Routes

FIGURES = (
    "step_scaling_q", "step_scaling_g", "step_scaling_k", "step_scaling_k_few", "step_scaling_k_spread",
    "step_scaling_prompt",
)  # fmt: skip
NEW = 16


@dataclass(frozen=True, slots=True)
class Point:
    """Where a step is timed. `settled`: each question goes to one candidate, else wherever a fresh router sends it."""

    questions: int
    episodes: int
    candidates: int
    prompt: int
    settled: bool = False

    def __str__(self) -> str:
        spread = "" if self.settled or self.candidates == 1 else " spread"
        return f"Q={self.questions} G={self.episodes} K={self.candidates} S={self.prompt}{spread}"


class Settled(LocalEngine):
    """Question q goes to candidate q mod K with all its episodes, as under a router that has learnt its mind."""

    async def route(self, questions: Sequence[Question], episodes: int, seed: int, everyone: bool = False) -> Routes:
        routes = await super().route(questions, episodes, seed)
        adapters = self.all_adapters(questions)
        names = list(dict.fromkeys(name for _, name in adapters))
        chosen = [names[q % len(names)] for q in range(len(questions))]
        return replace(
            routes,
            assignments=tuple(((name,),) * episodes for name in chosen),
            adapters={(q, name): adapters[q, name] for q, name in enumerate(chosen)},
        )


def measure(scale: Scale, threads: int) -> Measured:
    """The local engine and one middle-sized candidate under K names. K is told for both kinds of router: where episodes
    of a question are spread over candidates, each of them has to read its prompt."""
    with tempfile.TemporaryDirectory() as folder:
        names = [f"lm{i}" for i in range(max(scale.pools))]
        new = min(NEW, scale.alone.new)
        subject = babbling(scale.middle.save(Path(folder)), names, Size(2, 2, 1, new), threads)
        steps = _Steps(subject, load_candidates(subject.experiment, subject.task))
    axes = _axes(scale)
    points = dict.fromkeys(point for _, axis in axes.values() for point in axis)
    found = interleaved({str(point): partial(steps.step, point) for point in points}, scale.rounds)
    figures = []
    for (name, (sizes, axis)), (what, target) in zip(axes.items(), _TARGETS, strict=True):
        fitted = exponents(sizes, [found[str(point)] for point in axis])
        figures.append(Figure(name, f"exponent of step time in {what}", fitted, target))
    settings = {"new": new, "threads": threads, "axes": {n: list(s) for n, (s, _) in axes.items()}}
    return Measured(tuple(figures), found, settings)


_TARGETS = (
    ("Q", Target(1.05)),
    ("G", Target(1.05)),
    ("K at the largest Q, each question with one candidate", Target(0.1)),
    ("K at the middle Q, each question with one candidate", None),
    ("K at the middle Q, episodes of a question spread over all", None),
    ("prompt length", None),
)


def _axes(scale: Scale) -> dict[str, tuple[tuple[int, ...], list[Point]]]:
    """Per figure the sizes and where they are timed, in the order of `FIGURES`."""
    middle, prompt = scale.sizes[len(scale.sizes) // 2], scale.prompts[len(scale.prompts) // 2 - 1]
    base = Point(middle, middle, 1, prompt, settled=True)
    return {
        "step_scaling_q": (scale.sizes, [replace(base, questions=q) for q in scale.sizes]),
        "step_scaling_g": (scale.sizes, [replace(base, episodes=g) for g in scale.sizes]),
        "step_scaling_k": (scale.pools, [replace(base, questions=scale.sizes[-1], candidates=k) for k in scale.pools]),
        "step_scaling_k_few": (scale.pools, [replace(base, candidates=k) for k in scale.pools]),
        "step_scaling_k_spread": (scale.pools, [replace(base, candidates=k, settled=k == 1) for k in scale.pools]),
        "step_scaling_prompt": (scale.prompts, [replace(base, prompt=s) for s in scale.prompts]),
    }


class _Steps:
    """An engine per pool, over the same loaded candidates."""

    def __init__(self, subject: Subject, candidates: Mapping[str, Candidate]) -> None:
        self._subject, self._candidates = subject, dict(candidates)
        self._engines: dict[tuple[int, bool], LocalEngine] = {}

    def step(self, point: Point, number: int) -> None:
        subject = self._at(point)
        key = point.candidates, point.settled
        if key not in self._engines:
            hosted = {c.name: self._candidates[c.name] for c in subject.experiment.candidates}
            learner = build_learner(subject.experiment, subject.task, {n: c.table for n, c in hosted.items()})
            self._engines[key] = (Settled if point.settled else LocalEngine)(hosted, learner)
        subject.step(self._engines[key], number)

    def _at(self, point: Point) -> Subject:
        run: dict[str, Any] = {"questions_per_step": point.questions, "episodes_per_question": point.episodes}
        experiment = changed(self._subject.experiment, run)
        chosen = experiment.candidates[: point.candidates]
        return Subject(experiment.model_copy(update={"candidates": chosen}), self._subject.task, letters(point.prompt))
