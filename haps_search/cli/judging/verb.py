"""Judge a replay: references tuned and fitted, checkpoints read, files written, the table printed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from haps_search.cli.display import wide_console
from haps_search.cli.judging.page import page
from haps_search.cli.judging.routers import Chosen, chosen_settings, routers
from haps_search.cli.judging.subject import Subject, find_subject
from haps_search.config.load import load_table, parse_table
from haps_search.config.references import ReferencesConfig
from haps_search.config.run import Experiment
from haps_search.errors import ConfigError
from haps_search.evaluation.replay.asked import Asked, Held, Judged, ask, ask_other, featurise, measured, read_features
from haps_search.evaluation.replay.contents import contents
from haps_search.evaluation.replay.judgement import Judgement, judge
from haps_search.records.readings import note_reading
from haps_search.records.remote import dropped, pushed, storage
from haps_search.records.sealed import replace_text
from haps_search.report.source import read_stored
from haps_search.routing.features.embeddings import features_cache
from haps_search.tasks.build import build_task
from haps_search.tasks.outcomes import OutcomeTable
from haps_search.tasks.replay import ReplayTask
from haps_search.tasks.tables.reading import read_table

FILES = ("references.json", "curve.json", "tasks.json", "calibration.json")
BESIDE = "validation-"
Say = Callable[[str], None]


def judge_replay(runs: Path, text: str, split: Held, again: bool, other: Path | None = None) -> None:
    """`haps evaluate` on a replay: on a split of its own table, or on all of an `other` one with the same models.

    Raises:
        ConfigError: no such sweep or run, none with a result, or the test split was read before.
        CheckpointError: a run without a checkpoint.
    """
    console = wide_console()

    def say(line: str) -> None:
        console.print(line, highlight=False, soft_wrap=True)

    subject = find_subject(runs, text)
    if other is None:
        judgement, notes = judged(subject, split, again, say)
    else:
        judgement, notes = judged_on_other(subject, other, say)
    kept = keep(subject.folder, judgement)
    for part in page(judgement, notes):
        console.print(part, highlight=False, soft_wrap=isinstance(part, str))
    beside = kept[0] != FILES[0]
    shows = "the test result, which stays as it is" if beside else "them"
    say(f"kept in {storage(subject.folder)}: {', '.join(kept)}; `haps report {subject.name}` shows {shows}")


def judged(subject: Subject, split: Held, again: bool, say: Say) -> tuple[Judgement, list[str]]:
    """The judgement, and what a reader has to know of it, a line each."""
    chosen = chosen_settings(subject)
    notes = _notes(subject, split, chosen)
    if split == "test":
        earlier = note_reading(subject.readings, f"{subject.name}, {len(chosen.settings)} settings", again)
        notes += [f"the test split was read {len(earlier)} times before, first on {e.when}" for e in earlier[:1]]
    questions = asked(subject.experiment, _inputs(chosen), split)
    if questions[0].left_out:
        notes.append(f"{questions[0].left_out:,} {split} questions that no candidate answered are left out")
    return _judgement(subject, chosen, questions, split, split, say), notes


def judged_on_other(subject: Subject, table: Path, say: Say) -> tuple[Judgement, list[str]]:
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
    subject: Subject, chosen: Chosen, questions: Sequence[Asked], split: Judged, label: str, say: Say
) -> Judgement:
    """`label` is what the questions are called."""
    say(f"tuning references on {len(questions[0].train):,} questions, under {len(questions)} kinds of features")
    found = measured(questions, ReferencesConfig())
    say(f"reading {len(questions[0].test):,} {label} questions with the checkpoints of {len(chosen.settings)} settings")
    policies = routers(subject, split, questions[0].questions, chosen.settings)
    names = [candidate.name for candidate in subject.experiment.candidates]
    earned = {} if chosen.validation is None else {next(iter(policies)): chosen.validation}
    return judge(policies, found, questions[0].train, questions[0].test, names, label, earned)


def asked(
    base: Experiment, inputs: Sequence[Experiment], split: Judged, other: OutcomeTable | None = None
) -> list[Asked]:
    """The questions of a split, or of another table, once for each different way in which these experiments read
    them."""
    models = [candidate.name for candidate in base.candidates]
    found: dict[str, Asked] = {}
    for experiment in inputs:
        features, task = read_features(experiment.routing), build_task(experiment.task)
        if not isinstance(task, ReplayTask):
            raise ConfigError(f"task: got type {experiment.task.type}, and only replay is judged beside references")
        key = json.dumps([[f.model_dump(mode="json") for f in features], task.config.task_name])
        if key not in found:
            read = featurise(features, features_cache())
            if other is not None:
                found[key] = ask_other(task, models, other, read)
            elif split != "other":
                found[key] = ask(task, models, split, read)
    return list(found.values())


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


def _notes(subject: Subject, split: Judged, chosen: Chosen) -> list[str]:
    settings, labels = chosen.settings, ", ".join(setting.label for setting in chosen.settings)
    over = f" (chosen on {chosen.folds} folds)" if chosen.validation is not None else ""
    notes = [f"the router is the mean over {len(settings)} settings: {labels}{over}"]
    if split == "validation":
        return [*notes, "the router was chosen on these questions, references were not: its row is flattered"]
    alone = [setting.label for setting in settings if not setting.confirmed]
    if alone and subject.folds > 1 and len(subject.settings) + len(subject.settings[0].confirmed) > 1:
        notes.append(
            f"{', '.join(alone)}: one checkpoint, trained without its validation fold; `haps confirm {subject.name} "
            f"--top {len(settings)} --seeds 5` trains on every fold, 25 seeds give five independent ensembles"
        )
    return notes
