"""haps_search from Python: what it imports, tasks that are objects, results that are tables."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from typing import Any

import pytest
from made import NumberTask
from sweeps import DESCRIBED

import haps_search as haps
from haps_search.cli.main import VERBS
from haps_search.config.load import parse_study
from haps_search.config.rewards import PluginReward
from haps_search.config.sweep import Study
from haps_search.config.tasks import PluginTask
from haps_search.errors import ConfigError, DataError
from haps_search.tasks import own, plugins
from haps_search.tasks.build import build_task
from haps_search.tasks.rewards import build_reward
from haps_search.verbs.events import Event, Said

CODE = """
import sys
import haps_search as haps
heavy = {"torch", "ray", "mlflow", "pandas", "numpy", "pydantic"} & set(sys.modules)
study = haps.load_study("skills", {"sweep.trials": 4, "routing.low_level.hidden": [64, 64]})
print(sorted(heavy), study.sweep.trials, study.experiment.routing.low_level.hidden)
import haps_search.sweep.journal, haps_search.report.source
print(haps.sweep.__module__, haps.report.__module__, callable(haps.sweep))
"""


def test_the_package_is_imported_at_once_and_its_verbs_hide_the_rooms_of_their_names() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == [
        "[] 4 (64, 64)", "haps_search.verbs.sweep haps_search.verbs.report True",
    ], done.stderr  # fmt: skip


def test_every_verb_of_the_command_line_is_there() -> None:
    """Those that need a run at its checkpoint are methods of what `load_run` gives."""
    run = haps.load_run.__annotations__["return"]
    assert run == "Run"
    from haps_search.verbs.loaded_run import Run

    missing = {v.__name__ for v in VERBS} - set(haps.__all__) - set(dir(Run)) - {"logs", "dashboard", "mlflow"}
    assert missing == set()
    assert all(hasattr(haps, name) for name in haps.__all__)
    with pytest.raises(AttributeError, match="no attribute 'sweeep'"):
        haps.sweeep  # noqa: B018


def a_study(**changes: Any) -> Study:
    experiment = {**DESCRIBED["experiment"], "engine": {"type": "local", "threads": 1}, **changes}
    return parse_study({**DESCRIBED, "experiment": experiment, "space": {}, "tracking": {"mlflow": False}})


def test_questions_and_a_reward_of_ones_own_are_passed_directly(tmp_path: Path) -> None:
    """Nothing but Python objects; the run's result shows itself."""

    def asked(split: str, count: int) -> list[haps.Question]:
        return [haps.Question(f"{split}{i}", f"{i}+{len(split)}?", str(i + len(split))) for i in range(count)]

    def digits(question: haps.Question, answer: str) -> float:
        return float(sum(c.isdigit() for c in answer) / max(len(answer), 1))

    task = haps.QuestionTask({"train": asked("train", 16), "validation": asked("valid.", 8)}, digits, name="digits")
    run = {"steps": 2, "questions_per_step": 4, "episodes_per_question": 2, "validation": {"every": 2},
           "sampling": {"max_new_tokens": 4}}  # fmt: skip
    events: list[Event] = []
    result = haps.train(a_study(run=run), "own", tmp_path, events.append, task)
    assert result.reason == "steps"
    assert len(result.history) == 2
    assert "<table" in result._repr_html_()
    assert any(isinstance(e, Said) and e.text.startswith("step 2/2") for e in events)
    route = haps.load_run("own", tmp_path).route(["3+4?"])
    assert route.frame.loc["line-1", ["adder", "sorter"]].sum() == pytest.approx(1)
    (status,) = haps.status(runs=tmp_path)
    assert (status.name, status.kind, status.state, status.done) == ("own", "run", "ended", 1.0)
    own._passed.clear()
    with pytest.raises(ConfigError, match=r"Python object that a program passed.*pass it again"):
        haps.load_run("own", tmp_path).route(["3+4?"])


def test_what_is_no_task_is_refused_with_what_it_lacks() -> None:
    with pytest.raises(ConfigError, match="it lacks roles, questions, turn, parse, reward, measures"):
        haps.hold_task(type("Half", (), {"name": "half", "description": ""})())  # type: ignore[arg-type]


def test_splits_of_a_list_task_may_not_share_a_question() -> None:
    one = haps.Question("a", "same", "")
    with pytest.raises(ConfigError, match="stands in train and validation"):
        haps.QuestionTask({"train": [one], "validation": [one]}, lambda q, a: 1.0)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a package registered two tasks."""
    points = EntryPoints([
        EntryPoint("numbers", "made:NumberTask", PluginTask.GROUP),
        EntryPoint("broken", "made:Nothing", PluginTask.GROUP),
        EntryPoint("length", "made:paid_by_length", PluginReward.GROUP),
        EntryPoint("seven", "made:seven", PluginReward.GROUP),
    ])  # fmt: skip
    monkeypatch.setattr(plugins, "entry_points", lambda group: points.select(group=group))


def test_a_package_adds_a_task_that_a_study_can_name(installed: None) -> None:
    study = a_study(task={"type": "plugin", "name": "numbers"})
    assert isinstance(build_task(study.experiment.task), NumberTask)
    assert "entry point numbers of group haps_search.tasks" in str(haps.validate(study))


def test_a_package_adds_a_reward_that_a_study_can_name(installed: None) -> None:
    asked = haps.Question("a", "?", "")
    reward = build_reward(PluginReward(name="length", options={"longest": 4}))
    assert reward.check() == []
    assert reward.pay(asked, "abc") == 0.25
    task = {"type": "qa", "train": "x.jsonl", "validation": "y.jsonl", "reward": {"type": "plugin", "name": "length"}}
    assert "experiment.task.reward: entry point length of group haps_search.rewards" in str(
        haps.validate(a_study(task=task))
    )
    with pytest.raises(ConfigError, match=r"made:paid_by_length with \{'shortest': 1\} failed"):
        build_reward(PluginReward(name="length", options={"shortest": 1})).check()
    with pytest.raises(ConfigError, match="what seven makes is no function"):
        build_reward(PluginReward(name="seven")).check()
    with pytest.raises(DataError, match=r"reward length: got 1\.25"):
        build_reward(PluginReward(name="length", options={"longest": -4})).pay(asked, "a")


@pytest.mark.parametrize(
    ("name", "said"), [("numbes", "no installed package.*broken, numbers"), ("broken", "made:Nothing with {} failed")]
)
def test_a_plugin_that_is_not_there_or_fails_is_said(installed: None, name: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        build_task(PluginTask(name=name))
