"""Spaces: what they must satisfy, what is drawn from them, and what a draw makes of an experiment."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
import pytest

from haps_search.config.load import load_study
from haps_search.config.sweep import Study
from haps_search.errors import ConfigError
from haps_search.sweep.space import apply, describe, grid, suggest

HEAD = """\
name: tiny
experiment:
  task: {type: skills}
  candidates:
    - {name: adder, source: {type: zoo, name: adder}}
    - {name: reverser, source: {type: zoo, name: reverser}}
space:
"""
CONDITIONAL = """\
  routing.low_level.hidden: {type: choice, values: [[8], [8, 8]], when: {routing.low_level.type: generated}}
  routing.low_level.init:
    {type: choice, values: [zero, xavier], when: {routing.low_level.type: [generated, static]}}
  routing.low_level.type: {type: choice, values: [none, static, generated]}
"""


def study(tmp_path: Path, space: str, *overrides: str) -> Study:
    file = tmp_path / "study.yaml"
    file.write_text(HEAD + space)
    return load_study(file, overrides)


def problems(tmp_path: Path, space: str, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        study(tmp_path, space, *overrides)
    return list(caught.value.problems)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "run.stepz: {type: int, low: 1, high: 3}",
            "space.run.stepz (line 8): no such path in experiment; did you mean run.steps?",
        ),
        (
            "experiment.run.steps: {type: int, low: 1, high: 3}",
            "space.experiment.run.steps (line 8): paths start inside experiment: write run.steps",
        ),
        (
            "run.steps: {type: int, low: 3, high: 1}",
            "space.run.steps.low (line 8): got low 3 and high 1, needs low < high",
        ),
        (
            "run.steps: {type: int, low: 1, high: 9, step: 3}",
            "space.run.steps.step (line 8): steps of 3 from 1 miss high 9: set high to 7",
        ),
        ("run.steps: {type: int, low: 0, high: 9}", "space.run.steps.low (line 8): got 0, needs more than 0"),
        (
            "run.steps: {type: float, low: 1, high: 9}",
            "space.run.steps.low (line 8): got 1.0, needs a whole number",
        ),
        (
            "learning.learning_rate.low: {type: log, low: 0, high: 1}",
            "space.learning.learning_rate.low.low (line 8): got 0, needs more than 0",
        ),
        (
            "run.steps: {type: integer, low: 1, high: 2}",
            'space.run.steps.type (line 8): got "integer", needs one of float, log, int, choice; did you mean int?',
        ),
        (
            "learning.advantage: {type: choice, values: [paper, leave_one_out, paper]}",
            'space.learning.advantage.values.2 (line 8): "paper" is listed twice',
        ),
        (
            "learning.advantage: {type: choice, values: [leave_one_out, papr]}",
            'space.learning.advantage.values.1 (line 8): got "papr", needs one of paper, leave_one_out, '
            "group_normalised; did you mean paper?",
        ),
        (
            "engine.type: {type: choice, values: [local, ray]}",
            "space.engine.type (line 8): all trials share one engine and its pool: set it in experiment.engine",
        ),
        (
            "run.seed: {type: int, low: 1, high: 2, when: {run.seed: 1}}",
            "space.run.seed (line 8): waits for itself, through run.seed",
        ),
    ],
)
def test_a_wrong_parameter_is_refused_with_the_way_out(tmp_path, line, expected):
    found = problems(tmp_path, f"  {line}\n")
    assert expected in found
    assert all(text.startswith("space.") for text in found)


@pytest.mark.parametrize(
    ("when", "expected"),
    [
        ("{run.sed: 1}", "when.run.sed (line 10): no such parameter in the space; did you mean run.seed?"),
        ("{run.seed: 9}", "when.run.seed (line 10): run.seed never takes 9; it takes 1 to 5 in steps of 2"),
        (
            "{run.seed: [1, 2]}",
            "when.run.seed (line 10): run.seed never takes 2; it takes 1 to 5 in steps of 2",
        ),
        (
            "{run.seed: true}",
            "when.run.seed (line 10): run.seed never takes true; it takes 1 to 5 in steps of 2",
        ),
        (
            "{learning.kl_weight: 1.0}",
            "when.learning.kl_weight (line 10): a float never equals a value: the parent must be a choice or an int",
        ),
    ],
)
def test_a_condition_must_be_able_to_hold(tmp_path, when, expected):
    space = (
        "  run.seed: {type: int, low: 1, high: 5, step: 2}\n"
        "  learning.kl_weight: {type: float, low: 0, high: 1}\n"
        f"  run.steps: {{type: int, low: 1, high: 5, when: {when}}}\n"
    )
    assert problems(tmp_path, space) == [f"space.run.steps.{expected}"]


def test_problems_of_the_space_and_of_the_experiment_come_together(tmp_path):
    space = "  run.stepz: {type: int, low: 1, high: 3}\n  run.seed: {type: int, low: 3, high: 1}\n"
    assert [p.split(":")[0] for p in problems(tmp_path, space, "sweep.sampler.type=grod")] == [
        "space.run.stepz (line 8)",
        "space.run.seed.low (line 9)",
        "sweep.sampler.type (--set)",
    ]


def test_a_field_that_only_one_variant_has_needs_its_condition(tmp_path):
    space = CONDITIONAL.replace(", when: {routing.low_level.type: generated}", "")
    found = problems(tmp_path, space)
    assert found[0].startswith("space (line 7): with routing.low_level.hidden=[8], routing.low_level.type=")
    assert "routing.low_level.hidden: unknown key" in found[0]
    wrong = CONDITIONAL.replace("[generated, static]", "[generated, none]")
    assert all(p.startswith("space.routing.low_level.init.values.") for p in problems(tmp_path, wrong))


def test_a_combination_that_breaks_a_rule_across_fields_is_found(tmp_path):
    space = (
        "  run.episodes_per_question: {type: choice, values: [1, 2]}\n"
        "  learning.advantage: {type: choice, values: [paper, leave_one_out]}\n"
    )
    (found,) = problems(tmp_path, space, "learning.advantage=paper")
    assert 'with run.episodes_per_question=1, learning.advantage="leave_one_out"' in found


def test_grid_refuses_floats_with_the_way_out(tmp_path):
    space = "  learning.kl_weight: {type: float, low: 0, high: 1}\n"
    assert problems(tmp_path, space, "sweep.sampler.type=grid") == [
        "space.learning.kl_weight.type (line 8): a grid cannot enumerate float: "
        "list values with type: choice, or set sweep.sampler.type to tpe or random"
    ]
    with pytest.raises(ConfigError, match="a grid cannot enumerate float"):
        grid(study(tmp_path, space).space)


def test_grid_counts_active_parameters_only_and_none_twice(tmp_path):
    points = list(grid(study(tmp_path, CONDITIONAL).space))
    kind, hidden, init = (f"routing.low_level.{n}" for n in ("type", "hidden", "init"))
    assert points == [
        {kind: "none"},
        {kind: "static", init: "zero"},
        {kind: "static", init: "xavier"},
        {kind: "generated", hidden: [8], init: "zero"},
        {kind: "generated", hidden: [8], init: "xavier"},
        {kind: "generated", hidden: [8, 8], init: "zero"},
        {kind: "generated", hidden: [8, 8], init: "xavier"},
    ]
    ints = "  run.seed: {type: int, low: 1, high: 5, step: 2}\n"
    assert [p["run.seed"] for p in grid(study(tmp_path, ints).space)] == [1, 3, 5]
    assert list(grid({})) == [{}]


def test_every_grid_point_makes_a_valid_experiment(tmp_path):
    one = study(tmp_path, CONDITIONAL)
    applied = [apply(one.experiment, p).routing.low_level for p in grid(one.space)]
    assert [a.type for a in applied] == ["none"] + ["static"] * 2 + ["generated"] * 4
    assert applied[3].model_dump()["hidden"] == (8,)
    assert applied[4].model_dump()["init"] == "xavier"


def test_apply_leaves_the_rest_alone_and_refuses_by_name(tmp_path):
    base = study(tmp_path, CONDITIONAL).experiment
    changed = apply(base, {"learning.learning_rate.low": 3e-3, "candidates.0.batch_rows": 8})
    assert changed.learning.learning_rate.low == 3e-3
    assert changed.candidates[0].batch_rows == 8
    assert base.candidates[0].batch_rows == 256
    assert apply(changed, {"learning.learning_rate.low": 1e-3, "candidates.0.batch_rows": 256}) == base
    with pytest.raises(ConfigError, match=r"trial with run.steps=0: run.steps: got 0, needs more than 0"):
        apply(base, {"run.steps": 0})
    with pytest.raises(ConfigError, match=r"did you mean run.steps\?"):
        apply(base, {"run.stepz": 1})


def test_apply_sets_wholes_before_their_parts(tmp_path):
    base = study(tmp_path, CONDITIONAL).experiment
    parameters = {
        "routing.low_level.hidden": [4],
        "routing.low_level": {"type": "generated", "init": "xavier"},
    }
    low = apply(base, parameters).routing.low_level.model_dump()
    assert (low["hidden"], low["init"]) == ((4,), "xavier")


class Scripted:
    """Takes the last choice and the upper end, and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        self.asked.append((name, low, high, log))
        return high

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1) -> int:
        self.asked.append((name, low, high, step))
        return high

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        self.asked.append((name, *choices))
        return choices[-1]


