"""What crosses the service: a client's chat, the router's decision, and the reply."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from haps_search.types import Assignment, Message, Sampling

ROUTED = "haps"
"""The model under which the router decides; `haps/NAME` is a candidate with the adapter for the question."""


@dataclass(frozen=True, slots=True)
class Chat:
    """What a client asks. Made of a request's body; the last message is the question, and the user's.

    `candidate` None: the router decides, and the task's own prompt is put around the question. `adapted`: with the
    adapters for the question, where the run has any.
    """

    model: str
    messages: tuple[Message, ...]
    sampling: Sampling
    candidate: str | None = None
    adapted: bool = True
    cost_weight: float | None = None
    stream: bool = False
    usage_told: bool = False

    @property
    def question(self) -> str:
        return self.messages[-1].content

    @property
    def history(self) -> tuple[Message, ...]:
        return self.messages[:-1]


@dataclass(frozen=True, slots=True)
class Asked:
    """What a router is asked. `candidate` is who answers whatever the router chooses, None where that is the router's;
    without `adapted` nobody needs an adapter."""

    question: str
    candidate: str | None = None
    adapted: bool = True
    cost_weight: float | None = None


@dataclass(frozen=True, slots=True)
class Decided:
    """Who answers. `probabilities` has every candidate's per role, and `confidence` is that of the router's choice;
    empty and None where no router was asked. `escalated`: the gate's fallback took over. `norms` are relative ones of
    the adapters, by candidate."""

    assignment: Assignment
    probabilities: tuple[Mapping[str, float], ...] = ()
    confidence: float | None = None
    escalated: bool = False
    norms: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Routed:
    """A decision with the adapters of who answers, by candidate, as router and candidates exchange them: the service
    passes them on and never looks into them."""

    decided: Decided
    adapters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Spoken:
    """One completion of a reply."""

    role: str
    candidate: str
    text: str
    prompt_tokens: int
    completion_tokens: int


Finish = Literal["stop", "length", "content_filter"]


@dataclass(frozen=True, slots=True)
class Reply:
    """What came of a chat: the last text is the answer. `cost` is by the candidates' prices, in their unit; `refusal`
    is why an endpoint would not answer."""

    spoken: tuple[Spoken, ...]
    finish: Finish
    cost: float
    refusal: str | None = None

    @property
    def text(self) -> str:
        return self.spoken[-1].text

    @property
    def prompt_tokens(self) -> int:
        return sum(each.prompt_tokens for each in self.spoken)

    @property
    def completion_tokens(self) -> int:
        return sum(each.completion_tokens for each in self.spoken)


@dataclass(frozen=True, slots=True)
class Seats:
    """Names of roles: those that answer a chat, and those of the task, which the router decides about."""

    answering: tuple[str, ...]
    decided: tuple[str, ...]


def extension(decided: Decided, seats: Seats, reply: Reply | None = None) -> dict[str, Any]:
    """What an answer says beyond OpenAI's protocol, as JSON values; without a reply of the decision alone."""
    said: dict[str, Any] = {
        "assignment": dict(zip(seats.answering, decided.assignment, strict=True)),
        "probabilities": dict(zip(seats.decided, map(dict, decided.probabilities), strict=False)),
        "confidence": decided.confidence,
        "escalated": decided.escalated,
        "adapter_norm": dict(decided.norms),
    }
    if reply is not None:
        said["cost"] = reply.cost
        if len(reply.spoken) > 1:
            said["turns"] = [{"role": s.role, "candidate": s.candidate, "text": s.text} for s in reply.spoken]
    return said
