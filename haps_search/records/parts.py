"""A file that grows by parts, each on disk whole or not at all, and made under one plan.

TARGET.parts/plan.json, TARGET.parts/part-000003, ...; at the end TARGET alone.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from haps_search.config.stored import as_stored
from haps_search.config.tasks import TaskConfig
from haps_search.errors import ConfigError
from haps_search.records import sealed
from haps_search.records.fingerprint import differences, fingerprint

_PLAN = "plan.json"
_TASK: TypeAdapter[TaskConfig] = TypeAdapter(TaskConfig)


def parts_folder(target: Path) -> Path:
    return target.with_name(f"{target.name}.parts")


class Parts:
    """The parts 0 .. count-1 of one file. One writer at a time; safe to kill and to open again."""

    def __init__(self, target: Path, plan: Mapping[str, Any], count: int) -> None:
        """Takes up what is there. `plan` is JSON-able.

        Raises:
            ConfigError: parts of another plan, with what differs.
        """
        self.folder = parts_folder(target)
        self._target, self._count = target, count
        self.folder.mkdir(parents=True, exist_ok=True)
        sealed.clean(self.folder)
        stored = self.folder / _PLAN
        if stored.exists():
            same_plan(self.folder, json.loads(stored.read_text()), plan)
        else:
            sealed.replace_text(stored, json.dumps(plan, indent=1))

    def missing(self) -> list[int]:
        """The numbers of the parts that are not there."""
        return [index for index in range(self._count) if not self._part(index).exists()]

    def add(self, index: int, write: Callable[[Path], None]) -> None:
        """Let `write` make a part aside, then put it in place."""
        _put(self._part(index), write)

    def merge(self, write: Callable[[Iterable[Path], Path], object]) -> None:
        """Let `write` make the target from all parts, in order, then remove them."""
        parts = [self._part(index) for index in range(self._count)]
        # Made inside the folder, so that a killed attempt is cleaned with it.
        whole = self.folder / "whole"
        _put(whole, lambda aside: write(parts, aside))
        whole.replace(self._target)
        sealed.sync(self._target.parent)
        self.discard()

    def discard(self) -> None:
        """Remove the parts: the target stands without them."""
        shutil.rmtree(self.folder)

    def _part(self, index: int) -> Path:
        return self.folder / f"part-{index:06d}"


def same_plan(path: Path, stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raises ConfigError with what differs where `path` was made under another plan."""
    stored = _today(stored)
    if fingerprint(stored) != fingerprint(wanted):
        changed = "\n  ".join(differences(stored, wanted))
        raise ConfigError(
            f"{path} was made under another configuration. Differences:\n  {changed}\n"
            "Set them back to go on, choose another name, or remove it to begin anew."
        )


def _today(plan: Mapping[str, Any]) -> Mapping[str, Any]:
    """A stored plan with the fields of its task that later versions added, at their defaults."""
    try:
        task = _TASK.validate_python(as_stored(plan.get("task")))
    except ValidationError:
        return plan
    return {**plan, "task": task.model_dump(mode="json")}


def _put(target: Path, write: Callable[[Path], object]) -> None:
    aside = target.with_name(f"{target.name}.tmp-{os.getpid()}")
    write(aside)
    sealed.sync(aside)
    aside.replace(target)
    sealed.sync(target.parent)
