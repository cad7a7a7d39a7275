"""Reading studies and profiles: every problem at once, with path, line and the way out."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from haps_search.config.load import dump, fingerprint, load_profile, load_study, parse_study
from haps_search.config.routing import StaticLowLevel
from haps_search.errors import ConfigError

STUDY = """\
name: tiny
experiment:
  task: {type: skills, digits: 2}
  candidates:
    - {name: adder, source: {type: zoo, name: adder}}
    - {name: reverser, source: {type: zoo, name: reverser}}
  run:
    steps: 30
space:
  learning.learning_rate.low: {type: log, low: 1e-4, high: 1e-2}
  run.steps: {type: int, low: 10, high: 30, step: 10}
sweep: {trials: 4}
"""


@pytest.fixture
def write(tmp_path: Path):
    def _write(text: str, name: str = "study.yaml") -> Path:
        file = tmp_path / name
        file.write_text(text)
        return file

    return _write


def problems(file: Path | str, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_study(file, overrides)
    return list(caught.value.problems)


def test_a_study_is_read_and_survives_its_own_dump(write):
    study = load_study(write(STUDY))
    assert study.experiment.run.steps == 30
    assert study.space["learning.learning_rate.low"].low == 1e-4
    again = parse_study(json.loads(json.dumps(dump(study))))
    assert again == study
    assert fingerprint(again) == fingerprint(study)
    assert fingerprint(study) != fingerprint(load_study(write(STUDY), ["run.steps=31"]))


def test_all_problems_are_listed_at_once_with_path_and_line(write):
    text = STUDY.replace("digits: 2", "digts: 2").replace("steps: 30", "steps: thirty")
    text = text.replace("name: reverser}}", "name: reverser}, dtype: float33}").replace("trials: 4", "trials: 0")
    assert problems(write(text)) == [
        "experiment.task.digts (line 3): unknown key; did you mean digits?",
        'experiment.candidates.1.dtype (line 6): got "float33", needs one of auto, float64, float32, '
        "bfloat16, float16; did you mean float32?",
        'experiment.run.steps (line 8): got "thirty", needs a whole number',
        "sweep.trials (line 12): got 0, needs more than 0",
    ]


@pytest.mark.parametrize(
    ("written", "instead", "expected"),
    [
        (
            "type: skills, digits: 2",
            "type: skils",
            'experiment.task.type (line 3): got "skils", needs one of skills, qa, hotpotqa, replay, plugin, object; '
            "did you mean skills?",
        ),
        (
            "type: skills, ",
            "",
            "experiment.task.type (line 3): missing; needs one of skills, qa, hotpotqa, replay, plugin, object",
        ),
        (
            "{type: skills, digits: 2}",
            "3",
            "experiment.task (line 3): got 3, needs a mapping with type: one of skills, qa, hotpotqa, replay, plugin, "
            "object",
        ),
        ("name: tiny\n", "", "name: missing, and it has no default"),
        ("name: tiny", "name: a b", 'name (line 1): got "a b", needs text that matches ^[A-Za-z0-9_][A-Za-z0-9._-]*$'),
        ("name: tiny", "name: 7", "name (line 1): got 7, needs text (put quotes around it)"),
        ("steps: 30", 'steps: "30"', 'experiment.run.steps (line 8): got "30", needs a whole number'),
        ("steps: 30", "steps: yes", "experiment.run.steps (line 8): got true, needs a whole number"),
        ("steps: 30", "steps: 2.5", "experiment.run.steps (line 8): got 2.5, needs a whole number"),
        ("reverser, s", "adder, s", "experiment.candidates (line 4): names must differ, got adder twice"),
        (
            "steps: 30",
            "episodes_per_question: 1",
            "experiment.learning.advantage (line 2): leave_one_out compares episodes of a question and needs "
            "run.episodes_per_question >= 2; use advantage: paper for one episode",
        ),
    ],
)
def test_each_kind_of_mistake_in_plain_words(write, written, instead, expected):
    assert written in STUDY
    assert problems(write(STUDY.replace(written, instead))) == [expected]


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ("al", 'layers (--set): got "al", needs a mapping with last, or all, or a list of whole numbers'),
        ("{lst: 2}", "layers.lst (--set): unknown key; did you mean last?"),
        ("[1, x]", 'layers.1 (--set): got "x", needs a whole number'),
    ],
)
def test_a_union_without_type_speaks_for_the_member_that_was_meant(write, layers, expected):
    found = problems(write(STUDY), f"routing.lora.layers={layers}")
    assert f"experiment.routing.lora.{expected}" in found
    assert all("layers" in text for text in found)


def test_keys_written_twice_and_broken_yaml_name_their_line(write):
    twice = problems(write(STUDY.replace("    steps: 30\n", "    steps: 30\n    steps: 40\n")))
    assert twice == ["experiment.run.steps (line 9): written twice, first on line 8"]
    (broken,) = problems(write("name: tiny\nexperiment: [1, 2\nspace: 3\n"))
    assert broken.startswith("line 3, column 6: not valid YAML")
    (alias,) = problems(write("name: &a [*a]\n"))
    assert "an alias that contains itself" in alias
    (tag,) = problems(write("name: !!python/object:os.system {}\n"))
    assert tag.startswith("line 1")
    assert problems(write("")) == ["got nothing, needs a mapping with name and what belongs to it"]


def test_anchors_and_merges_are_read_as_yaml_has_them(write):
    text = STUDY.replace("{type: zoo, name: adder}}", "&zoo {type: zoo, name: adder}}").replace(
        "source: {type: zoo, name: reverser}", "source: {<<: *zoo, name: reverser}"
    )
    assert load_study(write(text)) == load_study(write(STUDY))


def test_overrides_reach_fields_lists_defaults_and_the_space(write):
    settings = [
        "run.steps=10",
        "experiment.run.seed=3",
        "sweep.trials=2",
        "experiment.candidates.0.dtype=float64",
        "learning.learning_rate.high=3e-4",
        "routing.low_level.hidden=[32]",
        "routing.lora.layers.last=2",
        "space.run.steps.high=20",
    ]
    study = load_study(write(STUDY), settings)
    assert (study.experiment.run.steps, study.experiment.run.seed, study.sweep.trials) == (10, 3, 2)
    assert [c.dtype for c in study.experiment.candidates] == ["float64", "float32"]
    assert study.experiment.learning.learning_rate.model_dump() == {"high": 3e-4, "low": 1e-3}
    assert study.experiment.routing.low_level.model_dump()["hidden"] == (32,)
    assert study.experiment.routing.lora.layers.model_dump() == {"last": 2}
    assert study.space["run.steps"].high == 20


def test_an_override_of_type_drops_what_the_new_variant_does_not_know(write):
    text = STUDY.replace("  run:\n", "  routing: {low_level: {type: generated, hidden: [8], init: xavier}}\n  run:\n")
    low = load_study(write(text), ["routing.low_level.type=static"]).experiment.routing.low_level
    assert low == StaticLowLevel(init="xavier")


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("run.stepz=3", "no such path; did you mean experiment.run.steps?"),
        ("learning_rate.low=3", "no such path; did you mean experiment.learning.learning_rate.low?"),
        ("candidates.5.dtype=x", "experiment.candidates has 2 items, counted from 0"),
        (
            "candidates.adder.dtype=x",
            "nothing stands below experiment.candidates, it is a list: give an index",
        ),
        ("run.steps.x=3", "nothing stands below experiment.run.steps, it is a single value"),
        ("space.run.steps.hi=3", "no such path; did you mean space.run.steps.high?"),
        ("run.steps", "got 'run.steps', needs path=value, as in run.steps=10"),
    ],
)
def test_a_wrong_override_says_the_nearest_spelling(write, setting, expected):
    path = setting.partition("=")[0]
    assert problems(write(STUDY), setting) == [f"{path} (--set): {expected}"]


def test_wrong_overrides_and_wrong_keys_come_together(write):
    found = problems(write(STUDY.replace("trials: 4", "trails: 4")), "run.stepz=3", "run.seed=x")
    assert found == [
        "sweep.trails (line 12): unknown key; did you mean trials?",
        "run.stepz (--set): no such path; did you mean experiment.run.steps?",
        'experiment.run.seed (--set): got "x", needs a whole number',
    ]


def test_a_missing_file_names_its_neighbour(write, tmp_path, monkeypatch):
    file = write(STUDY)
    assert problems(tmp_path / "studi.yaml") == ["no such file; did you mean study.yaml?"]
    assert problems(tmp_path) == ["is a folder; needs a YAML file. It holds study.yaml"]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "search_spaces").mkdir()
    file.rename(tmp_path / "search_spaces" / "mine.yaml")
    assert load_study("mine").name == "tiny"
    assert "no such file; did you mean mine?" in problems("minne")


def test_profiles_are_found_by_name_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_profile("local-cpu").candidate.gpus == 0
    assert load_profile("gpu-per-candidate").candidate.gpus == 1
    (tmp_path / "clusters" / "profiles").mkdir(parents=True)
    (tmp_path / "clusters" / "profiles" / "local-cpu.yaml").write_text("name: mine\n")
    assert load_profile("local-cpu").name == "mine"
    with pytest.raises(ConfigError, match="did you mean local-cpu"):
        load_profile("local-cpus")


def test_reading_a_study_imports_nothing_heavy(write):
    heavy = "{'torch', 'transformers', 'ray', 'mlflow', 'optuna', 'numpy'}"
    code = (
        "import sys; from haps_search.config.load import load_study; "
        f"load_study({str(write(STUDY))!r}); sys.exit(', '.join({heavy} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
