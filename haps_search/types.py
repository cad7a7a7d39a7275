"""The nouns of the system, as frozen values. They cross rooms and processes; they know no behaviour beyond shape.

Notation (CONTRIBUTING.md): Q questions, G episodes per question, R roles, K candidates, P adapter size, r rank.
Nothing here imports torch at run time, so configuration errors and `--help` answer at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import Tensor

Split = Literal["train", "validation", "test"]
Assignment = tuple[str, ...]
"""Candidate name per role, in the order of the task's roles."""


@dataclass(frozen=True, slots=True)
class Question:
    """One item of a task with its reference. Made by a task, read by routers and rewards.

    `other_references` are as good as the first: a reward pays the most over all of them.
    """

    id: str
    text: str
    reference: str
    context: str = ""
    attributes: Mapping[str, Any] = field(default_factory=dict)
    other_references: tuple[str, ...] = ()

    @property
    def references(self) -> tuple[str, ...]:
        """All references, the first one first."""
        return (self.reference, *self.other_references)


@dataclass(frozen=True, slots=True)
class Role:
    """A seat in an episode."""

    name: str
    description: str


@dataclass(frozen=True, slots=True)
class CandidateCard:
    """What a routing prompt may say of a candidate."""

    name: str
    description: str = ""


@dataclass(frozen=True, slots=True)
class Message:
    """One chat message."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True, slots=True)
class Sampling:
    """How one completion is drawn. Temperature 0 is greedy; `top_k` 0 and `top_p` 1 truncate nothing.

    The seed belongs to the request, so what is drawn does not depend on batch mates or placement.
    """

    max_new_tokens: int
    temperature: float = 1.0
    seed: int = 0
    top_k: int = 0
    top_p: float = 1.0

    @property
    def greedy(self) -> bool:
        return self.temperature == 0.0


@dataclass(frozen=True, slots=True)
class LinearModule:
    """A linear module that LoRA can patch: weight (d_out, d_in), `layer` counted from the input.

    `weight_norm` is Frobenius', `spectral_norm` the largest singular value, None where nobody took it.
    """

    name: str
    layer: int
    d_in: int
    d_out: int
    weight_norm: float
    spectral_norm: float | None = None


@dataclass(frozen=True, slots=True)
class ModuleTable:
    """All patchable modules of one candidate; what a router must know of an LLM it never sees."""

    candidate: str
    layers: int
    modules: tuple[LinearModule, ...]


@dataclass(frozen=True, slots=True)
class AdapterLayout:
    """Where a flat adapter's numbers belong: per target lora_A (r, d_in) then lora_B (d_out, r), row-major."""

    rank: int
    scaling: float
    targets: tuple[LinearModule, ...]

    @property
    def size(self) -> int:
        """P, the length of the flat adapter."""
        return sum(self.rank * (t.d_in + t.d_out) for t in self.targets)


@dataclass(frozen=True, slots=True)
class Adapter:
    """Generated LoRA weights of one candidate for one question: a flat (P,) tensor and its layout."""

    layout: AdapterLayout
    values: Tensor


@dataclass(frozen=True, slots=True)
class Request:
    """One completion asked of a candidate. `adapter` None means the frozen model.

    `gradient` asks for d log p / d adapter, `kl` for KL(adapted || frozen) per token and its gradient; both need
    an adapter, and `gradient` needs a sampled (not greedy) text.
    """

    messages: tuple[Message, ...]
    sampling: Sampling
    adapter: Adapter | None = None
    gradient: bool = False
    kl: bool = False

    def __post_init__(self) -> None:
        if (self.gradient or self.kl) and self.adapter is None:
            raise ValueError("a gradient was asked for without an adapter: give an adapter or ask for none")
        if self.gradient and self.sampling.greedy:
            raise ValueError("greedy text yields no policy gradient: sample with temperature > 0")


