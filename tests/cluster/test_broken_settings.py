"""Settings that kill their own process, and drivers that are asked to leave in a sweep's first seconds: on real Ray,
through the command."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from patience import growth, wait_for
from processes import Started
from replays import replay_experiment, skilled

from haps_search.sweep.events import AttemptBroke
from haps_search.sweep.journal import Journal
from haps_search.sweep.layout import trial_folder

pytestmark = [pytest.mark.ray, pytest.mark.slow]
LONG = 1_000_000


def a_replay(folder: Path, steps: int, every: int, trials: int, **sweep: Any) -> Path:
    """A study that needs no pool."""
    run = {"steps": steps, "questions_per_step": 8, "checkpoint_every": every, "validation": {"every": every}}
    described = replay_experiment(skilled(folder / "table.jsonl"), run=run).model_dump(mode="json")
    study = {
        "name": "broken",
        "experiment": {**described, "engine": {"type": "ray", "profile": "local-cpu"}},
        "space": {"run.seed": {"type": "choice", "values": list(range(trials))}},
        "sweep": {"trials": trials, "sampler": {"type": "grid"}, **sweep},
        "tracking": {"mlflow": False},
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(study))
    return folder / "study.yaml"


@pytest.fixture
def here(tmp_path: Path) -> dict[str, Any]:
    return {"folder": tmp_path, "HAPS_RUNS": str(tmp_path / "runs"), "HAPS_CACHE": str(tmp_path / "cache")}


def writers(trial: Path) -> list[psutil.Process]:
    """Processes that print into a folder of a trial's attempts."""
    found = []
    for process in psutil.process_iter():
        try:
            opened = [os.readlink(entry.path) for entry in os.scandir(f"/proc/{process.pid}/fd")]
        except OSError:
            continue
        if any(path.startswith(str(trial)) and path.endswith("output.log") for path in opened):
            found.append(process)
    return found


def test_sigterm_before_the_first_validation_under_asha_leaves_in_order_and_is_resumed(
    tmp_path: Path, haps: Callable[..., Started], here: dict[str, Any]
) -> None:
    sweep = tmp_path / "runs" / "broken"
    study = a_replay(tmp_path, LONG, LONG, 2, concurrency=1, scheduler={"type": "asha", "grace_steps": LONG})
    driver = haps("sweep", str(study), **here)
    recorded = trial_folder(sweep, 0) / "metrics.jsonl"
    wait_for(lambda: recorded.exists() and recorded.stat().st_size > 0, driver.printed, driver, growth(sweep))
    driver.signal(signal.SIGTERM)
    assert driver.ended(growth(sweep)) == 75, driver.printed()
    said = driver.printed()
    assert "Traceback" not in said
    assert "unfinished: asked to leave (SIGTERM); trials [0] are saved and 1 were not begun: `haps resume" in said
    (saved,) = (trial_folder(sweep, 0) / "checkpoints").glob("step-*")
    steps = int(saved.name.removeprefix("step-"))
    assert len(recorded.read_text().splitlines()) == steps, "what was done is what is saved"

    resumed = haps("resume", "broken", **here)
    again = sweep / "trials" / "000.2" / "metrics.jsonl"
    wait_for(
        lambda: again.exists() and len(again.read_text().splitlines()) > steps, resumed.printed, resumed, growth(sweep)
    )
    resumed.signal(signal.SIGINT)
    assert resumed.ended(growth(sweep)) == 130, resumed.printed()
    assert "unfinished: Ctrl-C; trials [0] are saved" in resumed.printed()
    assert "Traceback" not in resumed.printed()
    assert len(again.read_text().splitlines()) > steps, "it went on from there"


def test_a_setting_whose_process_is_always_killed_fails_with_its_reason_and_the_sweep_ends(
    tmp_path: Path, haps: Callable[..., Started], here: dict[str, Any]
) -> None:
    sweep = tmp_path / "runs" / "broken"
    study = a_replay(tmp_path, 2_000_000, 1_000_000, 2, concurrency=2)
    driver = haps("sweep", str(study), **here)
    killed: set[int] = set()

    def kill() -> bool:
        for process in writers(sweep / "trials" / "000"):
            if process.pid not in killed:
                process.kill()
                killed.add(process.pid)
        return any(t.state == "failed" for t in Journal(sweep).trials()) if sweep.exists() else False

    wait_for(kill, driver.printed, driver, growth(sweep), every_s=0.05)
    driver.signal(signal.SIGTERM)
    assert driver.ended(growth(sweep)) == 75, driver.printed()
    failed, other = Journal(sweep).trials()
    assert (failed.attempts, failed.deaths, len(killed)) == (3, 3, 3)
    assert failed.error is not None
    assert "worker process has died" in failed.error
    assert "(3 times without getting further)" in failed.error
    assert [e.attempt for e in Journal(sweep).events() if isinstance(e, AttemptBroke)] == [1, 2, 3]
    assert not other.ended
    assert "trial 000, attempt 2: The actor died" in driver.printed()
    assert "trial 000, attempt 3" in driver.printed()


