"""From a source in the configuration to a frozen LLM in memory."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer
from transformers.configuration_utils import PreTrainedConfig
from transformers.modeling_utils import PreTrainedModel
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
)
from transformers.tokenization_utils_base import PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from haps_search.candidates.load_errors import explained, refusal
from haps_search.candidates.precision import on_cpu, own_dtype, slowdown
from haps_search.config.candidates import BALANCED, Dtype, GgufSource, HubSource, PathSource, Source
from haps_search.errors import CandidateError

_log = logging.getLogger(__name__)
DTYPES = {
    "float64": torch.float64,
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


@dataclass(frozen=True, slots=True)
class LoadedLM:
    """A frozen causal LM: evaluation mode, no parameter wants a gradient.

    The tokenizer pads on the left and has a pad token; `stop_ids` are all tokens that end a generation.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    device: torch.device
    stop_ids: tuple[int, ...]


def load_lm(owner: str, source: Source, dtype: Dtype, device: str, trust_remote_code: bool) -> LoadedLM:
    """Load the LLM of a candidate (or of the backbone), named `owner` in errors.

    `dtype` auto keeps the checkpoint's, but takes float32 on a CPU that is faster in it; `device` auto takes a GPU
    where there is one, `balanced` all there are.

    Raises:
        CandidateError: whatever stands in the way, with owner, source and the way out.
    """
    place = _device(owner, source, device)
    _check_dtype(owner, source, dtype, place)
    several = {"device_map": BALANCED} if device == BALANCED else {}
    with explained(owner, source), _no_progress_bars():
        config, where, common = _configured(owner, source, trust_remote_code)
        weights = _dtype(owner, dtype, config, place)
        tokenizer = AutoTokenizer.from_pretrained(where, padding_side="left", **common)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            where, config=config, dtype=weights, output_loading_info=True, **several, **common
        )
        model, report = loaded
        _check_complete(owner, source, model, report["missing_keys"])
        model = model.eval().requires_grad_(False)
        model = model if several else model.to(place)
    stops = _stop_ids(model, tokenizer)
    _give_pad_token(owner, source, tokenizer, stops)
    return LoadedLM(model, tokenizer, place, stops)


