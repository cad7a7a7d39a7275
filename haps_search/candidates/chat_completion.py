"""OpenAI's chat completions: the fields of a request, and what an answer says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from haps_search.candidates.messages import merged
from haps_search.config.candidates import CandidateConfig, EndpointSource, TemplateChat
from haps_search.types import Message, Sampled, Sampling

FILTERED = "content_filter"
"""The reason for an answer's end, and the code of an error, where a filter has stopped question or answer."""
_SAID = 200
"""So many characters of a model's own words on why it refuses are kept as the reason."""


class Malformed(ValueError):
    """An answer that is no chat completion. It may be one the next time: a proxy's page, a server that is ending."""


def fields(config: CandidateConfig, messages: Sequence[Message], sampling: Sampling) -> dict[str, Any]:
    """The request's body, without the further fields of `extra_body`."""
    source = config.source
    assert isinstance(source, EndpointSource)
    merges = isinstance(config.chat, TemplateChat) and config.chat.system == "merge"
    drawn = {"temperature": sampling.temperature, "top_p": sampling.top_p, "seed": sampling.seed % 2**31}
    return {
        "model": source.model,
        "messages": [{"role": m.role, "content": m.content} for m in (merged(messages) if merges else messages)],
        source.max_tokens_as: sampling.max_new_tokens,
        **{name: value for name, value in drawn.items() if name not in source.leave_out},
        **({"stop": list(config.stop)} if config.stop else {}),
    }


def read(completion: Any, priced: bool) -> Sampled:
    """What was said and how many tokens it took; a refusal or a filter's work with its reason.

    Raises:
        Malformed: no choice, no message, or, where tokens are `priced`, none counted.
    """
    choices = getattr(completion, "choices", None)
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = getattr(choice, "message", None)
    if message is None:
        raise Malformed("it has no choices with a message")
    text = message.content or ""
    if not isinstance(text, str):
        raise Malformed("its content is no text")
    prompt_tokens, completion_tokens = _usage(completion, priced)
    refusal = _refusal(message, choice)
    return Sampled(whole(text), (), (), prompt_tokens, completion_tokens, refusal=refusal)


def whole(text: str) -> str:
    """Half a character, which JSON can say and no file can hold, becomes U+FFFD: an answer cut off was paid for too."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def filtered() -> Sampled:
    """What there is of a question that a filter did not let through."""
    return Sampled("", (), (), 0, 0, refusal="a content filter stopped the question")


def _refusal(message: Any, choice: Any) -> str | None:
    said = getattr(message, "refusal", None)
    if isinstance(said, str) and said.strip():
        return f"refused: {' '.join(whole(said).split())[:_SAID]}"
    if getattr(choice, "finish_reason", None) == FILTERED:
        return "a content filter stopped the answer"
    return None


def _usage(completion: Any, priced: bool) -> tuple[int, int]:
    usage = getattr(completion, "usage", None)
    counts: Any = getattr(usage, "prompt_tokens", None), getattr(usage, "completion_tokens", None)
    if all(isinstance(count, int) and count >= 0 for count in counts):
        # Some servers leave out of the second what was thought and count it in the total only, and it is paid for.
        total, (asked, written) = getattr(usage, "total_tokens", None), counts
        return asked, max(written, total - asked) if isinstance(total, int) else written
    if priced:
        raise Malformed("it counts no tokens (usage), so nobody knows what it costs")
    return 0, 0
