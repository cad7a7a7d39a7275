"""The files of a task's splits, and what should be known of them before anything expensive starts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from haps_search.errors import ConfigError
from haps_search.tasks.question_file import QuestionFile
from haps_search.tasks.scoring import normalise
from haps_search.types import Question, Split

_SHOWN = 3


class SplitFiles:
    """One file per split, read when its questions are first asked for."""

    def __init__(self, names: Mapping[Split, str | None], read: Callable[[Path, Split], QuestionFile]) -> None:
        self._names, self._read = names, read
        self._files: dict[Split, QuestionFile] = {}

    def problems(self) -> Iterator[str]:
        """A line for each file that is not there."""
        for split, name in self._names.items():
            if name is not None and not Path(name).expanduser().is_file():
                yield f"task.{split}: no file `{name}`: give a path that is absolute or relative to {Path.cwd()}"

    def questions(self, split: Split) -> Sequence[Question]:
        """The questions of a split in the order of its file.

        Raises:
            ConfigError: the split has no file.
            DataError: malformed rows, with file, line and field.
        """
        if split not in self._files:
            name = self._names.get(split)
            if name is None:
                raise ConfigError(f"task.{split}: no file for the {split} split: set `{split}: FILE.jsonl`")
            self._files[split] = self._read(Path(name).expanduser(), split)
        return self._files[split].questions

    @property
    def truncated(self) -> Mapping[Split, int]:
        """How many contexts of each split read so far were cut."""
        return {split: file.truncated for split, file in self._files.items()}

    @property
    def skipped(self) -> Mapping[Split, tuple[str, ...]]:
        """The problems of the rows left out of each split read so far."""
        return {split: file.skipped for split, file in self._files.items()}

    def leaks(self) -> int:
        """How many validation questions have the normalised text of one in train; reads both."""
        learnt = {normalise(question.text) for question in self.questions("train")}
        return sum(normalise(question.text) in learnt for question in self.questions("validation"))

    def remarks(self, max_context_chars: int) -> list[str]:
        """Cut contexts, rows left out and leaks of train and validation, which are read; a line each."""
        leaks = self.leaks()
        found = [
            f"warning: {count} contexts of {split} are cut at {max_context_chars} characters"
            for split, count in self.truncated.items()
            if count
        ]
        for split, problems in self.skipped.items():
            if problems:
                more = ", ..." if len(problems) > _SHOWN else ""
                found.append(f"warning: {len(problems)} rows of {split} left out: {'; '.join(problems[:_SHOWN])}{more}")
        if leaks:
            found.append(f"warning: {leaks} validation questions stand in train too; rewards there will flatter")
        return found
