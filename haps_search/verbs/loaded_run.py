"""A run at its best checkpoint, to be used: who answers, what comes of it, and its adapters."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote

from haps_search.config.candidates import EndpointSource, TableSource
from haps_search.config.run import Experiment
from haps_search.errors import ConfigError
from haps_search.records.sealed import replace_text
from haps_search.tasks.held_out import Held
from haps_search.types import Adapter, Assignment, Question
from haps_search.verbs.evaluate import Evaluation, TableOnSplit, evaluate
from haps_search.verbs.events import Report, silent
from haps_search.verbs.find import find_run
from haps_search.verbs.frames import frame, page

if TYPE_CHECKING:
    from pandas import DataFrame

    from haps_search.engines.local import LoadedRun
    from haps_search.search.deciding import Decision
    from haps_search.verbs.export_static import ExportedStatic, Form
    from haps_search.verbs.judge import Judged
    from haps_search.verbs.logged import JudgedByLog


Questions = Sequence[str | Question]
LONGEST_NAME = 200
"""Bytes of a folder's name."""


@dataclass(frozen=True)
class Routing:
    """Whom the router chose for each question, with each candidate's probability per role. Nobody was asked."""

    questions: tuple[Question, ...]
    decisions: tuple[Decision, ...]

    @property
    def shares(self) -> dict[str, float]:
        """The share of questions that each assignment gets, the largest first."""
        counts = Counter(" + ".join(d.assignment) for d in self.decisions)
        return {chosen: count / len(self.decisions) for chosen, count in counts.most_common()}

    @property
    def frame(self) -> DataFrame:
        """A row per question: its assignment, and the probability of every candidate in every role."""
        rows = []
        for question, decision in zip(self.questions, self.decisions, strict=True):
            row: dict[str, Any] = {
                "id": question.id,
                "question": question.text,
                "assignment": " + ".join(decision.assignment),
            }
            for place, chances in enumerate(decision.probabilities):
                role = f"role {place + 1}: " if len(decision.probabilities) > 1 else ""
                row |= {f"{role}{name}": chance for name, chance in chances.items()}
            rows.append(row)
        return frame(rows, "id")

    def write(self, file: str | Path) -> Path:
        """A JSON line per question: id, question, assignment, probabilities."""
        lines = [
            {"id": q.id, "question": q.text, "assignment": d.assignment, "probabilities": d.probabilities}
            for q, d in zip(self.questions, self.decisions, strict=True)
        ]
        path = Path(file)
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_text(path, "".join(json.dumps(line) + "\n" for line in lines))
        return path

    def _repr_html_(self) -> str:
        return page(f"{len(self.questions)} questions", {"routes": self.frame})


@dataclass(frozen=True)
class Text:
    """One completion: who played which role, and what it wrote."""

    role: str
    candidate: str
    text: str


@dataclass(frozen=True)
class AdapterFacts:
    """An adapter of the episode: its relative norm, and how many numbers it has."""

    candidate: str
    norm: float
    size: int


@dataclass(frozen=True)
class Answer:
    """One question answered greedily: the decision, the adapters, the texts with them and of the frozen candidates.

    A router of a table says whom to ask; the table's models answer nothing new, so both texts are empty.
    """

    question: Question
    roles: tuple[str, ...]
    decision: Decision
    adapters: tuple[AdapterFacts, ...]
    adapted: tuple[Text, ...]
    frozen: tuple[Text, ...]

    @property
    def text(self) -> str:
        """The last text under the adapters; empty for a router of a table."""
        return self.adapted[-1].text if self.adapted else ""

    def _repr_html_(self) -> str:
        rows = [
            {"": f"{label}: {each.role} ({each.candidate})", "text": each.text}
            for label, texts in (("adapted", self.adapted), ("frozen", self.frozen))
            for each in texts
        ]
        return page(f"{self.question.text!r}: {' + '.join(self.decision.assignment)}", {"texts": frame(rows, "")})


@dataclass(frozen=True)
class Exported:
    """The folder with OUT/QUESTION/CANDIDATE/ and routes.jsonl, and how many adapters it has."""

    folder: Path
    adapters: int