def test_suggest_asks_parents_first_and_decodes_lists(tmp_path):
    trial = Scripted()
    drawn = suggest(study(tmp_path, CONDITIONAL).space, trial)
    assert trial.asked == [
        ("routing.low_level.type", "none", "static", "generated"),
        ("routing.low_level.hidden", "[8]", "[8, 8]"),
        ("routing.low_level.init", "zero", "xavier"),
    ]
    assert drawn["routing.low_level.hidden"] == [8, 8]
    ranges = (
        "  learning.learning_rate.low: {type: log, low: 1e-4, high: 1e-2}\n"
        "  learning.kl_weight: {type: float, low: 0, high: 1}\n"
        "  run.seed: {type: int, low: 1, high: 5, step: 2}\n"
    )
    trial = Scripted()
    suggest(study(tmp_path, ranges).space, trial)
    assert trial.asked == [
        ("learning.learning_rate.low", 1e-4, 1e-2, True),
        ("learning.kl_weight", 0, 1, False),
        ("run.seed", 1, 5, 2),
    ]


def test_choices_that_python_holds_equal_stay_apart(tmp_path):
    space = study(tmp_path, "  routing.lora.layers: {type: choice, values: [all, [0], {last: 1}]}\n").space
    drawn = [suggest(space, _Fixed(i))["routing.lora.layers"] for i in range(3)]
    assert drawn == ["all", [0], {"last": 1}]
    mixed = {"x": space["routing.lora.layers"].model_copy(update={"values": (1, True, 1.0)})}
    assert [repr(suggest(mixed, _Fixed(i))["x"]) for i in range(3)] == ["1", "True", "1.0"]


