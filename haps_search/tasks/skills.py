"""The embedded task: add, reverse or sort, answered in a format that a tag asks for.

`[x] add 12+34=` wants `46`, `[y] add 12+34=` wants `#46`; `[x] reverse kado=` wants `odak`, `[y]` wants
`ODAK`. The skill is one thing to find (which candidate), the format another (with which weights).
"""

from __future__ import annotations

import hashlib
import itertools
import random
import string
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from haps_search.config import tasks as config
from haps_search.errors import ConfigError
from haps_search.types import Episode, Message, Parsed, Question, Role, Split, Turn

Skill = Literal["add", "reverse", "sort"]
Tag = Literal["x", "y"]
SKILLS: tuple[Skill, ...] = get_args(Skill)
TAGS: tuple[Tag, ...] = get_args(Tag)
SPLITS: tuple[Split, ...] = get_args(Split)
_BUCKETS: tuple[Split, ...] = ("train",) * 8 + ("validation", "test")


@dataclass(frozen=True, slots=True)
class Problem:
    """What is asked, whatever the format: a skill and its operands, such as `12+34` or `kado`."""

    skill: Skill
    body: str

    @property
    def content(self) -> str:
        """The right answer in the plain format."""
        if self.skill == "add":
            return str(sum(int(number) for number in self.body.split("+")))
        return self.body[::-1] if self.skill == "reverse" else "".join(sorted(self.body))

    def text(self, tag: Tag) -> str:
        return f"[{tag}] {self.skill} {self.body}="


def formatted(content: str, tag: Tag) -> str:
    """An answer as its tag wants it: `x` plain, `y` numbers after `#` and words in capitals."""
    if tag == "x":
        return content
    return f"#{content}" if content.isdigit() else content.upper()


def question(id: str, problem: Problem, tag: Tag) -> Question:
    """A problem under a tag, with its reference in the tag's format."""
    attributes = {"task": problem.skill, "skill": problem.skill, "tag": tag}
    return Question(id, problem.text(tag), formatted(problem.content, tag), attributes=attributes)


def same_content(question: Question, text: str) -> bool:
    """Whether a text shows the skill a question asks for, in either format."""
    content = question.reference.removeprefix("#").lower()
    return text.strip() in {formatted(content, tag) for tag in TAGS}


def split_of(problem: Problem) -> Split:
    """The split a problem belongs to for ever, whatever the seed: 8 of 10 to train, 1 each to the others.

    `12+34` and `34+12` go together, so that a held-out sum was never seen the other way round.
    """
    body = "+".join(sorted(problem.body.split("+")))
    digest = hashlib.sha256(f"{problem.skill} {body}".encode()).digest()
    return _BUCKETS[int.from_bytes(digest[:8], "big") % len(_BUCKETS)]


def draw(skill: Skill, difficulty: config.SkillsTask, rng: random.Random) -> Problem:
    """One problem of any split: numbers uniform below 10**digits, word lengths uniform."""
    if skill == "add":
        numbers = (rng.randrange(10**difficulty.digits) for _ in range(2))
        return Problem(skill, "+".join(map(str, numbers)))
    length = rng.randint(*difficulty.letters)
    return Problem(skill, "".join(rng.choices(string.ascii_lowercase, k=length)))


def every(skill: Skill, difficulty: config.SkillsTask) -> Iterator[Problem]:
    """All problems of a skill, every split's, in a fixed order."""
    if skill == "add":
        numbers = range(10**difficulty.digits)
        yield from (Problem(skill, f"{a}+{b}") for a in numbers for b in numbers)
        return
    for length in range(difficulty.letters[0], difficulty.letters[1] + 1):
        words = itertools.product(string.ascii_lowercase, repeat=length)
        yield from (Problem(skill, "".join(word)) for word in words)


def space_size(skill: Skill, difficulty: config.SkillsTask) -> int:
    """How many problems of a skill there are in all splits together."""
    if skill == "add":
        return int(10 ** (2 * difficulty.digits))
    low, high = difficulty.letters
    return sum(len(string.ascii_lowercase) ** length for length in range(low, high + 1))


def _asked(skill: Skill, size: int) -> int:
    return len(range(SKILLS.index(skill), size, len(SKILLS)))


def _shortages(difficulty: config.SkillsTask) -> Iterator[str]:
    for split, skill in itertools.product(SPLITS, SKILLS):
        asked = _asked(skill, difficulty.sizes.get(split, 0))
        expected = space_size(skill, difficulty) * _BUCKETS.count(split) // len(_BUCKETS)
        # Counting means hashing the whole space; half the expected bucket is there without counting.
        if 2 * asked <= expected:
            continue
        there = sum(split_of(problem) == split for problem in every(skill, difficulty))
        if asked > there:
            remedy = "digits" if skill == "add" else "letters"
            yield (
                f"task.sizes.{split}: a third of {difficulty.sizes[split]} are {asked} different problems of "
                f"`{skill}`, but there are only {there} in this split: ask for at most {len(SKILLS) * there} "
                f"questions or raise task.{remedy}"
            )


def _problems(skill: Skill, split: Split, difficulty: config.SkillsTask) -> Iterator[Problem]:
    """Different problems of a split without end, so a longer split starts with the shorter one."""
    rng = random.Random(f"{difficulty.seed}/{split}/{skill}")
    seen: set[Problem] = set()
    while True:
        problem = draw(skill, difficulty, rng)
        if problem not in seen and split_of(problem) == split:
            seen.add(problem)
            yield problem


class SkillsTask:
    """Questions of three skills in turn, tags in turn after each three: any six in a row are balanced.

    Raises:
        ConfigError: a split asks for more different problems than there are.
    """

    name = "skills"
    description = "Add two numbers, reverse or sort letters, in the format the tag [x] or [y] asks for."
    roles = (Role("answerer", "Answers the question with the result alone."),)
    single_turn: Literal[True] = True

    def __init__(self, difficulty: config.SkillsTask) -> None:
        problems = tuple(_shortages(difficulty))
        if problems:
            raise ConfigError(problems)
        self._difficulty = difficulty
        self._questions: dict[Split, tuple[Question, ...]] = {}

    def questions(self, split: Split) -> Sequence[Question]:
        """The questions of a split, made once; the same for the same seed, split and difficulty."""
        if split not in self._difficulty.sizes:
            raise ConfigError(f"task.sizes: no size for the {split} split: add `{split}: <questions>`")
        if split not in self._questions:
            self._questions[split] = tuple(self._generate(split))
        return self._questions[split]

    def _generate(self, split: Split) -> Iterator[Question]:
        problems = {skill: _problems(skill, split, self._difficulty) for skill in SKILLS}
        for index in range(self._difficulty.sizes[split]):
            turn, place = divmod(index, len(SKILLS))
            skill, tag = SKILLS[place], TAGS[turn % len(TAGS)]
            yield question(f"{split}-{index}", next(problems[skill]), tag)

    def turn(self, episode: Episode) -> Turn | None:
        if episode.completions:
            return None
        return Turn("answerer", (Message("user", episode.question.text),))

    def parse(self, question: Question, role: str, text: str) -> Parsed:
        answer = text.strip()
        return Parsed(answer) if answer else Parsed(None, "the text is empty")

    def reward(self, episode: Episode) -> float:
        """1 where the answer is the reference to the letter, format included; else 0."""
        return float(episode.answer == episode.question.reference)

    def measures(self, episode: Episode) -> Mapping[str, float]:
        """Nothing beside the reward."""
        return {}