@dataclass(frozen=True)
class Run:
    """A run's folder and configuration; candidates and router are loaded when they are first needed.

    Under a `profile` they are on its cluster, until `close`, which leaving the run as a context calls too.
    """

    name: str
    folder: Path
    experiment: Experiment
    runs: str | Path = "runs"
    profile: str | None = None
    report: Report = field(default=silent, repr=False)
    _open: ExitStack = field(default_factory=ExitStack, init=False, repr=False, compare=False)

    @cached_property
    def loaded(self) -> LoadedRun:
        """Raises as `verbs.hosting.hosted`."""
        from haps_search.verbs.hosting import hosted

        return self._open.enter_context(hosted(self.folder, self.experiment, self.profile, self.report))

    def close(self) -> None:
        """Give back what a profile's cluster holds; what is loaded in this process goes with the run."""
        self._open.close()
        self.__dict__.pop("loaded", None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def route(self, questions: Questions, cost_weight: float | None = None) -> Routing:
        """Decide for each question. Raises ConfigError for a weight of cost that this router cannot tell."""
        from haps_search.search.deciding import decide
        from haps_search.search.engine import finished

        asked = asked_questions(questions)
        worded = [self.loaded.worded(question) for question in asked]
        work = decide(self.loaded.engine, self.loaded.task, worded, self.experiment, cost_weight)
        return Routing(tuple(asked), tuple(finished(work)))

    def ask(self, question: str | Question, cost_weight: float | None = None) -> Answer:
        """Route one question and let its assignment answer, with its adapters and frozen. Raises as `route`."""
        from haps_search.lora.adapter import adapter_norm
        from haps_search.search.engine import finished

        asked = Question("asked", question, "") if isinstance(question, str) else question
        worded, engine = [self.loaded.worded(asked)], self.loaded.engine
        decision = self.route([asked], cost_weight).decisions[0]
        roles = tuple(role.name for role in self.loaded.task.roles)
        if self.experiment.task.type == "replay":
            return Answer(asked, roles, decision, (), (), ())
        routes, adapters = finished(engine.route(worded, 0, 0)), self.loaded.adapters(worded)
        facts = tuple(
            AdapterFacts(name, adapter_norm([adapters[key]]), adapters[key].layout.size)
            for key in routes.adapters
            for name in key[1:]
        )
        adapted = self._texts(worded, routes.assignments, routes.adapters)
        # Without an adapter the same candidates would be asked the same again, and an endpoint paid twice.
        frozen = self._texts(worded, routes.assignments, {}) if routes.adapters else adapted
        return Answer(asked, roles, decision, facts, adapted, frozen)

    def _texts(
        self,
        asked: Sequence[Question],
        assignments: Sequence[Sequence[Assignment]],
        adapters: Mapping[tuple[int, str], Adapter],
    ) -> tuple[Text, ...]:
        from haps_search.episodes.play import Play, play
        from haps_search.search.engine import finished

        how = Play(self.experiment.run.sampling, seed=0, greedy=True)
        played = finished(play(self.loaded.engine.sample, self.loaded.task, asked, assignments, adapters, how))
        return tuple(Text(u.role, u.candidate, u.sampled.text) for u in played[0][0].completions)

    def export(self, questions: Questions, out: str | Path) -> Exported:
        """Write OUT/QUESTION/CANDIDATE/, a PEFT adapter each, and OUT/routes.jsonl with the assignments. An endpoint
        has none. QUESTION is the question's id with what a folder's name may not have as %XX.

        Raises:
            ConfigError: a run without adapters; two questions of one id.
        """
        from haps_search.candidates.sources import model_name
        from haps_search.lora.peft import export_adapter

        asked, folder = asked_questions(questions), Path(out)
        twice = [name for name, count in Counter(q.id for q in asked).items() if count > 1]
        if twice:
            raise ConfigError(f"questions: a folder each is named by its id, got {twice[0]!r} twice")
        adapters = self.loaded.adapters(asked)
        if not adapters:
            raise ConfigError("routing.low_level: none: this run has no adapters; `haps route` writes its assignments")
        self.route(asked).write(folder / "routes.jsonl")
        sources = {c.name: c.source for c in self.experiment.candidates}
        for (index, name), adapter in adapters.items():
            source = sources[name]
            assert not isinstance(source, TableSource | EndpointSource), "they take no adapter"
            base, revision = model_name(name, source), getattr(source, "revision", None)
            export_adapter(adapter, folder / _folder_name(asked[index].id) / name, base, revision)
        return Exported(folder, len(adapters))

    def export_static(self, out: str | Path, form: Form = "peft") -> ExportedStatic:
        """As `verbs.export_static.export_static` of this run."""
        from haps_search.verbs.export_static import export_static

        return export_static(self, out, form)

    def evaluate(
        self, split: Held = "validation", again: bool = False, report: Report = silent
    ) -> Evaluation | TableOnSplit | Judged | JudgedByLog:
        """As `haps_search.evaluate` of this run."""
        return evaluate(self.name, split, again, self.runs, report, profile=self.profile)


def load_run(name: str, runs: str | Path = "runs", profile: str | None = None, report: Report = silent) -> Run:
    """The best trial of a sweep, NAME/NUMBER, a single run, or any run's folder; with a `profile` on its cluster.
    Raises ConfigError with near names."""
    found = find_run(runs, name)
    return Run(name, found.folder, found.experiment, runs, profile, report)


def _folder_name(id: str) -> str:
    """Of one folder, wherever an id would lead; told apart by a digest where it is longer than names may be."""
    name = quote(id, safe=" ", errors="surrogatepass")
    name = name if name.strip(".") else name.replace(".", "%2E") or "%00"
    return (
        name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 17]}-{sha256(name.encode()).hexdigest()[:16]}"
    )


def asked_questions(questions: Questions) -> list[Question]:
    """Texts become questions named by their places. Raises ConfigError without any."""
    if isinstance(questions, str):
        raise ConfigError(f"questions: needs a list of texts or questions, got one text; write [{questions!r}]")
    found = [_question(each, place) for place, each in enumerate(questions, start=1)]
    if not found:
        raise ConfigError("questions: needs one at least, got none")
    return found


def _question(given: str | Question, place: int) -> Question:
    return Question(f"line-{place}", given, "") if isinstance(given, str) else given
