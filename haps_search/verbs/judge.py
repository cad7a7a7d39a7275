"""Judge a replay: references tuned and fitted, checkpoints read, files written."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from haps_search.config.load import load_table, parse_table
from haps_search.config.references import ReferencesConfig
from haps_search.config.run import Experiment
from haps_search.evaluation.replay.asked import Asked, JudgedOn, asked, measured
from haps_search.evaluation.replay.contents import contents
from haps_search.evaluation.replay.judgement import Judgement, judge
from haps_search.records.readings import note_reading
from haps_search.records.remote import dropped, pushed
from haps_search.records.sealed import replace_text
from haps_search.report.source import read_stored
from haps_search.tasks.build import build_task
from haps_search.tasks.held_out import Held, reported
from haps_search.tasks.tables.reading import read_table
from haps_search.verbs.events import Report, saying, silent
from haps_search.verbs.find import runs_folder
from haps_search.verbs.frames import frame, interval, page
from haps_search.verbs.subject import Chosen, Subject, chosen_settings, find_subject, routers

if TYPE_CHECKING:
    from pandas import DataFrame

FILES = ("references.json", "curve.json", "tasks.json", "calibration.json")
BESIDE = "validation-"


@dataclass(frozen=True)
class Judged:
    """A searched router beside all references on one split. `notes` is what a reader has to know, `files` what was
    kept in `folder`; `beside` a test result that stays as it is."""

    name: str
    folder: Path
    judgement: Judgement
    notes: tuple[str, ...]
    files: tuple[str, ...]

    @property
    def beside(self) -> bool:
        return self.files[0] != FILES[0]

    @property
    def rows(self) -> DataFrame:
        """A row per method: reward and the router's paired difference to it, with 95 % intervals."""
        found = [
            {"": r.label, **interval("reward", r.reward), **interval("difference", r.difference)}
            for r in self.judgement.rows
        ]
        return frame(found, "")

    def _repr_html_(self) -> str:
        sentences = " ".join(html.escape(verdict.sentence) for verdict in self.judgement.verdicts)
        return page(f"{self.name}, {self.judgement.split} split", {"methods": self.rows}) + f"<p>{sentences}</p>"


def judge_replay(
    name: str, split: Held, again: bool, runs: str | Path, report: Report = silent, other: Path | None = None
) -> Judged:
    """A sweep or run on a split of its own outcome table, the test split read once; or on all of an `other` table with
    the same models.

    Raises:
        ConfigError: no such sweep or run, none with a result, or the test split was read before.
        CheckpointError: a run without a checkpoint.
    """
    subject = find_subject(runs_folder(runs), name)
    if other is None:
        judgement, notes = judged(subject, split, again, saying(report))
    else:
        judgement, notes = judged_on_other(subject, other, saying(report))
    return Judged(subject.name, subject.folder, judgement, tuple(notes), tuple(keep(subject.folder, judgement)))


def judged(subject: Subject, split: Held, again: bool, say: Callable[[str], None]) -> tuple[Judgement, list[str]]:
    """The judgement, and what a reader has to know of it, a line each."""
    chosen = chosen_settings(subject)
    notes = _notes(subject, split, chosen)
    if split == "test":
        earlier = note_reading(subject.readings, f"{subject.name}, {len(chosen.settings)} settings", again)
        notes += [f"the test split was read {len(earlier)} times before, first on {e.when}" for e in earlier[:1]]
    questions = asked(subject.experiment, _inputs(chosen), split)
    if split == "validation":
        own = {q.id for q in reported(build_task(subject.experiment.task), subject.experiment, split)}
        questions = [each.only(own) for each in questions]
    if questions[0].left_out:
        notes.append(f"{questions[0].left_out:,} {split} questions that no candidate answered are left out")
    return _judgement(subject, chosen, questions, split, split, say), notes


def judged_on_other(subject: Subject, table: Path, say: Callable[[str], None]) -> tuple[Judgement, list[str]]:
    """The judgement on another table (a file, or a YAML that describes one), and what a reader has to know of it.

    Raises:
        ConfigError: no such table, or one without some of the subject's candidates. DataError: malformed rows, or no
            question that can be asked.
    """
    chosen = chosen_settings(subject)
    described = load_table(table) if table.suffix in (".yaml", ".yml") else parse_table({"file": str(table), **_GAPS})
    questions = asked(subject.experiment, _inputs(chosen), "other", read_table(described))
    first, notes = questions[0], _notes(subject, "other", chosen)
    if first.known:
        notes.append(f"{first.known:,} questions whose text stands in the run's own table are left out")
    if first.left_out:
        notes.append(f"{first.left_out:,} questions that no candidate answered are left out")
    return _judgement(subject, chosen, questions, "other", Path(described.name).name, say), notes


_GAPS = {"missing": "keep"}


def _inputs(chosen: Chosen) -> list[Experiment]:
    return [setting.searched.experiment for setting in chosen.settings]


def _judgement(
    subject: Subject,
    chosen: Chosen,
    questions: Sequence[Asked],
    split: JudgedOn,
    label: str,
    say: Callable[[str], None],
) -> Judgement:
    """`label` is what the questions are called."""
    say(f"tuning references on {len(questions[0].train):,} questions, under {len(questions)} kinds of features")
    found = measured(questions, ReferencesConfig())
    say(f"reading {len(questions[0].test):,} {label} questions with the checkpoints of {len(chosen.settings)} settings")
    policies = routers(subject, split, questions[0].questions, chosen.settings)
    names = [candidate.name for candidate in subject.experiment.candidates]
    earned = {} if chosen.validation is None else {next(iter(policies)): chosen.validation}
    return judge(policies, found, questions[0].train, questions[0].test, names, label, earned)


def keep(folder: Path, judgement: Judgement) -> list[str]:
    """Write the files, to the object store too where there is one; what an earlier judgement left and this one has
    not goes. Returns their names.

    A result on the test split is there once: beside it, files of validation begin with `validation-`.

    Raises:
        DataError: a damaged references.json. PoolError: the store does not take them.
    """
    found = contents(judgement)
    kept = read_stored(folder / "references.json")
    tested = kept is not None and kept.content.get("split") == "test"
    prefix = BESIDE if tested and judgement.split == "validation" else ""
    if judgement.split not in ("validation", "test"):
        prefix = f"{re.sub(r'[^A-Za-z0-9._-]', '-', judgement.split)}-"
    for name in FILES:
        file = folder / f"{prefix}{name}"
        if name in found:
            replace_text(file, json.dumps(found[name], indent=1, allow_nan=False))
            pushed(file)
        else:
            dropped(file)
    return [f"{prefix}{name}" for name in found]


def _notes(subject: Subject, split: JudgedOn, chosen: Chosen) -> list[str]:
    settings, labels = chosen.settings, ", ".join(setting.label for setting in chosen.settings)
    over = f" (chosen on {chosen.folds} folds)" if chosen.validation is not None else ""
    notes = [f"the router is the mean over {len(settings)} settings: {labels}{over}"]
    if split == "validation" and subject.experiment.run.validation.choosing_share >= 1:
        return [*notes, "the router was chosen on these questions, references were not: its row is flattered"]
    if split == "validation":
        return notes
    alone = [setting.label for setting in settings if not setting.confirmed]
    if alone and subject.folds > 1 and len(subject.settings) + len(subject.settings[0].confirmed) > 1:
        notes.append(
            f"{', '.join(alone)}: one checkpoint, trained without its validation fold; `haps confirm {subject.name} "
            f"--top {len(settings)} --seeds 5` trains on every fold, 25 seeds give five independent ensembles"
        )
    return notes
