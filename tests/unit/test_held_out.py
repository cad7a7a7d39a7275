"""Questions that choose and questions that are reported on are never the same, and none moves between them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from made import NumberTask, question
from replays import replay_experiment, skilled
from sweeps import DESCRIBED, a_study

from haps_search.config import tasks as config
from haps_search.config.checks import SHARE
from haps_search.config.load import dump, fingerprint, make_study
from haps_search.config.run import Experiment
from haps_search.config.stored import as_stored
from haps_search.errors import ConfigError
from haps_search.search.loop import validated
from haps_search.sweep.events import SweepStarted, TrialSuggested, encode
from haps_search.sweep.journal import Journal, open_sweep
from haps_search.sweep.settings import QUESTIONS, experiment_of
from haps_search.sweep.space import apply
from haps_search.tasks.build import build_task
from haps_search.tasks.held_out import choosing, halved, reported, what_it_costs
from haps_search.tasks.qa import QaTask
from haps_search.tasks.skills import SkillsTask
from haps_search.types import Question
from haps_search.verbs import sweep as verb
from haps_search.verbs.events import Event, Said

MANY = [question(text=f"what is {n}?") for n in range(2000)]


def texts(questions: list[Question]) -> set[str]:
    return {q.text for q in questions}


@pytest.mark.parametrize("share", [0.1, 0.5, 0.8])
def test_about_the_share_chooses_and_the_others_are_reported_on(share: float) -> None:
    first, rest = halved(MANY, share)
    assert not texts(first) & texts(rest)
    assert len(first) + len(rest) == len(MANY)
    assert len(first) / len(MANY) == pytest.approx(share, abs=0.04)


def test_no_question_moves_when_others_come_or_go() -> None:
    whole = texts(halved(MANY, 0.5)[0])
    few = texts(halved(MANY[::7], 0.5)[0])
    assert few == whole & texts(MANY[::7])


def test_questions_that_say_the_same_stay_together_and_contexts_tell_others_apart() -> None:
    twins = [question(text=t) for n in range(200) for t in (f"What is the {n}?", f"what is {n}")]
    first, rest = halved(twins, 0.5)
    assert len(first) % 2 == len(rest) % 2 == 0
    one_text = [Question(str(n), "is it true?", "yes", context=f"claim {n}") for n in range(400)]
    assert len(halved(one_text, 0.5)[0]) == pytest.approx(200, abs=40)


@pytest.mark.parametrize("count", [2, 3, 4, 5])
@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
def test_of_few_questions_one_at_least_is_on_each_side(count: int, share: float) -> None:
    first, rest = halved(MANY[:count], share)
    assert first
    assert rest
    assert not texts(first) & texts(rest)


def test_share_one_and_a_single_question_do_both() -> None:
    assert halved(MANY, 1.0) == (MANY, MANY)
    assert halved(MANY[:1], 0.5) == (MANY[:1], MANY[:1])
    assert halved([], 0.5) == ([], [])


def test_a_run_validates_on_what_chooses_and_tables_report_on_the_rest() -> None:
    experiment = a_study().experiment
    task = build_task(experiment.task)
    own, rest = texts(list(validated(task, experiment))), texts(reported(task, experiment, "validation"))
    assert len(own) == experiment.run.validation.questions
    assert own <= texts(choosing(task, experiment))
    assert not texts(choosing(task, experiment)) & rest
    assert len(reported(task, experiment, "test")) == 2000


def test_a_replay_is_parted_too(tmp_path: Path) -> None:
    experiment = replay_experiment(skilled(tmp_path / "table.jsonl"))
    task = build_task(experiment.task)
    assert not texts(list(validated(task, experiment))) & texts(reported(task, experiment, "validation"))


def test_what_it_costs_a_small_set_is_said_in_its_own_numbers() -> None:
    experiment = a_study(experiment={"run": {"validation": {"choosing_share": 0.5}}}).experiment
    task = build_task(experiment.task)
    said = what_it_costs(task, experiment)
    count = len(reported(task, experiment, "validation"))
    assert f"the other {count}: a mean of zeros and ones to ±{0.98 / count**0.5:.3f} at worst (±0.031 on" in said
    whole = a_study(experiment={"run": {"validation": {"choosing_share": 1.0}}}).experiment
    assert "flattered" in what_it_costs(task, whole)
    assert "too few" in what_it_costs(_One(), experiment)


class _One(NumberTask):
    def questions(self, split: str) -> list[Question]:  # type: ignore[override]
        return MANY[:1]


def test_trials_and_arms_cannot_choose_their_questions() -> None:
    for described in (
        {"space": {SHARE: {"type": "choice", "values": [0.5, 1.0]}}},
        {"arms": {"a": {}, "b": {SHARE: 1.0}}},
    ):
        with pytest.raises(ConfigError, match="chosen and measured on the same questions"):
            make_study({**DESCRIBED, **described})


# What was begun before.


def _early(folder: Path) -> Journal:
    values = dump(a_study())
    for name in QUESTIONS:
        del values["experiment"]["run"]["validation"][name]
    started = encode(SweepStarted(values, fingerprint(a_study()), "0.1", 1.0, format=2))
    trial = encode(TrialSuggested(0, {"run.validation": {"every": 5}}, 3))
    folder.mkdir(exist_ok=True)
    (folder / "journal.jsonl").write_text(f"{started}\n{trial}\n")
    return Journal(folder)


def test_a_sweep_from_before_chooses_and_reports_on_all_as_it_did(tmp_path: Path) -> None:
    journal = _early(tmp_path / "old")
    study = journal.study()
    assert study.experiment.run.validation.choosing_share == 1.0
    assert study.experiment.run.validation.drawn == "first"
    (trial,) = journal.trials()
    assert experiment_of(study, trial).run.validation.choosing_share == 1.0
    assert experiment_of(study, trial).run.validation.drawn == "first"
    assert journal.started() == next(iter(Journal(tmp_path / "old").events()))


def test_the_same_file_goes_on_with_what_the_sweep_was_begun_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _early(tmp_path / "old")
    driven: list[float] = []
    monkeypatch.setattr(verb, "_drive", lambda study, *_: driven.append(_share(study)))
    events: list[Event] = []
    verb.sweep(a_study(), "old", tmp_path, events.append)
    verb.sweep(a_study(), "new", tmp_path, events.append)
    assert driven == [1.0, 0.5]
    assert events == [
        Said("old keeps run.validation.choosing_share: 1.0, with which it was begun, not 0.5"),
        Said("old keeps run.validation.drawn: first, with which it was begun, not hash"),
    ]
    begun = Journal(tmp_path / "old").study().experiment
    open_sweep(tmp_path / "old", verb.with_questions_of(a_study(), begun), resume=False).close()
    assert _share(Journal(tmp_path / "old").study()) == 1.0
    assert Journal(tmp_path / "old").study().experiment.run.validation.drawn == "first"


def test_a_sweep_from_before_questions_were_drawn_is_validated_on_the_first(tmp_path: Path) -> None:
    values = dump(a_study())
    del values["experiment"]["run"]["validation"]["drawn"]
    started = encode(SweepStarted(values, fingerprint(a_study()), "0.1", 1.0, format=3))
    (tmp_path / "journal.jsonl").write_text(f"{started}\n")
    validation = Journal(tmp_path).study().experiment.run.validation
    assert (validation.drawn, validation.choosing_share) == ("first", 0.5)


def test_a_file_sorted_by_task_is_validated_on_all_tasks() -> None:
    """The first of those that choose would be of one task."""
    experiment = a_study(experiment={"run": {"validation": {"questions": 40}}}).experiment
    tasks = {name: _Sorted().tasks_of(validated(_Sorted(), e)) for name, e in _each_drawn(experiment).items()}
    assert tasks["first"] == {"a": 40}
    assert min(tasks["hash"][name] for name in "abcd") >= 3
    assert sum(tasks["hash"].values()) == 40


def _each_drawn(experiment: Experiment) -> dict[str, Experiment]:
    return {name: apply(experiment, {"run.validation.drawn": name}) for name in ("first", "hash")}


class _Sorted(NumberTask):
    """A hundred questions of each of four tasks, one task after the other."""

    def questions(self, split: str) -> list[Question]:  # type: ignore[override]
        return [Question(f"{split}-{name}-{i}", f"{name} {i}?", "") for name in "abcd" for i in range(100)]

    def tasks_of(self, questions: Sequence[Question]) -> Counter[str]:
        return Counter(question.id.split("-")[1] for question in questions)


def _share(study: object) -> float:
    return study.experiment.run.validation.choosing_share  # type: ignore[attr-defined, no-any-return]


def test_a_stored_run_from_before_is_read_so() -> None:
    values = json.loads(a_study().experiment.model_dump_json())
    del values["run"]["validation"]["choosing_share"]
    assert as_stored(values)["run"]["validation"]["choosing_share"] == 1.0
    assert as_stored({**values, "run": {}})["run"]["validation"]["drawn"] == "first"
    values["run"]["validation"]["choosing_share"] = 0.25
    assert as_stored(values)["run"]["validation"]["choosing_share"] == 0.25


def test_skills_needs_no_halves_of_its_own() -> None:
    task = SkillsTask(a_study().experiment.task)  # type: ignore[arg-type]
    first, rest = halved(list(task.questions("validation")), 0.5)
    assert {q.attributes["skill"] for q in first} == {q.attributes["skill"] for q in rest}


def test_leaks_are_looked_for_between_all_splits(tmp_path: Path) -> None:
    asked = {"train": ["a b", "c d", "e f"], "validation": ["A b?", "g h"], "test": ["e f", "g  h", "The g h", "i j"]}
    for split, found in asked.items():
        lines = [{"id": str(n), "question": text, "answer": "x"} for n, text in enumerate(found)]
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    described = {split: str(tmp_path / f"{split}.jsonl") for split in asked} | {"fields": {"reference": "answer"}}
    said = [line for line in QaTask(config.QaTask(**described)).remarks() if "stand in" in line]  # type: ignore[arg-type]
    assert said == [
        "warning: 1 validation questions stand in train too; rewards there will flatter",
        "warning: 1 test questions stand in train too; rewards there will flatter",
        "warning: 2 test questions stand in validation too; rewards there will flatter",
    ]
