"""The task `hotpotqa`: a student searches and answers, a teacher says continue or rethink."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from haps_search.config.hotpotqa import HotpotqaTask as Config
from haps_search.errors import ConfigError
from haps_search.tasks.hotpotqa.dialogue import Dialogue, Rules, follow
from haps_search.tasks.hotpotqa.grammar import STUDENT, TEACHER, read
from haps_search.tasks.hotpotqa.prompt import messages, problems
from haps_search.tasks.hotpotqa.rows import passages_of, read_hotpotqa
from haps_search.tasks.retrieval import Retriever
from haps_search.tasks.scoring import exact_match, token_f1
from haps_search.tasks.split_files import SplitFiles
from haps_search.types import Episode, Parsed, Question, Role, Split, Turn


class HotpotqaTask:
    """Questions from files in HotpotQA's own format, read when they are first asked for.

    An episode ends when the teacher answers `Finish[...]` with `Continue`, or after the student's last turn. Its
    answer is that of the last `Finish[...]`, whatever the teacher said of it; without one it has none and earns 0.

    Raises:
        ConfigError: all that is missing in the configuration, files and prompts included.
    """

    name = "hotpotqa"
    roles = (
        Role(STUDENT, "Searches the paragraphs of the question, and answers when it knows enough."),
        Role(TEACHER, "Judges each step of the student, says continue or rethink and why."),
    )

    def __init__(self, config: Config) -> None:
        names: dict[Split, str | None] = {"train": config.train, "validation": config.validation, "test": config.test}
        self._files = SplitFiles(names, partial(read_hotpotqa, config=config))
        found = (*self._files.problems(), *problems(config.prompts))
        if found:
            raise ConfigError(found)
        self._config = config
        self._prompts = dict(config.prompts)
        self._rules = Rules(config.search_budget, config.max_student_turns)
        self._retriever = Retriever(config.retrieval)

    @property
    def description(self) -> str:
        return self._config.description

    def questions(self, split: Split) -> Sequence[Question]:
        """The questions of a split in the order of its file.

        Raises:
            ConfigError: the split has no file.
            DataError: malformed rows, with file, line and field.
        """
        return self._files.questions(split)

    def remarks(self) -> list[str]:
        """Cut contexts, rows left out and leaks of train and validation; loads the encoder, if there is one.

        Raises:
            ConfigError, DataError: malformed rows, or no such encoder.
        """
        self._retriever.load()
        return self._files.remarks(self._config.max_context_chars)

    def turn(self, episode: Episode) -> Turn | None:
        """The student first, then teacher and student in turn; raises ConfigError where the encoder is missing."""
        state = self._dialogue(episode)
        role = state.next_role
        if role is None:
            return None
        return Turn(role, messages(self._prompts[role], episode.question.text, state, role))

    def parse(self, question: Question, role: str, text: str) -> Parsed:
        """An answer for `Finish[...]` alone; a search and a verdict are read too, and answer nothing."""
        reading = read(role, text)
        return Parsed(reading.argument if reading.step == "finish" else None, reading.failure)

    def reward(self, episode: Episode) -> float:
        """Token F1 of the answer, in [0, 1]; 0 without one."""
        return 0.0 if episode.answer is None else token_f1(episode.answer, episode.question.reference)

    def measures(self, episode: Episode) -> Mapping[str, float]:
        """Exact match, whether there is an answer, searches carried out, and turns of both roles."""
        return {
            "exact_match": exact_match(episode.answer or "", episode.question.reference),
            "answered": float(episode.answer is not None),
            "searches": float(len(self._dialogue(episode).found)),
            "turns": float(len(episode.completions)),
        }

    def _dialogue(self, episode: Episode) -> Dialogue:
        passages, count = passages_of(episode.question), self._config.passages_per_search
        return follow(episode.completions, self._rules, lambda query: self._retriever.search(passages, query, count))