@dataclass(frozen=True, slots=True)
class Response:
    """What a candidate said.

    `log_likelihood` is summed over the generated tokens, end token included, under the distribution that
    was sampled from (for greedy text: the model's own, at temperature 1). `gradient` and `kl_gradient` are
    (P,) float tensors; they are None where none was asked for. `prompt_known`: the part of the prompt below
    the patched layers was still there from an earlier batch.
    """

    text: str
    token_ids: tuple[int, ...]
    log_likelihood: float
    prompt_tokens: int
    completion_tokens: int
    gradient: Tensor | None = None
    kl: float | None = None
    kl_gradient: Tensor | None = None
    prompt_known: bool = False


@dataclass(frozen=True, slots=True)
class Parsed:
    """What a task read from a text: an answer, or None with the reason it could not be read.

    `stated` are the different answers where the text states several, the last of which is `answer`; it earns nothing
    while learning. `how` says, for people, where the answer was found.
    """

    answer: str | None
    failure: str | None = None
    stated: tuple[str, ...] = ()
    how: str = ""


@dataclass(frozen=True, slots=True)
class Turn:
    """Who speaks next, and to what."""

    role: str
    messages: tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class Completion:
    """One generation by one role, as the task read it."""

    role: str
    candidate: str
    response: Response
    parsed: Parsed


@dataclass(frozen=True, slots=True)
class Episode:
    """The completions from a question to its answer, played under one assignment."""

    question: Question
    assignment: Assignment
    completions: tuple[Completion, ...] = ()

    @property
    def answer(self) -> str | None:
        """The last answer that any completion gave."""
        return None if (parsed := self._answering()) is None else parsed.answer

    @property
    def hedged(self) -> bool:
        """Whether the text with that answer states several."""
        return (parsed := self._answering()) is not None and bool(parsed.stated)

    def _answering(self) -> Parsed | None:
        return next((u.parsed for u in reversed(self.completions) if u.parsed.answer is not None), None)


@dataclass(frozen=True, slots=True)
class Routes:
    """A router's decision for Q questions and G episodes each. Made by a router, read by the step.

    `assignments[q][g]` with `log_probabilities[q][g]`; `marginals[q][r][k]` is the probability of candidate
    k in role r; `adapters[(q, name)]` exists for each candidate that some episode of question q uses, and for
    none where the low level is off.
    """

    version: int
    assignments: tuple[tuple[Assignment, ...], ...]
    log_probabilities: tuple[tuple[float, ...], ...]
    marginals: tuple[tuple[tuple[float, ...], ...], ...]
    adapters: Mapping[tuple[int, str], Adapter]


@dataclass(frozen=True, slots=True)
class Rollouts:
    """What a router learns from: choices, their advantages and gradients with respect to its adapters.

    `architecture_advantages[q][g]` weights the log-probability of `assignments[q][g]`; `adapter_gradients` are
    (P,) gradients of the loss (to be minimised), advantages applied, summed over episodes and roles and
    divided by Q x G.
    """

    version: int
    assignments: tuple[tuple[Assignment, ...], ...]
    architecture_advantages: tuple[tuple[float, ...], ...]
    adapter_gradients: Mapping[tuple[int, str], Tensor]


@dataclass(frozen=True, slots=True)
class Outcomes:
    """What a router learns from where every assignment's reward is known: warm-up and replay.

    `rewards[q][c]` is what assignment c of all K^R earns on question q, in the order of `all_assignments`;
    NaN where the table has no cell.
    """

    version: int
    rewards: tuple[tuple[float, ...], ...]


Signal = Rollouts | Outcomes


@dataclass(frozen=True, slots=True)
class UpdateReport:
    """What one optimiser step did."""

    version: int
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything a router needs to go on: tensors by name, and JSON-able scalars."""

    tensors: Mapping[str, Tensor]
    state: Mapping[str, Any]
    fitted: Mapping[str, Tensor] = field(default_factory=dict)
    """What was fitted on training texts before the first step; it never changes, and may be large."""
