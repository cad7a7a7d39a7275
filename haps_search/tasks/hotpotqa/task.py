"""The task `hotpotqa`: a student searches and answers, a teacher says continue or rethink."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from haps_search.config.hotpotqa import HotpotqaTask as Config
from haps_search.config.hotpotqa import Prompts, RolePrompt
from haps_search.config.tasks import Source
from haps_search.errors import ConfigError
from haps_search.tasks.hotpotqa.dialogue import STUDENT, TEACHER, Dialogue, Reading, Rules, follow, read
from haps_search.tasks.overlap import exact_match, token_f1
from haps_search.tasks.passages import Passage, Passages
from haps_search.tasks.question_rows import (
    CONTEXT_CUT,
    NEEDS_PARAGRAPHS,
    QuestionFile,
    RowReader,
    field,
    identity,
    paragraphs,
    text,
)
from haps_search.tasks.question_sources import open_source
from haps_search.tasks.retrieval import Retriever
from haps_search.tasks.rows import BadRow
from haps_search.tasks.split_files import SplitFiles
from haps_search.types import Episode, Message, Parsed, Question, Role, Split, Turn


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
        names: dict[Split, Source | None] = {
            "train": config.train,
            "validation": config.validation,
            "test": config.test,
        }
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
        """Cut contexts, rows left out and leaks between the splits; loads the encoder, if there is one.

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
        if episode.answer is None:
            return 0.0
        return token_f1(episode.answer, episode.question.reference, self._config.normaliser)

    def measures(self, episode: Episode) -> Mapping[str, float]:
        """Exact match, whether there is an answer, searches carried out, and turns of both roles."""
        return {
            "exact_match": exact_match(episode.answer or "", episode.question.reference, self._config.normaliser),
            "answered": float(episode.answer is not None),
            "searches": float(len(self._dialogue(episode).found)),
            "turns": float(len(episode.completions)),
        }

    def _dialogue(self, episode: Episode) -> Dialogue:
        passages, count = passages_of(episode.question), self._config.passages_per_search
        return follow(episode.completions, self._rules, lambda query: self._retriever.search(passages, query, count))


_WAY_OUT = "needs HotpotQA's own fields (`type: qa` takes other names)"
_PASSAGES = "passages"


def read_hotpotqa(source: Source, split: Split, config: Config) -> QuestionFile:
    """Read `_id`, `question`, `answer` and `context` of a split's rows; other fields are not looked at.

    Raises:
        DataError: malformed rows with file, line, field, what was got and what is needed.
        ConfigError: the file cannot be opened.
    """
    make = partial(_question, split=split, most=config.max_context_chars)
    return RowReader(make, config.limit.get(split), "_id", config.malformed).read(open_source(source, split))


def passages_of(question: Question) -> Passages:
    """The question's own paragraphs; of one asked by hand, the lines of its context, `Title: text` each."""
    found: Passages | None = question.attributes.get(_PASSAGES)
    return tuple(map(_line, filter(str.strip, question.context.splitlines()))) if found is None else found


def _line(line: str) -> Passage:
    title, colon, body = line.partition(": ")
    return Passage(title.strip(), body.strip()) if colon else Passage("Context", line.strip())


def _question(row: Mapping[str, Any], number: int, split: Split, most: int) -> Question:
    asked, answer = text(row, "question", _WAY_OUT), text(row, "answer", _WAY_OUT)
    context = paragraphs(field(row, "context", _WAY_OUT), "context")
    if not context:
        raise BadRow(f"`context`: got [], needs {NEEDS_PARAGRAPHS}")
    kept = tuple(_first(context, most))
    attributes: dict[str, Any] = {_PASSAGES: kept}
    if _length(kept) < sum(len(title) + len(body) for title, body in context):
        attributes[CONTEXT_CUT] = True
    return Question(f"{split}:{identity(row, '_id', _WAY_OUT)}", asked, answer, attributes=attributes)


def _first(context: Sequence[tuple[str, str]], most: int) -> Iterator[Passage]:
    """Passages of at most `most` characters in all, titles included; the last one may be cut."""
    for title, body in context:
        if most <= 0:
            return
        passage = Passage(title[:most], body[: max(most - len(title), 0)])
        most -= _length((passage,))
        yield passage


def _length(passages: Passages) -> int:
    return sum(len(passage.title) + len(passage.text) for passage in passages)


PLACEHOLDERS = ("question", "dialogue")
_PLACEHOLDER = re.compile(rf"\{{({'|'.join(PLACEHOLDERS)})\}}")


def problems(prompts: Prompts) -> Iterator[str]:
    """A line for each role without a prompt, or whose prompt would hide the question or the dialogue from it."""
    for role, prompt in prompts:
        where = f"task.prompts.{role}.prompt"
        if not prompt.prompt.strip():
            yield f"{where}: is empty, so the {role} has no prompt: write one, or leave it out for the default"
            continue
        lacking = [f"{{{name}}}" for name in PLACEHOLDERS if f"{{{name}}}" not in prompt.prompt]
        if lacking:
            yield f"{where}: has no {' and no '.join(lacking)}, which the {role} needs to see: put it in"


def messages(prompt: RolePrompt, question: str, state: Dialogue, role: str) -> tuple[Message, ...]:
    """The filled-in prompt, after the system message if there is one."""
    values = {"question": question, "dialogue": dialogue(state, role)}
    # One pass, so that braces in what was said are left alone.
    filled = _PLACEHOLDER.sub(lambda found: values[found[1]], prompt.prompt).strip()
    system = (Message("system", prompt.system),) if prompt.system.strip() else ()
    return (*system, Message("user", filled))


def dialogue(state: Dialogue, role: str) -> str:
    """What was found, both summaries, what was said last, and what is left.

    Earlier texts are not repeated: the running summaries stand in for them.
    """
    blocks = [_found(state)]
    blocks += [f"{name.capitalize()}'s summary: {summary}" for name, summary in state.summaries.items()]
    blocks += ["\n".join(_last(state, name, reading)) for name, reading in state.last.items()]
    blocks.append(_left(state) if role == STUDENT else f"Searches left to the student: {state.searches_left}.")
    return "\n".join(block for block in blocks if block)


def _found(state: Dialogue) -> str:
    passages = dict.fromkeys(passage for search in state.found for passage in search)
    return "\n".join(["Found:", *(f"- {p.title}: {p.text}" for p in passages)]) if passages else ""


def _last(state: Dialogue, role: str, reading: Reading) -> Iterator[str]:
    yield f"{role.capitalize()}: {reading.said}".rstrip()
    if reading.failure is not None:
        yield f"(Not readable: {reading.failure}.)"
    elif role == STUDENT and state.refused:
        yield "(No search was left.)"
    elif reading.step == "search":
        titles = "; ".join(passage.title for passage in state.found[-1])
        yield f"(This search found: {titles}.)" if titles else "(This search found nothing.)"


def _left(state: Dialogue) -> str:
    if state.turns_left == 1:
        return "This is your last turn. Answer now with Finish[...]."
    if state.searches_left == 0:
        return f"No searches are left. Answer with Finish[...]. Turns left: {state.turns_left}."
    return f"Searches left: {state.searches_left}. Turns left: {state.turns_left}."
