"""A chat from question to reply: the router decides, roles play, and costs are summed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from haps_search.config.candidates import CandidateConfig
from haps_search.config.run import Experiment, SamplingConfig
from haps_search.episodes.play import Play, play
from haps_search.learning.utility import cost, prices
from haps_search.serving.exchange import ROUTED, Asked, Chat, Decided, Finish, Reply, Routed, Seats, Spoken
from haps_search.serving.hosts import Answers, Decides, Hears
from haps_search.tasks.task import SingleTurn, Task
from haps_search.types import Completion, Episode, Message, Parsed, Question, Sampled, SampleRequest

ANSWERER = "answerer"
"""The role of a candidate that is asked without the task."""


class Service:
    """A run, with who decides and who answers."""

    def __init__(
        self,
        experiment: Experiment,
        task: Task,
        router: Decides,
        candidates: Mapping[str, Answers],
        hosted: Sequence[CandidateConfig] = (),
        cost_weight: float | None = None,
    ) -> None:
        """`hosted` describes the candidates where they are others than the experiment's, of the same names;
        `cost_weight` is for requests that say none."""
        self.experiment, self.task = experiment, task
        self._router, self._candidates, self._cost_weight = router, candidates, cost_weight
        self._prices = prices(hosted or experiment.candidates)

    @property
    def adapts(self) -> bool:
        return self.experiment.routing.low_level.type != "none"

    @property
    def models(self) -> tuple[str, ...]:
        """What a client may ask for."""
        names = tuple(self._candidates)
        return (ROUTED, *(f"{ROUTED}/{name}" for name in names if self.adapts), *names)

    def seats(self, chat: Chat) -> Seats:
        own = tuple(role.name for role in self.task.roles)
        return Seats(own if chat.candidate is None else (ANSWERER,), own)

    async def decide(self, chat: Chat) -> Routed:
        """Who answers, with which adapters. Nobody decides where a frozen candidate is asked by name."""
        if chat.candidate is not None and not chat.adapted:
            return Routed(Decided((chat.candidate,)))
        weight = self._cost_weight if chat.cost_weight is None else chat.cost_weight
        return await self._router.decide(Asked(chat.question, chat.candidate, chat.adapted, weight))

    async def reply(self, chat: Chat, routed: Routed, hears: Hears | None = None) -> Reply:
        """Let those answer who were chosen. `hears` is told the answer piece by piece, of a dialogue at once.

        Raises:
            CandidateError: a candidate cannot take it. PoolError: its machine failed.
        """
        asks_by_task = chat.candidate is None and self.experiment.task.type != "replay"
        episode = await (self._played if asks_by_task else self._said)(chat, routed, hears)
        last = episode.completions[-1].sampled
        whole = last.completion_tokens < chat.sampling.max_new_tokens
        finish: Finish = "content_filter" if last.refusal else "stop" if whole else "length"
        return Reply(tuple(map(_spoken, episode.completions)), finish, cost(episode, self._prices), last.refusal)

    async def _played(self, chat: Chat, routed: Routed, hears: Hears | None) -> Episode:
        """The task's own dialogue, with what was said before at the head of every turn."""
        at_once = hears if isinstance(self.task, SingleTurn) else None

        async def sample(name: str, requests: Sequence[SampleRequest]) -> list[Sampled]:
            (request,) = requests
            asked = replace(request, messages=with_history(chat.history, request.messages))
            return [await self._candidates[name].sample(asked, at_once)]

        drawn = chat.sampling
        warmth = drawn.temperature or 1.0  # greedy is said apart
        how = SamplingConfig(
            max_new_tokens=drawn.max_new_tokens, temperature=warmth, top_k=drawn.top_k, top_p=drawn.top_p
        )
        question, assignment = Question("asked", chat.question, ""), routed.decided.assignment
        adapters = {(0, name): adapter for name, adapter in routed.adapters.items()}
        style = Play(how, drawn.seed, drawn.greedy)
        ((episode,),) = await play(sample, self.task, [question], [[assignment]], adapters, style)
        if hears is not None and at_once is None:
            hears(episode.completions[-1].sampled.text)
        return episode

    async def _said(self, chat: Chat, routed: Routed, hears: Hears | None) -> Episode:
        """One candidate on the messages as they came."""
        (name,) = assignment = routed.decided.assignment
        request = SampleRequest(chat.messages, chat.sampling, routed.adapters.get(name))
        drawn = await self._candidates[name].sample(request, hears)
        completion = Completion(ANSWERER, name, chat.messages, drawn, Parsed(drawn.text))
        return Episode(Question("asked", chat.question, ""), assignment, (completion,))


def with_history(history: Sequence[Message], turn: Sequence[Message]) -> tuple[Message, ...]:
    """A turn's messages after what was said before: one system text, of both, at the head."""
    if not history:
        return tuple(turn)
    system = "\n\n".join(m.content for m in (*turn, *history) if m.role == "system")
    talk = [m for m in (*history, *turn) if m.role != "system"]
    return (Message("system", system), *talk) if system else tuple(talk)


def _spoken(completion: Completion) -> Spoken:
    drawn = completion.sampled
    return Spoken(completion.role, completion.candidate, drawn.text, drawn.prompt_tokens, drawn.completion_tokens)