REWARDS = '''
"""The user's own rewards; two of them have a fault that no exception shows."""
import os
import sys


def fair(question, answer):
    return float(len(answer) > 2)


def kills(question, answer):
    print("about to ask a library in C", flush=True)
    os._exit(137)


def raises(question, answer):
    raise RuntimeError("this reward has a bug")
'''


def test_a_sweep_of_twenty_of_which_two_kill_their_process_and_one_raises_is_complete(
    tmp_path: Path, haps: Callable[..., Started]
) -> None:
    sweep = tmp_path / "runs" / "twenty"
    (tmp_path / "own_rewards.py").write_text(REWARDS)
    asked = [{"id": f"q{n}", "question": f"2 + {n}", "answer": str(n + 2)} for n in range(12)]
    for split in ("train", "validation", "test"):
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked))
    described = yaml.safe_load((Path(__file__).parents[2] / "search_spaces" / "skills.yaml").read_text())
    experiment = described["experiment"]
    experiment["task"] = {
        "type": "qa",
        "train": str(tmp_path / "train.jsonl"),
        "validation": str(tmp_path / "validation.jsonl"),
        "test": str(tmp_path / "test.jsonl"),
        "fields": {"reference": "answer"},
        "reward": {"type": "function", "function": "own_rewards:fair"},
    }
    experiment["run"] = {
        **experiment["run"], "steps": 2, "questions_per_step": 4, "episodes_per_question": 2,
        "validation": {"every": 2, "questions": 6}, "checkpoint_every": 1,
    }  # fmt: skip
    bad = {4: "own_rewards:kills", 9: "own_rewards:raises", 13: "own_rewards:kills"}
    low, function = "learning.learning_rate.low", "task.reward.function"
    points = [{function: bad.get(n, "own_rewards:fair"), low: 1e-4 * (1 + n / 20)} for n in range(20)]
    study = {
        "name": "twenty",
        "experiment": experiment,
        "space": {
            low: {"type": "log", "low": 1e-5, "high": 1e-2},
            function: {"type": "choice", "values": [f"own_rewards:{n}" for n in ("fair", "kills", "raises")]},
        },
        "sweep": {
            "trials": 20, "concurrency": 2, "sampler": {"type": "random"}, "enqueue": points,
            "opponents": {"architecture_only": None, "static": {"trials": 2}, "plain_lora": None},
        },
    }  # fmt: skip
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study))
    driver = haps("sweep", str(tmp_path / "study.yaml"), "--runs", str(tmp_path / "runs"), folder=tmp_path)
    assert driver.ended(growth(sweep)) == 0, driver.printed()

    trials = Journal(sweep).trials()
    assert [t.number for t in trials if t.state == "failed"] == [4, 9, 13]
    assert len([t for t in trials if t.kind == "search" and t.state == "finished"]) == 17
    assert len([t for t in trials if t.kind == "comparison" and t.state == "finished"]) == 2
    for number in (4, 13):
        assert trials[number].deaths == 3
        assert trials[number].log[-1] == "about to ask a library in C"
        assert "(3 times without getting further)" in (trials[number].error or "")
    assert "this reward has a bug" in (trials[9].error or "")
    assert any("this reward has a bug" in line for line in trials[9].log)
    report = json.loads((sweep / "report.json").read_text())
    assert [row["label"] for row in report["comparison"]][-1].endswith("(best trial)")
    assert [t["number"] for t in report["failed"]] == [4, 9, 13]
    said = driver.printed()
    assert "about to ask a library in C" in said
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_path / 'runs' / 'mlflow.db'}")
    found = client.get_experiment_by_name("haps_search")
    assert found is not None
    runs = {run.info.run_name: run for run in client.search_runs([found.experiment_id])}
    assert runs["004"].info.status == "FAILED"
    assert "without getting further" in runs["004"].data.tags["haps.failed"]
