"""A sweep that runs, looked at in a browser: Optuna's dashboard, and MLflow's table and comparison of its runs."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from browser import BROWSER, Page, opened
from patience import wait_for
from processes import Started, free_ports
from replays import replay_experiment, skilled

from haps_search.sweep.journal import Journal

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.skipif(BROWSER is None, reason="no Chromium here")]
NAME, RATE = "watched", "learning.learning_rate.high"
PICTURES = os.environ.get("HAPS_PICTURES")
"""A folder that keeps what the browser showed."""


def written_study(folder: Path) -> Path:
    """More than it takes time to look at; few are there by then, since MLflow's tables show what is in sight only."""
    run = {"steps": 4000, "questions_per_step": 64, "checkpoint_every": 500, "validation": {"every": 250}}
    table = skilled(folder / "table.jsonl", costs=(1.0, 2.0, 4.0))
    experiment = replay_experiment(table, run=run).model_dump(mode="json")
    study = {
        "name": NAME,
        "experiment": {**experiment, "engine": {"type": "ray", "profile": "local-cpu"}},
        "space": {RATE: {"type": "log", "low": 0.005, "high": 0.05}},
        "sweep": {"trials": 100, "concurrency": 1, "scheduler": {"type": "none"}},
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(study))
    return folder / "study.yaml"


class Watched:
    def __init__(self, haps: Callable[..., Started], folder: Path) -> None:
        self._haps, self._folder = haps, folder
        self.driver = self._begun("sweep", written_study(folder))
        self._journal: Journal | None = None
        self._servers: list[Started] = []

    def _begun(self, *arguments: object) -> Started:
        return self._haps(*arguments, "--runs", self._folder / "runs", folder=self._folder)

    def trials(self) -> list[int]:
        """That have reported something."""
        if self._journal is None:
            if not (self._folder / "runs" / NAME / "journal.jsonl").exists():
                return []
            self._journal = Journal(self._folder / "runs" / NAME)
        return [trial.number for trial in self._journal.trials() if trial.reports]

    def wait_for_trials(self, count: int) -> None:
        wait_for(lambda: len(self.trials()) >= count, self.driver.printed, self.driver, progress=self.trials)

    def served(self, verb: str, *lines: str) -> list[str]:
        """The addresses that a verb prints after these words, from a server of its own."""
        (port,) = free_ports(1)
        server = self._begun(verb, NAME, "--port", port)
        self._servers.append(server)
        found: dict[str, str] = {}

        def told() -> bool:
            found.update(re.findall(r"^(\w+) +(http\S+)", server.printed(), re.MULTILINE))
            return set(lines) <= set(found)

        wait_for(told, server.printed, server)
        return [found[line] for line in lines]

    def end_servers(self) -> None:
        """They leave when they are asked to, with what they have started."""
        for server in self._servers:
            started = server.tree()
            server.signal(signal.SIGTERM)
            server.ended()
            assert [each for each in started if each.is_running()] == []


def keep(page: Page, name: str) -> None:
    if PICTURES:
        page.picture(Path(PICTURES) / f"{name}.png")


def test_the_pages_of_a_running_sweep_show_its_trials(haps: Callable[..., Started], tmp_path: Path) -> None:
    sweep = Watched(haps, tmp_path)
    sweep.wait_for_trials(2)
    (dashboard,) = sweep.served("dashboard", "dashboard")
    with opened(dashboard, tmp_path / "browser") as page:
        page.wait_for_line(f"{NAME} (id=0)")
        keep(page, "dashboard")
        newer = max(sweep.trials()) + 1
        sweep.wait_for_trials(newer + 1)
        page.go(f"{dashboard}/trials")
        page.wait_for_line(f"Trial {newer}")
        keep(page, "trials")
        runs, compare = sweep.served("mlflow", "runs", "compare")
        page.go(runs)
        for text in (NAME, *(f"{number:03d}" for number in range(newer + 1)), "validation_reward", RATE):
            page.wait_for_line(text)
        keep(page, "runs")
        page.go(compare)
        for text in ("000", "001", "reward", RATE):
            page.wait_for_line(text)
        keep(page, "compare")
    sweep.end_servers()
    assert sweep.driver.poll() is None, "the sweep had ended before its pages were seen"
