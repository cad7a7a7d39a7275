"""A search from Python, on a Ray of its own: what it returns is what the command line records and shows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.ray
EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
SETTINGS = {
    "sweep.trials": 2, "sweep.concurrency": 1, "sweep.comparison": False, "sweep.scheduler": {"type": "none"},
    "run.steps": 4, "run.questions_per_step": 8, "run.validation": {"every": 2, "questions": 40},
    "task.sizes": {"train": 64, "validation": 40, "test": 40}, "tracking.mlflow": False,
}  # fmt: skip
SESSION = """
import json, sys
import haps_search as haps

def main():
    study = haps.load_study("skills", json.loads(sys.argv[1]))
    result = haps.sweep(study, name="first")
    trials = result.trials
    run = haps.load_run("first")
    routing = run.route(["[y] sort plum="])
    answer = run.ask("[y] sort plum=")
    exported = run.export(["[y] sort plum="], "adapters")
    print(json.dumps({
        "states": list(trials["state"]), "rewards": list(trials["metrics.validation_reward"]),
        "parameters": list(trials["parameters.learning.learning_rate.low"]),
        "rows": list(result.comparison.index), "reward": float(result.comparison["reward"].iloc[-1]),
        "chances": float(routing.frame[["adder", "reverser", "sorter"]].sum(axis=1).iloc[0]),
        "asked": list(answer.decision.assignment) == [routing.frame["assignment"].iloc[0]], "text": answer.text,
        "adapters": exported.adapters, "html": "<table" in result._repr_html_() and "<h4>" in answer._repr_html_(),
    }))

if __name__ == "__main__":
    main()
"""


def ran(folder: Path, ray_folder: Path, *arguments: str) -> str:
    environment = {**os.environ, "RAY_TMPDIR": str(ray_folder), "COLUMNS": "200", "HAPS_CACHE": str(folder / "cache")}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_python_session_gives_what_the_command_line_gives(tmp_path: Path, short_folder: Path) -> None:
    (tmp_path / "session.py").write_text(SESSION)
    found = json.loads(ran(tmp_path, short_folder, "session.py", json.dumps(SETTINGS)).splitlines()[-1])
    assert found["states"] == ["finished", "finished"]
    assert found["rows"] == ["joint (best trial)"]
    assert found["chances"] == pytest.approx(1)
    assert found["asked"]
    assert found["adapters"] == 3
    assert found["html"]

    haps = "haps_search.cli.main"
    settings = [part for k, v in SETTINGS.items() for part in ("--set", f"{k}={json.dumps(v)}")]
    shown = ran(tmp_path, short_folder, "-m", haps, "sweep", "skills", "--name", "second", *settings)
    assert f"joint (best trial)  {found['reward']:.3f} [" in shown
    for name in ("first", "second"):
        status = ran(tmp_path, short_folder, "-m", haps, "status", name)
        for number, reward in enumerate(found["rewards"]):
            assert any(line.startswith(f"{number:03d}") and f"{reward:.3f}" in line for line in status.splitlines())
    assert found["text"] in ran(tmp_path, short_folder, "-m", haps, "ask", "second", "[y] sort plum=")


@pytest.mark.slow
@pytest.mark.parametrize("example", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_an_example_runs_to_its_end(example: Path, tmp_path: Path, short_folder: Path) -> None:
    ran(tmp_path, short_folder, str(example), "--small")
