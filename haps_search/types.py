"""The nouns of the system, as frozen values. They cross rooms and processes; they know no behaviour beyond shape.

Notation (CONTRIBUTING.md): Q questions, G episodes per question, R roles, K candidates, P adapter size, r rank.
Nothing here imports torch at run time, so configuration errors and `--help` answer at once.
"""

from __future__ import annotations

import math
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
class Distribution:
    """What tokens are drawn from, and likelihoods are taken under; `top_k` 0, `top_p` 1 and `min_p` 0 truncate
    nothing. All three look at the whole vocabulary at the temperature; `min_p` is a share of the likeliest token's
    probability."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0


@dataclass(frozen=True, slots=True)
class Sampling:
    """How one completion is drawn. Temperature 0 is greedy; `top_k` 0, `top_p` 1 and `min_p` 0 truncate
    nothing.

    The seed belongs to the request, so what is drawn does not depend on batch mates or placement.
    """

    max_new_tokens: int
    temperature: float = 1.0
    seed: int = 0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0

    @property
    def greedy(self) -> bool:
        return self.temperature == 0.0

    @property
    def distribution(self) -> Distribution:
        """Where likelihoods of what was drawn are taken; for greedy text the model's own."""
        if self.greedy:
            return Distribution()
        return Distribution(self.temperature, self.top_k, self.top_p, self.min_p)


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
    """LoRA weights of one candidate: a part of its own, and the `base` it is a residual on. Their updates add.

    `values` are flat numbers (P,) in the order of `layout`. With `mix` (M,) they are a bank (M, P) instead, and the
    part's numbers are `mix @ values`. Adapters share a part by holding the same tensor: a static part is one object
    for all questions. `learns` false: nobody asks for gradients of this part.
    """

    layout: AdapterLayout
    values: Tensor
    base: Adapter | None = None
    mix: Tensor | None = None
    learns: bool = True

    @property
    def parts(self) -> tuple[Adapter, ...]:
        """Itself and what it stands on, the residual first."""
        return (self, *(self.base.parts if self.base is not None else ()))

    @property
    def learnt(self) -> tuple[Tensor, ...]:
        """The tensors that gradients are taken of, part by part: numbers or bank, then its mixing coefficients."""
        return tuple(t for p in self.parts if p.learns for t in (p.values, p.mix) if t is not None)


@dataclass(frozen=True, slots=True)
class SampleRequest:
    """One completion to be drawn. `adapter` None means the frozen model.

    `keep`: it will be scored soon, so whoever draws it may keep what scoring needs. No number depends on that.
    """

    messages: tuple[Message, ...]
    sampling: Sampling
    adapter: Adapter | None = None
    keep: bool = False


@dataclass(frozen=True, slots=True)
class Sampled:
    """What a candidate drew.

    `log_probabilities` has one number per token, end token included, under the distribution that was sampled from
    (for greedy text: the model's own, at temperature 1). `prompt_known`: the part of the prompt below the patched
    layers was still there from an earlier batch. Who has no tokens to show, such as a table or an endpoint, leaves them
    out. `refusal` says why there is nothing to read where an endpoint would not answer.
    """

    text: str
    token_ids: tuple[int, ...]
    log_probabilities: tuple[float, ...]
    prompt_tokens: int
    completion_tokens: int
    prompt_known: bool = False
    refusal: str | None = None

    @property
    def log_likelihood(self) -> float:
        return math.fsum(self.log_probabilities)


@dataclass(frozen=True, slots=True)
class GivenCompletion:
    """A completion to be scored: the messages it answers, and its token ids, end token included; or its text, which
    the candidate's own tokenizer makes ids of, closed by its end token.

    `weight` is what d log p is multiplied by, `kl_weight` what d KL is, both signed: what is asked for is their sum.
    """

    messages: tuple[Message, ...]
    completion: tuple[int, ...] | str
    weight: float = 0.0
    kl_weight: float = 0.0

    @property
    def weighs(self) -> bool:
        return self.weight != 0.0 or self.kl_weight != 0.0


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """Completions that share an adapter, as those of one question by one candidate do.

    Asked for is d/d adapter of `sum_i weight_i log p_i + kl_weight_i KL_i`, the KL to the model under `reference`
    (None: the frozen model), and what that needs of each completion. `every`: also the log-likelihood of those that
    weigh nothing; `kl`: the KL of all, whatever they weigh; `match`: whether greedy decoding would say them. What is
    neither weighed nor asked for costs nothing, but with `keep`: these will be scored again and again, by this trial
    or others, so what scoring needs of the frozen model is read now and stored. `shortlist` > 0: of those that are
    kept, and without a KL, likelihoods are over each completion's own tokens, those that end a turn, and so many that
    the frozen model finds likeliest at each place.
    """

    completions: tuple[GivenCompletion, ...]
    adapter: Adapter | None = None
    distribution: Distribution = Distribution()
    reference: Adapter | None = None
    every: bool = False
    kl: bool = False
    keep: bool = False
    match: bool = False
    shortlist: int = 0

    def __post_init__(self) -> None:
        if self.adapter is None and any(c.weighs for c in self.completions):
            raise ValueError("weights were given without an adapter: give an adapter, or ask for likelihoods (every)")

    @property
    def asked(self) -> tuple[int, ...]:
        """Places of the completions that are scored; the others are left out."""
        every = self.every or self.kl or self.match
        return tuple(i for i, c in enumerate(self.completions) if every or c.weighs)

    @property
    def read(self) -> tuple[int, ...]:
        """Places of the completions that are read: those that are scored, and all that are to be stored."""
        return tuple(range(len(self.completions))) if self.keep else self.asked


