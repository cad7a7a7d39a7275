"""Episodes, layouts, routes and an engine made by hand, where no model is needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from haps_search.lora.adapter import adapter_norm
from haps_search.types import (
    Adapter,
    AdapterLayout,
    Assignment,
    Completion,
    Episode,
    LinearModule,
    Message,
    ModuleTable,
    Parsed,
    Question,
    Role,
    Rollouts,
    Routes,
    Sampled,
    SampleRequest,
    ScoreRequest,
    Scores,
    Split,
    Turn,
    UpdateReport,
)


def module(layer: int, d_in: int = 5, d_out: int = 3, kind: str = "o_proj", weight_norm: float = 2.0) -> LinearModule:
    return LinearModule(f"model.layers.{layer}.self_attn.{kind}", layer, d_in, d_out, weight_norm, 0.75 * weight_norm)


def table(candidate: str, *modules: LinearModule) -> ModuleTable:
    found = modules or (module(0), module(1))
    return ModuleTable(candidate, max(m.layer for m in found) + 1, found)


def layout(rank: int = 2, scaling: float = 0.5, targets: Sequence[LinearModule] = ()) -> AdapterLayout:
    return AdapterLayout(rank, scaling, tuple(targets) or (module(0), module(1, 4, 6, "q_proj", 0.5)))


def question(id: str = "q0", text: str = "what?") -> Question:
    return Question(id, text, "")


def said(text: str = "x", log_likelihood: float = -1.0, tokens: int = 1, token: int = 7) -> Sampled:
    return Sampled(text, (token,) * tokens, (log_likelihood / max(tokens, 1),) * tokens, 3, tokens)


def episode(asked: Question, assignment: Assignment, *drawn: Sampled, failure: str | None = None) -> Episode:
    """One completion per seat, in order."""
    completions, messages = [], (Message("user", asked.text),)
    for seat, sampled in enumerate(drawn):
        parsed = Parsed(None, failure) if failure else Parsed(sampled.text)
        completions.append(Completion(f"role{seat}", assignment[seat], messages, sampled, parsed))
    return Episode(asked, assignment, tuple(completions))


def routes(
    assignments: Sequence[Sequence[Assignment]],
    adapters: Mapping[tuple[int, str], Adapter] | None = None,
    marginals: Sequence[Sequence[Sequence[float]]] = (),
    version: int = 0,
) -> Routes:
    return Routes(
        version=version,
        assignments=tuple(tuple(row) for row in assignments),
        log_probabilities=tuple(tuple(-1.0 for _ in row) for row in assignments),
        marginals=tuple(tuple(tuple(role) for role in row) for row in marginals),
        adapters=adapters or {},
        adapter_norm=adapter_norm((adapters or {}).values()),
    )


class NumberTask:
    """Every role speaks once; the last answer, read as a number, is the reward. "1 then 0" states two."""

    name = "numbers"
    description = "Say a number."

    def __init__(self, roles: int = 1) -> None:
        self.roles = tuple(Role(f"role{i}", "says a number") for i in range(roles))

    def questions(self, split: Split) -> Sequence[Question]:
        return [question(f"{split}-{i}", f"{i}") for i in range(4)]

    def turn(self, episode: Episode) -> Turn | None:
        said_so_far = len(episode.completions)
        if said_so_far == len(self.roles):
            return None
        heard = [Message("user", episode.question.text)]
        heard += [Message("assistant", u.sampled.text) for u in episode.completions]
        return Turn(self.roles[said_so_far].name, tuple(heard))

    def parse(self, question: Question, role: str, text: str) -> Parsed:
        several = tuple(text.split(" then "))
        return Parsed(several[-1], stated=several if len(several) > 1 else ())

    def reward(self, episode: Episode) -> float:
        return float(episode.answer or "nan")

    def measures(self, episode: Episode) -> Mapping[str, float]:
        return {}


class ScriptedEngine:
    """Implements `Engine`: `texts[candidate][question]` is what a candidate says, `best` where a question goes."""

    def __init__(
        self,
        texts: Mapping[str, Mapping[str, str]],
        best: Mapping[str, Assignment] | None = None,
        adapter: Adapter | None = None,
    ) -> None:
        self._texts, self._best, self._adapter = texts, best or {}, adapter
        self.requests: list[SampleRequest] = []
        self.routed: list[tuple[int, int]] = []

    async def route(self, questions: Sequence[Question], episodes: int, seed: int, everyone: bool = False) -> Routes:
        self.routed.append((len(questions), episodes))
        chosen = [[self._best[q.text]] for q in questions]
        adapters = {} if self._adapter is None else {(i, z[0][0]): self._adapter for i, z in enumerate(chosen)}
        return routes(chosen, adapters)

    async def sample(self, candidate: str, requests: Sequence[SampleRequest]) -> list[Sampled]:
        self.requests += requests
        return [said(self._texts[candidate][r.messages[0].content], tokens=2) for r in requests]

    async def score(self, candidate: str, requests: Sequence[ScoreRequest]) -> Scores:
        raise AssertionError("measuring must not score")

    async def update(self, questions: Sequence[Question], signal: Rollouts) -> UpdateReport:
        raise AssertionError("measuring must not update")

    async def close(self) -> None: ...


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Float64 standard normal numbers that follow from `seed`."""
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def paid_by_length(longest: int) -> Callable[[Question, str], float]:
    """A package's reward."""
    return lambda _, answer: max(0.0, 1 - len(answer) / longest)


def seven() -> int:
    """No reward."""
    return 7
