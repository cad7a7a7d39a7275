"""A request's body: what of OpenAI's chat completions is taken, and what is refused by name."""

from __future__ import annotations

import json
import secrets
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveInt, ValidationError, model_validator

from haps_search.serving.exchange import ROUTED, Chat
from haps_search.serving.limits import Limits
from haps_search.serving.refusals import Refused
from haps_search.types import Message, Sampling

UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "tools": (None, []),
    "tool_choice": (None, "none"),
    "functions": (None, []),
    "function_call": (None, "none"),
    "n": (None, 1),
    "logprobs": (None, False),
    "top_logprobs": (None, 0),
    "logit_bias": (None, {}),
    "stop": (None, []),
    "frequency_penalty": (None, 0),
    "presence_penalty": (None, 0),
    "response_format": (None, {"type": "text"}),
    "modalities": (None, ["text"]),
    "audio": (None,),
    "prediction": (None,),
}
"""Fields of the protocol that are not served -> the values that ask for nothing."""
IGNORED = {
    "user", "metadata", "store", "service_tier", "parallel_tool_calls", "safety_identifier", "prompt_cache_key",
}  # fmt: skip
"""Fields that no answer depends on."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class _Part(_Strict):
    type: Literal["text"]
    text: str


class _Said(_Strict):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[_Part] | None = None
    name: str | None = None
    refusal: str | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.content is None and (self.role != "assistant" or self.refusal is None):
            raise ValueError("content is missing")
        return self

    def message(self) -> Message:
        said = (self.refusal or "") if self.content is None else self.content
        text = said if isinstance(said, str) else "".join(part.text for part in said)
        return Message("system" if self.role == "developer" else self.role, text)


class _StreamOptions(_Strict):
    include_usage: bool = False
    include_obfuscation: bool = False


class _Body(_Strict):
    """Beyond the protocol: `cost_weight`, `adapters` (false: frozen candidates) and `top_k`."""

    model: str
    messages: list[_Said] = Field(min_length=1)
    max_tokens: PositiveInt | None = None
    max_completion_tokens: PositiveInt | None = None
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=0, lt=2**31)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**64)
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    cost_weight: NonNegativeFloat | None = None
    adapters: bool | None = None


def chat_of(raw: bytes, models: tuple[str, ...], new_tokens: int, limits: Limits) -> Chat:
    """What a body asks of these models; `new_tokens` where it does not say how many. Without a temperature decoding is
    greedy, as the router was measured.

    Raises:
        Refused: what cannot be served, with the field.
    """
    body = _validated(_plain(raw))
    if body.model not in models:
        there = ", ".join(models)
        raise Refused(404, f"there is no model `{body.model}` here: there are {there}", "model", "model_not_found")
    if body.messages[-1].role != "user":
        raise Refused(400, "the last message has to be the user's: it is the question", "messages")
    messages = tuple(said.message() for said in body.messages)
    _check_lengths(messages, limits)
    name = body.model.removeprefix(f"{ROUTED}/")
    return Chat(
        body.model,
        messages,
        _sampling(body, new_tokens, limits),
        candidate=None if body.model == ROUTED else name,
        adapted=body.adapters is not False and (body.model == ROUTED or name != body.model),
        cost_weight=body.cost_weight,
        stream=bool(body.stream),
        usage_told=body.stream_options is not None and body.stream_options.include_usage,
    )


def _plain(raw: bytes) -> dict[str, Any]:
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise Refused(400, "the body is no JSON", None) from error
    if not isinstance(body, dict):
        raise Refused(400, f"the body has to be an object, got {type(body).__name__}")
    try:
        json.dumps(body, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise Refused(400, "the body holds half a character (a lone surrogate), which no text has") from error
    for field, nothing in UNSUPPORTED.items():
        if field in body and body[field] not in nothing:
            raise Refused(400, f"`{field}` is not supported: leave it out", field, "unsupported_parameter")
    kept = {key: value for key, value in body.items() if key not in UNSUPPORTED and key not in IGNORED}
    return _without_nulls(kept)


def _without_nulls(body: dict[str, Any]) -> dict[str, Any]:
    """Clients say null where they have nothing to say, and send an answer of ours back as they have it."""
    messages = body.get("messages")
    if isinstance(messages, list):
        body["messages"] = [_without_nulls(each) if isinstance(each, dict) else each for each in messages]
    return {key: value for key, value in body.items() if value is not None}


def _validated(body: dict[str, Any]) -> _Body:
    try:
        return _Body.model_validate(body)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        unknown = first["type"] == "extra_forbidden"
        said = "there is no such field" if unknown else first["msg"]
        raise Refused(400, f"{field}: {said}", field, "unknown_parameter" if unknown else None) from None


def _check_lengths(messages: tuple[Message, ...], limits: Limits) -> None:
    if not messages[-1].content.strip():
        raise Refused(400, "the last message is empty", "messages")
    length = sum(len(message.content) for message in messages)
    if length > limits.prompt_characters:
        said = f"the messages have {length} characters, {limits.prompt_characters} are taken"
        raise Refused(400, said, "messages", "context_length_exceeded")


def _sampling(body: _Body, new_tokens: int, limits: Limits) -> Sampling:
    field = "max_completion_tokens" if body.max_completion_tokens is not None else "max_tokens"
    asked = body.max_completion_tokens or body.max_tokens
    if asked is not None and asked > limits.new_tokens:
        raise Refused(400, f"{field}: got {asked}, at most {limits.new_tokens} are written", field)
    return Sampling(
        asked or min(new_tokens, limits.new_tokens),
        body.temperature or 0.0,
        secrets.randbits(32) if body.seed is None else body.seed,
        body.top_k or 0,
        1.0 if body.top_p is None else body.top_p,
    )