def load_encoder(
    owner: str, source: Source, dtype: Dtype, device: str, trust_remote_code: bool
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A text encoder without a head, frozen and in evaluation mode, and its tokenizer, which can pad.

    Raises:
        CandidateError: as `load_lm`.
    """
    place = _device(owner, source, device)
    _check_dtype(owner, source, dtype, place)
    with explained(owner, source), _no_progress_bars():
        config, where, common = _encoder_configured(owner, source, trust_remote_code)
        weights = _dtype(owner, dtype, config, place)
        tokenizer = AutoTokenizer.from_pretrained(where, padding_side="right", **common)
        loaded: Any = AutoModel.from_pretrained(where, config=config, dtype=weights, output_loading_info=True, **common)
        model, report = loaded
        # The pooler is a head that encoders are often saved without, and nobody reads it here.
        _check_complete(owner, source, model, [m for m in report["missing_keys"] if not m.startswith("pooler.")])
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token  # as LMs pad; the mask keeps it out of means
        return model.eval().requires_grad_(False).to(place), tokenizer


def meta_encoder(owner: str, source: Source, dtype: Dtype, trust_remote_code: bool) -> PreTrainedModel:
    """As `meta_lm`, of a text encoder without a head."""
    with explained(owner, source), _no_progress_bars(), torch.device("meta"):
        config, _, _ = _encoder_configured(owner, source, trust_remote_code)
        weights = own_dtype(config) if dtype == "auto" else DTYPES[dtype]
        model: PreTrainedModel = AutoModel.from_config(config, dtype=weights, trust_remote_code=trust_remote_code)
    return model.eval().requires_grad_(False)


def meta_lm(owner: str, source: Source, dtype: Dtype, trust_remote_code: bool) -> PreTrainedModel:
    """The LLM of a source on torch's meta device: every shape and no number, from its config.json alone.

    Raises:
        CandidateError: no such model, or not a causal LM.
    """
    with explained(owner, source), _no_progress_bars():
        config, _, common = _configured(owner, source, trust_remote_code)  # which may convert a file, with numbers
        weights = own_dtype(config) if dtype == "auto" else DTYPES[dtype]
        with torch.device("meta"):
            model: PreTrainedModel = AutoModelForCausalLM.from_config(
                config, dtype=weights, trust_remote_code=common["trust_remote_code"]
            )
    return model.eval().requires_grad_(False)


def tokenizer_of(owner: str, source: Source, trust_remote_code: bool) -> PreTrainedTokenizerBase:
    """The tokenizer of a source alone, for counting. Raises CandidateError."""
    with explained(owner, source), _no_progress_bars():
        where, common = _locate(owner, source)
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            where, trust_remote_code=trust_remote_code, **common
        )
    return tokenizer


def _configured(owner: str, source: Source, trust_remote_code: bool) -> tuple[PreTrainedConfig, str, dict[str, Any]]:
    """A causal LM's configuration, and what `from_pretrained` takes to load it."""
    where, common = _locate(owner, source)
    common["trust_remote_code"] = trust_remote_code
    config = AutoConfig.from_pretrained(where, **common)
    _check_causal(owner, source, config, trust_remote_code)
    return config, where, common


def _encoder_configured(
    owner: str, source: Source, trust_remote_code: bool
) -> tuple[PreTrainedConfig, str, dict[str, Any]]:
    where, common = _locate(owner, source)
    common["trust_remote_code"] = trust_remote_code
    config = AutoConfig.from_pretrained(where, **common)
    if getattr(config, "is_encoder_decoder", False):
        reason = f"it is of type {config.model_type}, an encoder with a decoder: choose one without, such as BERT's"
        raise refusal(owner, source, reason)
    return config, where, common


def model_name(owner: str, source: Source) -> str:
    """What `from_pretrained` takes for this source: a hub name or a folder."""
    return _locate(owner, source)[0]


def _locate(owner: str, source: Source) -> tuple[str, dict[str, Any]]:
    """What `from_pretrained` is to be called with: a folder or a repository, and the revision."""
    match source:
        case HubSource():
            return source.repo, {"revision": source.revision}
        case PathSource():
            return str(_folder(owner, source, Path(source.path).expanduser())), {}
        case GgufSource():
            from haps_search.candidates.gguf_cache import gguf_folder

            return str(gguf_folder(owner, source)), {}
        case _:
            from haps_search.candidates.zoo import zoo_path

            try:
                folder = zoo_path(source.name)
            except CandidateError as error:
                raise refusal(owner, source, str(error)) from error
            return str(_folder(owner, source, folder)), {}


def _folder(owner: str, source: Source, folder: Path) -> Path:
    if not folder.is_dir():
        got = "a file, not a folder" if folder.exists() else "no such folder"
        reason = f"{got}: give a folder as save_pretrained writes it, absolute or relative to {Path.cwd()}"
        raise refusal(owner, source, reason)
    if not (folder / "config.json").is_file():
        there = ", ".join(sorted(path.name for path in folder.iterdir())[:6]) or "nothing"
        raise refusal(owner, source, f"no config.json in it (there is {there}): save_pretrained writes one")
    return folder


def _device(owner: str, source: Source, device: str) -> torch.device:
    if device == BALANCED:
        if not torch.cuda.is_available():
            raise refusal(owner, source, "`device: balanced` spreads over GPUs, and this process sees none: use `auto`")
        return torch.device("cuda")
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(device)
    except RuntimeError as error:
        reason = f"no device is called `{device}`: use `auto`, `cpu`, `cuda`, `cuda:1` or `balanced`"
        raise refusal(owner, source, reason) from error
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if place.type == "cuda" and (place.index or 0) >= there:
        reason = f"`device: {device}` needs CUDA, and this process sees {there} GPUs: use `auto` or `cpu`"
        raise refusal(owner, source, f"{reason}, or install torch with CUDA and give the process a GPU")
    return place


def _check_dtype(owner: str, source: Source, dtype: Dtype, place: torch.device) -> None:
    if dtype not in ("auto", *DTYPES):
        raise refusal(owner, source, f"no dtype is called `{dtype}`: use auto, {', '.join(DTYPES)}")
    if dtype == "bfloat16" and place.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise refusal(owner, source, f"{place} cannot compute in bfloat16: use `dtype: float16` or float32")


def _dtype(owner: str, dtype: Dtype, config: PreTrainedConfig, place: torch.device) -> torch.dtype:
    if dtype != "auto":
        return DTYPES[dtype]
    own = own_dtype(config)
    if place.type != "cpu" or on_cpu(own) is own:
        return own
    _log.warning("%s: dtype auto is float32, %.1f times as fast as %s on this CPU", owner, slowdown(own), own)
    return on_cpu(own)


def _check_causal(owner: str, source: Source, config: PreTrainedConfig, trust_remote_code: bool) -> None:
    if trust_remote_code and "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {}):
        return
    architectures = config.architectures or []
    causal = _names(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values())
    known = type(config) in MODEL_FOR_CAUSAL_LM_MAPPING and not getattr(config, "is_encoder_decoder", False)
    if known and (not architectures or causal & set(architectures)):
        return
    what = ", ".join(architectures) or f"of type {config.model_type}"
    reason = f"it is {what}, and a candidate must be a causal LM: choose a model named ...ForCausalLM"
    raise refusal(owner, source, reason)


def _names(values: Iterable[str | tuple[str, ...]]) -> set[str]:
    return {name for value in values for name in ((value,) if isinstance(value, str) else value)}


def _check_complete(owner: str, source: Source, model: PreTrainedModel, missing: Iterable[str]) -> None:
    # transformers fills missing weights at random and only warns.
    lacking = sorted(missing)
    if lacking:
        reason = f"its checkpoint lacks {len(lacking)} weights ({', '.join(lacking[:3])} ...): get a complete one"
        raise refusal(owner, source, reason)
    dtypes = {parameter.dtype for parameter in model.parameters()} - set(DTYPES.values())
    if dtypes:
        found = ", ".join(sorted(str(dtype) for dtype in dtypes))
        reason = f"its weights are quantised ({found}), and adapters need plain ones: use an unquantised checkpoint"
        raise refusal(owner, source, reason)


def _stop_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """All end tokens that generation config, config and tokenizer name: a turn may end with another one."""
    places = (model.generation_config, model.config, model.config.get_text_config(), tokenizer)
    found: set[int] = set()
    for place in places:
        ids = getattr(place, "eos_token_id", None)
        found.update([ids] if isinstance(ids, int) else ids or [])
    return tuple(sorted(found))


def _give_pad_token(owner: str, source: Source, tokenizer: PreTrainedTokenizerBase, stops: tuple[int, ...]) -> None:
    if not stops:
        reason = "neither its config nor its tokenizer names an end token: set eos_token in tokenizer_config.json"
        raise refusal(owner, source, reason)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(stops[0])


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()
