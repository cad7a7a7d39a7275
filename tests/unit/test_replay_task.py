"""Task replay: who validates, what is tested, and what a row of the table teaches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from replays import MODELS, replay_experiment, row, skilled, write_table
from sweeps import a_trial

from haps_search.candidates.table import TableCandidate
from haps_search.config.load import parse_study
from haps_search.config.tables import TableConfig
from haps_search.config.tasks import ReplayTask as ReplayConfig
from haps_search.errors import CandidateError, ConfigError, DataError
from haps_search.learning.utility import utility
from haps_search.sweep.opponents import opponents
from haps_search.sweep.settings import confirmations
from haps_search.tasks.outcomes import OutcomeTable
from haps_search.tasks.replay import EMPTY, TEST, ReplayTask, candidate_names, partition
from haps_search.tasks.split_key import split_key
from haps_search.tasks.task import answerable
from haps_search.types import Adapter, AdapterLayout, Episode, Message, SampleRequest, Sampling, Split
from haps_search.verbs.driver import read_task

SPLITS: tuple[Split, ...] = ("train", "validation", "test")


def a_task(file: Path, **fields: Any) -> ReplayTask:
    return ReplayTask(ReplayConfig(table=TableConfig(file=str(file), missing="keep"), **fields))


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return skilled(tmp_path_factory.mktemp("replay") / "table.jsonl")


def test_every_question_is_in_one_split_and_folds_take_turns(table: Path) -> None:
    tasks = [a_task(table, fold=fold) for fold in range(5)]
    for task in tasks:
        ids = [q.id for split in SPLITS for q in task.questions(split)]
        assert sorted(ids) == sorted(q.id for q in task.table.questions)
        assert [q.id for q in task.questions("test")] == [q.id for q in tasks[0].questions("test")]
    validated = [q.id for task in tasks for q in task.questions("validation")]
    rest = [q.id for split in SPLITS[:2] for q in tasks[0].questions(split)]
    assert sorted(validated) == sorted(rest), "the folds are not a partition of what is not tested"


def test_duplicates_stay_together_and_new_rows_move_no_old_one(tmp_path: Path) -> None:
    texts = [f"how many {i} are there" for i in range(200)]
    twins = [f"How MANY {i} are there?!" for i in range(200)]
    assert split_key(texts[3]) == split_key(twins[3])
    rows = [row(f"{k}{i}", t, {"a": 1, "b": 0}) for k, part in enumerate((texts, twins)) for i, t in enumerate(part)]
    whole = a_task(write_table(tmp_path / "twice.jsonl", rows))
    once = a_task(write_table(tmp_path / "once.jsonl", rows[200:]))
    np.testing.assert_array_equal(whole.part[:200], whole.part[200:])
    np.testing.assert_array_equal(whole.part[200:], once.part)
    assert {TEST, 0, 1, 2, 3, 4} == set(whole.part)


def test_rows_without_a_score_are_left_out_and_gaps_are_counted(tmp_path: Path) -> None:
    rows = [row(f"q{i}", f"text {i}", {"a": 1.0, "b": 0.5}) for i in range(60)]
    rows += [row("empty", "nobody knows", {"a": None, "b": None}), row("gap", "half known", {"a": 0.5, "b": None})]
    task = a_task(write_table(tmp_path / "gaps.jsonl", rows))
    assert task.part[60] == EMPTY
    assert "empty" not in {q.id for split in SPLITS for q in task.questions(split)}
    said = "\n".join(task.remarks())
    assert "warning: 1 questions without any score left out" in said
    assert "warning: 1 missing cells" in said


def test_too_few_questions_are_refused(tmp_path: Path) -> None:
    file = write_table(tmp_path / "few.jsonl", [row("q", "one text", {"a": 1, "b": 0})])
    with pytest.raises(DataError, match=r"few\.jsonl: 1 questions leave none for"):
        a_task(file).remarks()


def test_a_fold_that_is_not_there_is_refused(table: Path) -> None:
    with pytest.raises(ValidationError, match="got 5, needs 0 to 4"):
        a_task(table, fold=5)


def test_the_task_name_stands_before_the_text_where_it_is_wanted(tmp_path: Path) -> None:
    rows = [row(f"q{i}", f"text {i}", {"a": 1, "b": 0}, task="sums") for i in range(40)]
    file = write_table(tmp_path / "named.jsonl", rows)
    plain, named = (a_task(file, task_name=wanted).questions("train")[0] for wanted in (False, True))
    assert named.text == f"Task: sums\n\n{plain.text}"
    assert named.attributes["task"] == plain.attributes["task"] == "sums"


def test_what_rows_teach_by_hand(tmp_path: Path) -> None:
    """Task means and the unit of cost come from training rows alone."""
    rows = [
        row(f"{kind}{i}", f"{kind} number {i}", {"a": a, "b": b}, task=kind, cost={"a": 1.0, "b": 3.0})
        for kind, a, b in (("x", 0.25, None), ("y", 0.5, 1.0))
        for i in range(60)
    ]
    file = write_table(tmp_path / "taught.jsonl", rows)
    held_out = [q.id for split in SPLITS[1:] for q in a_task(file).questions(split)]
    # Where no training row is looked at, other numbers stand: they must not show.
    spoiled = [{**r, "scores": {"a": 1.0, "b": 0.0}, "cost": {"a": 9.0, "b": 9.0}} for r in rows if r["id"] in held_out]
    task = a_task(write_table(tmp_path / "spoiled.jsonl", [r for r in rows if r["id"] not in held_out] + spoiled))
    known = task.outcomes([q for q in task.questions("train") if q.id in ("x1", "y1", "x2", "y2")], ["b", "a"])
    expected = {"x": ([np.nan, 0.25], [1.0, 0.25]), "y": ([1.0, 0.5], [1.0, 0.5])}
    asked = [q.id[0] for q in task.questions("train") if q.id in ("x1", "y1", "x2", "y2")]
    np.testing.assert_allclose(known.rewards, [expected[k][0] for k in asked])
    np.testing.assert_allclose(known.task_means, [expected[k][1] for k in asked])
    assert known.costs is not None
    assert task.cost_unit == 3.0
    np.testing.assert_allclose(known.costs[asked.index("y")], [1.0, 1 / 3], rtol=1e-6)


def test_names_that_candidates_may_not_have_are_written_otherwise() -> None:
    def named(*models: str) -> OutcomeTable:
        cells = np.zeros((0, len(models)))
        return OutcomeTable((), (), (), tuple((m,) for m in models), cells.astype(np.float32), cells.astype(np.int32))

    assert candidate_names(named("lab/model 7b", "other")) == ("lab-model-7b", "other")
    with pytest.raises(ConfigError, match="`a/b` and `a b` are both named a-b"):
        candidate_names(named("a/b", "a b"))


def test_a_candidate_looks_its_answer_up(table: Path) -> None:
    task = a_task(table)
    candidate = TableCandidate.of("reverser", task)
    asked = Sampling(1, 0.0)
    requests = [SampleRequest((Message("user", id),), asked) for id in ("q1", "q2", "q4")]
    assert [r.text for r in candidate.sample(requests)] == ["1.0", "0.0", "1.0"]
    assert candidate.table.modules == ()
    with pytest.raises(CandidateError, match="no question `q9999`"):
        candidate.sample([SampleRequest((Message("user", "q9999"),), asked)])
    adapter: Any = Adapter(AdapterLayout(1, 1.0, ()), None)  # type: ignore[arg-type]
    with pytest.raises(CandidateError, match="takes no adapter"):
        candidate.sample([SampleRequest((Message("user", "q1"),), asked, adapter)])


def test_a_missing_cell_is_never_an_answer(tmp_path: Path) -> None:
    rows = [row(f"q{i}", f"text {i}", {"a": 1.0, "b": None if i == 3 else 0.5}) for i in range(40)]
    task = a_task(write_table(tmp_path / "gap.jsonl", rows))
    with pytest.raises(CandidateError, match=r"no score of it on question `q3`: set learning\.signal: outcomes"):
        TableCandidate.of("b", task).sample([SampleRequest((Message("user", "q3"),), Sampling(1, 0.0))])


def test_a_misspelt_model_is_found_before_anything_starts(table: Path) -> None:
    with pytest.raises(ConfigError, match=r"no model `revrser` \(did you mean reverser\?\)"):
        read_task(replay_experiment(table, ("adder", "revrser")))
    assert "questions (fold 0)" in read_task(replay_experiment(table))[0]


def test_cost_that_weighs_needs_costs(table: Path) -> None:
    with pytest.raises(ConfigError, match="it has no costs"):
        read_task(replay_experiment(table, learning__cost_weight=0.5))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"task": {"type": "skills"}}, "adder is a model of a table"),
        ({"candidates": [{"name": "adder", "source": {"type": "zoo", "name": "adder"}}]}, "task replay asks nobody"),
        ({"routing__low_level": {"type": "generated"}}, "take no weights"),
        ({"learning__signal": "rollouts", "learning__task_smoothing": 0.5}, "task_smoothing: works on whole rows"),
        ({"learning__signal": "rollouts", "routing__backbone__dropout": 0.5}, "dropout: works on whole rows"),
        ({"learning__signal": "rollouts", "learning__cost_weight": 0.5}, "cost_weight: got 0.5.*signal: outcomes"),
        ({"routing__prompt": "full", "routing__backbone__features": [{"type": "heading"}]}, "use prompt: question"),
        ({"routing__prompt": "full", "routing__backbone__features": [{"type": "encoder"}]}, "use prompt: question"),
        ({"routing__backbone": {}, "learning__cost_conditioned": {"low": 0.1, "high": 1}}, "reads the weight of cost"),
        ({"routing__high_level": {"type": "lm"}}, "asks an LM, got backbone type features"),
        ({"learning__cost_conditioned": {"low": 1, "high": 1}}, "needs more than low"),
    ],
)
def test_what_does_not_go_together_is_refused(table: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        replay_experiment(table, **changes)


def test_whole_texts_may_be_read_from_the_full_prompt(table: Path) -> None:
    assert replay_experiment(table, routing__prompt="full").routing.prompt == "full"


def test_questions_that_no_candidate_answered_are_left_out_and_counted(tmp_path: Path) -> None:
    rows = [row(f"q{i}", f"text {i}", {"a": 1.0, "b": None if i else 0.5, "c": 0.5}) for i in range(60)]
    rows += [row(f"c{i}", f"only c knows {i}", {"a": None, "b": None, "c": 1.0}) for i in range(40)]
    file = write_table(tmp_path / "wide.jsonl", rows)
    task = a_task(file)
    for split in SPLITS:
        asked = [q.id for q in task.questions(split)]
        assert [q.id for q in answerable(task, split, ["a", "b"])] == [id for id in asked if id.startswith("q")]
        assert [q.id for q in answerable(task, split, ["b", "c"])] == asked
    without = next(split for split in SPLITS if "q0" not in {q.id for q in task.questions(split)})
    with pytest.raises(DataError, match=r"wide\.jsonl: none of .* questions has a score of b"):
        answerable(task, without, ["b"])
    lacks = {s: sum(q.id.startswith("c") for q in task.questions(s)) for s in SPLITS}
    counted = f"{lacks['train']} train, {lacks['validation']} validation questions that no candidate answered"
    assert any(counted in line for line in read_task(replay_experiment(file, ("a", "b"))))
    assert not any("no candidate" in line for line in read_task(replay_experiment(file, ("a", "c"))))


def test_a_missing_cost_is_the_models_mean_over_training_questions(tmp_path: Path) -> None:
    """Of every fourth question nobody noted what b cost; of c nobody ever did, so it counts as the dearest."""
    rows = [
        row(f"q{i}", f"text {i}", {"a": 1.0, "b": 0.5, "c": 0.0}, cost={"a": 4.0} | ({"b": 1.0} if i % 4 else {}))
        for i in range(80)
    ]
    task = a_task(write_table(tmp_path / "unpaid.jsonl", rows))
    questions = task.questions("validation")
    known = task.outcomes(questions, ["c", "b", "a"])
    assert known.costs is not None
    np.testing.assert_allclose(known.costs, [[1.0, 0.25, 1.0]] * len(questions))
    np.testing.assert_allclose(utility(known, np.ones(len(questions))), [[-1.0, 0.25, 0.0]] * len(questions))
    gap = next(q for q in questions if int(q.id[1:]) % 4 == 0)
    assert [task.measures(Episode(gap, (model,))) for model in "abc"] == [{"cost": c} for c in (4.0, 1.0, 4.0)]
    assert "warning: 100 missing costs: taken at the model's mean cost over training questions" in task.remarks()


def test_outcomes_need_a_table() -> None:
    described = {
        "task": {"type": "skills"}, "learning": {"signal": "outcomes"},
        "candidates": [{"name": m, "source": {"type": "zoo", "name": m}} for m in MODELS],
    }  # fmt: skip
    with pytest.raises(ValidationError, match="outcomes needs task type replay"):
        type(replay_experiment(Path("x"))).model_validate(described)


def test_the_split_is_a_function_of_text_salt_and_fraction_alone(table: Path) -> None:
    task = a_task(table)
    again = partition(task.config, task.table)
    np.testing.assert_array_equal(task.part, again)
    assert abs((again == TEST).mean() - 0.2) < 0.06


def test_confirming_goes_through_the_other_folds_and_comes_to_the_searched_one_last(table: Path) -> None:
    described = replay_experiment(table, task__fold=3, engine={"type": "ray"}).model_dump(mode="json")
    study = parse_study({"name": "replayed", "experiment": described})
    best = a_trial(0, 0.5, parameters={"learning.weight_decay": 0.1})
    settings = confirmations(study, [best], top=1, seeds=6)
    assert [s.parameters["task.fold"] for s in settings] == [4, 0, 1, 2, 3, 4]
    assert {s.parameters["learning.weight_decay"] for s in settings} == {0.1}
    assert opponents(study, best) == {}, "no model of a table takes an adapter"