class _Fixed(Scripted):
    def __init__(self, index: int) -> None:
        super().__init__()
        self.index = index

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        assert len(set(choices)) == len(choices)
        return choices[self.index]


def test_optuna_draws_from_every_kind_of_parameter(tmp_path):
    one = study(tmp_path, CONDITIONAL + "  learning.learning_rate.low: {type: log, low: 1e-4, high: 1e-2}\n")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    search = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0))
    kinds = set()
    for _ in range(30):
        trial = search.ask()
        drawn = suggest(one.space, trial)
        kinds.add(apply(one.experiment, drawn).routing.low_level.type)
        assert ("routing.low_level.hidden" in drawn) == (drawn["routing.low_level.type"] == "generated")
        search.tell(trial, random.Random(trial.number).random())
    assert kinds == {"none", "static", "generated"}


def test_describe_has_a_line_each_and_the_number_of_points(tmp_path):
    assert describe(study(tmp_path, CONDITIONAL).space) == [
        'routing.low_level.type: one of "none", "static", "generated"',
        'routing.low_level.hidden: one of [8], [8, 8] when routing.low_level.type is "generated"',
        'routing.low_level.init: one of "zero", "xavier" when routing.low_level.type is ["generated", "static"]',
        "7 grid points",
    ]
    floats = "  learning.kl_weight: {type: float, low: 0.5, high: 1}\n"
    assert describe(study(tmp_path, floats).space) == ["learning.kl_weight: float from 0.5 to 1.0"]
