"""Activations of references: computed once per prompt and answer, in memory as far as there is room, and on disk for
all trials and later sweeps."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from haps_search.candidates.activations import Activations, Ids

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_log = logging.getLogger(__name__)
FORMAT = 1
"""Part of every digest: raise it where what is stored comes to mean something else."""
_UNTOLD = ("_name_or_path", "transformers_version", "dtype", "torch_dtype")
"""Of a model's configuration, what is not the function that it computes."""
_numbers = count()


def stored_root() -> Path:
    """`$HAPS_CACHE/activations`, else `~/.cache/haps_search/activations`. It may be deleted at any time."""
    base = os.environ.get("HAPS_CACHE")
    return (Path(base).expanduser() if base else Path.home() / ".cache" / "haps_search") / "activations"


def weights_digest(model: PreTrainedModel) -> str:
    """Of all weights with their names, types and shapes, and of the configuration: what activations depend on, wherever
    the model came from. A second or so per GB."""
    config = {k: v for k, v in model.config.to_diff_dict().items() if k not in _UNTOLD}
    digest = hashlib.sha256(json.dumps([FORMAT, config], sort_keys=True, default=str).encode())
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:32]


def key_of(prompt: Ids, tokens: Ids) -> str:
    return hashlib.sha256(f"{prompt}{tokens}".encode()).hexdigest()[:32]


class ActivationStore:
    """Activations by what they are (`kind`, such as `29-attended`) and a key, on the CPU.

    In memory at most `memory` bytes, those used last. On disk, in a folder of the model's own and a file per batch,
    until the folder has `disk` bytes; a file is written aside and renamed, so that whoever is killed leaves no half of
    one, and is named by what it holds, so that several writers do not meet. One that cannot be read is passed over.
    """

    def __init__(self, folder: Path | None, memory: int, disk: int) -> None:
        """`folder` None: in memory alone."""
        self._folder, self._memory, self._disk = folder, memory, disk
        self._held: OrderedDict[tuple[str, str], Activations] = OrderedDict()
        self._size, self._written = 0, _bytes_in(folder) if folder is not None else 0
        self._files: dict[str, dict[str, Path]] = {}
        self._seen: set[Path] = set()
        self._writes = True

    def get(self, kind: str, keys: Collection[str]) -> dict[str, Activations]:
        """Those of these keys that are there."""
        found = {key: entered for key in keys if (entered := self._get(kind, key)) is not None}
        missing = [key for key in keys if key not in found]
        if missing and self._folder is not None and self._look(self._folder, kind):
            found |= {key: entered for key in missing if (entered := self._get(kind, key)) is not None}
        return found

    def _get(self, kind: str, key: str) -> Activations | None:
        held = self._held.get((kind, key))
        if held is not None:
            self._held.move_to_end((kind, key))
            return held
        file = self._files.get(kind, {}).get(key)
        found = None if file is None else _read(file, key)
        if found is not None:
            self._hold(kind, key, found)
        return found

    def _look(self, folder: Path, kind: str) -> bool:
        """Whether the disk has come to hold more of a kind."""
        new = sorted(set((folder / kind).glob("*.safetensors")) - self._seen)
        self._seen |= set(new)
        for file in new:
            self._files.setdefault(kind, {}).update(dict.fromkeys(_keys(file), file))
        return bool(new)

    def put(self, kind: str, entries: Mapping[str, Activations]) -> None:
        """Keep the activations of one batch, on disk before this returns."""
        for key, entered in entries.items():
            self._hold(kind, key, entered)
        if self._folder is None or not entries or not self._writes:
            return
        size = sum(_size(entered) for entered in entries.values())
        if self._written + size > self._disk:
            self._stop(f"it holds {self._written / 1e9:.2g} GB, and candidates.stored_disk_gb allows no more")
            return
        try:
            file = _write(self._folder / kind, entries)
        except OSError as error:
            self._stop(str(error))
            return
        self._written += size
        self._seen.add(file)
        self._files.setdefault(kind, {}).update(dict.fromkeys(entries, file))

    def clear(self) -> None:
        """Give back the memory."""
        self._held.clear()
        self._size = 0

    def _hold(self, kind: str, key: str, entered: Activations) -> None:
        before = self._held.pop((kind, key), None)
        self._held[kind, key] = entered
        self._size += _size(entered) - (_size(before) if before is not None else 0)
        while self._size > self._memory:
            _, gone = self._held.popitem(last=False)
            self._size -= _size(gone)

    def _stop(self, reason: str) -> None:
        _log.warning("%s: nothing more is written there: %s", self._folder, reason)
        self._writes = False


def _size(entered: Activations) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in entered.tensors.values())


def _bytes_in(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("*/*.safetensors"))


def _write(folder: Path, entries: Mapping[str, Activations]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    held: dict[str, Tensor] = {
        f"{key}.{entered.first}.{name}": tensor.contiguous()
        for key, entered in entries.items()
        for name, tensor in entered.tensors.items()
    }
    file = folder / f"{hashlib.sha256(''.join(sorted(entries)).encode()).hexdigest()[:32]}.safetensors"
    aside = file.with_suffix(f".{os.getpid()}-{next(_numbers)}.partial")
    try:
        save_file(_apart(held), aside)
        with aside.open("rb") as written:
            os.fsync(written.fileno())
        aside.replace(file)
    finally:
        aside.unlink(missing_ok=True)
    return file


def _apart(held: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """References of a question share their prompt's part; a file holds each tensor for itself."""
    seen: set[int] = set()
    found = {}
    for name, tensor in held.items():
        found[name] = tensor.clone() if tensor.data_ptr() in seen else tensor
        seen.add(tensor.data_ptr())
    return found


def _keys(file: Path) -> Iterator[str]:
    try:
        with safe_open(file, "pt") as opened:
            yield from {name.partition(".")[0] for name in opened.keys()}  # noqa: SIM118 - it is no mapping
    except (SafetensorError, OSError) as error:
        _log.warning("%s is passed over: %s", file, error)


def _read(file: Path, key: str) -> Activations | None:
    try:
        with safe_open(file, "pt") as opened:
            names = [name for name in opened.keys() if name.startswith(f"{key}.")]  # noqa: SIM118
            tensors = {name.rpartition(".")[2]: opened.get_tensor(name) for name in names}
    except (SafetensorError, OSError) as error:
        _log.warning("%s is passed over: %s", file, error)
        return None
    return Activations.of(int(names[0].split(".")[1]), tensors) if names else None