@dataclass(frozen=True, slots=True)
class Score:
    """Of one given completion: log-probability per token under the request's distribution, from which truncation takes
    no given token; and the KL to the reference where it was weighed or asked for: of the whole vocabulary at each
    prefix, at the distribution's temperature and before truncation, in nats, summed over the tokens. `match`, where
    asked for: every token is the likeliest one, and where the completion ends with a token that ends a turn, the
    likeliest there is any of these. Greedy decoding says so where nothing ends it before."""

    log_probabilities: tuple[float, ...]
    kl: float | None = None
    match: bool | None = None

    @property
    def log_likelihood(self) -> float:
        return math.fsum(self.log_probabilities)


@dataclass(frozen=True, slots=True)
class Scores:
    """Of a batch of score requests.

    `completions[i][j]` is the score of completion j of request i, None where it was left out. `gradients` has one
    entry per distinct learnt tensor of the requests' adapters (`lora.adapter.learnt_tensors`), in order of first
    appearance and of the tensor's shape, summed over all completions of all requests; None where nothing weighed.
    Scores of parts of the requests add up (`candidates.partial`).
    """

    completions: tuple[tuple[Score | None, ...], ...]
    gradients: tuple[Tensor | None, ...]


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
    """Whose turn it is, and what it answers."""

    role: str
    messages: tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class Completion:
    """One generation by one role: what it answers, what was drawn, and how the task read it."""

    role: str
    candidate: str
    messages: tuple[Message, ...]
    sampled: Sampled
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
    k in role r; `adapters[(q, name)]` exists for each candidate that some episode of question q uses (for every one
    where that was asked for) and that has modules to patch, and for none where the low level is off; `adapter_norm` is
    the mean relative norm of their updates. `references` are those that the KL is taken to, none where it is the frozen
    model.
    """

    version: int
    assignments: tuple[tuple[Assignment, ...], ...]
    log_probabilities: tuple[tuple[float, ...], ...]
    marginals: tuple[tuple[tuple[float, ...], ...], ...]
    adapters: Mapping[tuple[int, str], Adapter]
    references: Mapping[tuple[int, str], Adapter] = field(default_factory=dict)
    adapter_norm: float = 0.0


@dataclass(frozen=True, slots=True)
class Rollouts:
    """What a router learns from: choices, their advantages and gradients with respect to its adapters.

    `architecture_advantages[q][g]` weights the log-probability of `assignments[q][g]`; `adapter_gradients` are
    gradients of the loss (to be minimised), advantages applied, summed over episodes and roles and divided by Q x G, of
    the first learnt tensor of the question's adapter; `further_gradients` of those after it, by their places in
    `Adapter.learnt`. What several questions share has its sum at one of them.
    """

    version: int
    assignments: tuple[tuple[Assignment, ...], ...]
    architecture_advantages: tuple[tuple[float, ...], ...]
    adapter_gradients: Mapping[tuple[int, str], Tensor]
    further_gradients: Mapping[tuple[int, str, int], Tensor] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Taught:
    """What a router's low level learns from given completions: gradients of the loss (to be minimised), as in
    `Rollouts`. The high level learns nothing."""

    version: int
    adapter_gradients: Mapping[tuple[int, str], Tensor]
    further_gradients: Mapping[tuple[int, str, int], Tensor] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Outcomes:
    """What a router learns from where every assignment's reward is known: warm-up and replay.

    `rewards[q][c]` is what assignment c of all K^R earns on question q, in the order of `all_assignments`;
    NaN where the table has no cell.
    """

    version: int
    rewards: tuple[tuple[float, ...], ...]


Signal = Rollouts | Taught | Outcomes


@dataclass(frozen=True, slots=True)
class UpdateReport:
    """What one optimiser step did."""

    version: int
    metrics: Mapping[str, float]


POOLED, START = "pooled.", "start."
"""Before the names of what a snapshot has fitted: how the low level's input is standardised, and the low level that the
KL holds to."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything a router needs to go on: tensors by name, and JSON-able scalars."""

    tensors: Mapping[str, Tensor]
    state: Mapping[str, Any]
    fitted: Mapping[str, Tensor] = field(default_factory=dict)
    """What was fitted on training texts before the first step of a run, or of its stage; it does not change, and may be
    large."""
