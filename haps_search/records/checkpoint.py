"""What a run needs to go on: tensors as safetensors, scalars as JSON, a digest per file. Nothing is pickled.

folder/step-000050/{tensors.safetensors, state.json, digests.json}    folder/best.json

A router that was fitted on texts has `fitted.safetensors` beside them: one file, linked into every step.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from haps_search.errors import CheckpointError
from haps_search.records import sealed
from haps_search.records.fingerprint import differences, fingerprint
from haps_search.records.sealed import DamagedCheckpoint
from haps_search.records.sealed_tensors import SealedTensors
from haps_search.types import Snapshot
from haps_search.version import __version__

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 1
TENSORS, FITTED, STATE, BEST = "tensors.safetensors", "fitted.safetensors", "state.json", "best.json"
_STEP = re.compile(r"^step-(\d{6,})(\.old-\d+)?$")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One loaded checkpoint. `state` is the run's, `snapshot` the router's; both as they were saved, except
    that JSON turns tuples into lists. `skipped` says which newer ones were damaged, and how."""

    step: int
    snapshot: Snapshot
    state: Mapping[str, Any]
    path: Path
    skipped: tuple[str, ...] = ()


class CheckpointStore:
    """The checkpoints of one run under one configuration. One writer at a time; any number of readers."""

    def __init__(
        self,
        folder: Path,
        config: Mapping[str, Any],
        keep: int = 2,
        today: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict,
    ) -> None:
        """`config` is JSON-able; the newest `keep` checkpoints are kept, beside the best.

        `today` says what a stored configuration means to this version, which may have fields the stored one had not.
        """
        if keep < 1:
            raise ValueError(f"keep: got {keep}, at least 1 checkpoint has to be kept")
        self._folder, self._config, self._keep = folder, config, keep
        self._fingerprint, self._today = fingerprint(config), today

    def steps(self) -> list[int]:
        """The steps that can be loaded, oldest first."""
        if not self._folder.is_dir():
            return []
        matches = (_STEP.match(path.name) for path in self._folder.iterdir())
        return sorted({int(match[1]) for match in matches if match})

    def save(
        self, step: int, snapshot: Snapshot, state: Mapping[str, Any], best: bool = False, fitted_after: int = 0
    ) -> Path:
        """Keep this step; a kill at any moment leaves the former checkpoints or this one, never half of it.

        Saving a step again replaces it. Damaged checkpoints above `step` (of a run that fell back to an
        intact one) are removed. What steps after `fitted_after` have fitted is the same as here.

        Raises:
            CheckpointError: an intact checkpoint lies above `step`, so this is not the run's next save.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        sealed.clean(self._folder)
        self._drop_damaged_above(step)
        target = self._path(step)
        aside = sealed.open_aside(target)
        (aside / TENSORS).write_bytes(SealedTensors.of(snapshot.tensors).data)
        if snapshot.fitted:
            self._keep_fitted(snapshot.fitted, aside / FITTED, fitted_after)
        (aside / STATE).write_text(json.dumps(self._head(step, snapshot, state), indent=1) + "\n")
        self._point(step, best)
        sealed.seal(aside, target)
        self._prune()
        return target

    def load(self, step: int) -> Checkpoint:
        """One checkpoint.

        Raises:
            DamagedCheckpoint: a file does not match its digest.
            CheckpointError: no such step, another configuration (with what differs), or another format.
        """
        path = sealed.locate(self._path(step))
        if path is None:
            there = ", ".join(map(str, self.steps())) or "none"
            raise CheckpointError(f"{self._folder}: no checkpoint of step {step}; steps there: {there}")
        sealed.verify(path)
        head = json.loads((path / STATE).read_text())
        self._check(path, head)
        return Checkpoint(
            step=head["step"],
            snapshot=Snapshot(SealedTensors((path / TENSORS).read_bytes()), head["snapshot"], _fitted(path)),
            state=head["run"],
            path=path,
        )

    def latest(self, skip_damaged: bool = False) -> Checkpoint | None:
        """The newest checkpoint, None where there is none.

        With `skip_damaged`, the newest intact one; what was passed over is in its `skipped`.

        Raises:
            DamagedCheckpoint: the newest one is damaged, or with `skip_damaged` all of them are.
            CheckpointError: as in `load`.
        """
        skipped: list[str] = []
        for step in reversed(self.steps()):
            try:
                return replace(self.load(step), skipped=tuple(skipped))
            except DamagedCheckpoint as error:
                if sealed.locate(self._path(step)) is None:
                    return self.latest(skip_damaged)  # not damaged: its writer pruned it under this reader
                skipped.append(str(error))
                if not skip_damaged:
                    break
        if not skipped:
            return None
        raise DamagedCheckpoint("\n".join(skipped) + f"\n{self._way_out(skip_damaged)}")

    def best(self) -> Checkpoint | None:
        """The checkpoint last saved as best, None where there is none.

        Raises:
            CheckpointError: as in `load`.
        """
        step = self._best_step()
        return None if step is None else self.load(step)

    def _keep_fitted(self, fitted: Mapping[str, Tensor], target: Path, after: int) -> None:
        """Written once and linked afterwards: it is large and changes with the stage of a run alone."""
        for step in reversed([s for s in self.steps() if s > after]):
            stored = self._path(step) / FITTED
            if stored.is_file() and sealed.intact(stored):
                try:
                    os.link(stored, target)
                except OSError:
                    break  # a file system without links
                return
        target.write_bytes(SealedTensors.of(fitted).data)

    def _path(self, step: int) -> Path:
        return self._folder / f"step-{step:06d}"

    def _head(self, step: int, snapshot: Snapshot, state: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "step": step,
            "code_version": __version__,
            "fingerprint": self._fingerprint,
            "config": self._config,
            "snapshot": dict(snapshot.state),
            "run": dict(state),
        }

    def _check(self, path: Path, head: Mapping[str, Any]) -> None:
        if head.get("format") != FORMAT:
            raise CheckpointError(
                f"{path}: checkpoint format {head.get('format')}, this version (haps_search "
                f"{__version__}) reads format {FORMAT}; it was written by haps_search "
                f"{head.get('code_version', 'of unknown version')}: load it with that one"
            )
        stored = head["config"]
        if head["fingerprint"] == self._fingerprint or fingerprint(self._today(stored)) == self._fingerprint:
            return
        changed = "\n  ".join(differences(self._today(stored), self._config))
        raise CheckpointError(
            f"{path}: belongs to another configuration. Differences:\n  {changed}\n"
            "Set them back to resume, or give the new configuration a name of its own."
        )

    def _drop_damaged_above(self, step: int) -> None:
        for later in [s for s in self.steps() if s > step]:
            try:
                sealed.verify(self._path(later))
            except DamagedCheckpoint:
                sealed.remove(self._path(later))
            else:
                raise CheckpointError(
                    f"{self._path(later)}: lies above step {step}, which was to be saved. "
                    "Resume from it, or use an empty folder."
                )

    def _point(self, step: int, best: bool) -> None:
        """Written before the checkpoint is in place, with the former best behind it: `_best_step` takes
        the first that exists, so a kill between the two loses neither."""
        stored = self._pointer()
        standing = [s for s in stored if s in self.steps()][:1]
        wanted = [step, *(s for s in standing if s != step)] if best else standing
        if wanted != stored:
            sealed.replace_text(self._folder / BEST, json.dumps({"steps": wanted}) + "\n")

    def _pointer(self) -> list[int]:
        path = self._folder / BEST
        if not path.exists():
            return []
        try:
            return [int(step) for step in json.loads(path.read_text())["steps"]]
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f'{path}: damaged ({error}); write {{"steps": [STEP]}} with one of the steps '
                f"{', '.join(map(str, self.steps()))} into it, or delete it to go on without a best"
            ) from error

    def _best_step(self) -> int | None:
        there = self.steps()
        return next((step for step in self._pointer() if step in there), None)

    def _prune(self) -> None:
        best = self._best_step()
        for step in self.steps()[: -self._keep]:
            if step != best:
                sealed.remove(self._path(step))

    def _way_out(self, skipped_already: bool) -> str:
        if skipped_already:
            return f"No intact checkpoint is left: remove {self._folder} to start from step 0."
        return "Restore the file, or resume from the newest intact checkpoint (skip_damaged)."


def _fitted(path: Path) -> Mapping[str, Tensor]:
    return SealedTensors((path / FITTED).read_bytes()) if (path / FITTED).exists() else {}
