"""The command line: what it answers without starting anything, and how it says no."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console
from sweeps import DESCRIBED, a_study, a_trial, write
from typer.testing import CliRunner

from haps_search import __version__
from haps_search.cli import main as entry
from haps_search.cli.display import clock, plain_line, trials_table
from haps_search.cli.main import VERBS, app, main
from haps_search.errors import CandidateError, CheckpointError, ConfigError, DataError, PoolError
from haps_search.sweep.journal import open_sweep
from haps_search.sweep.progress import TrialView

SHIPPED = str(Path(__file__).parents[2] / "search_spaces" / "skills.yaml")
HEAVY = ("torch", "ray", "mlflow", "transformers", "optuna")
LIGHT_CALLS = [
    ["--help"], ["--version"], *([verb.__name__, "--help"] for verb in VERBS), ["validate", SHIPPED],
    ["sweep", SHIPPED, "--dry-run"], ["status"], ["resume", "nothing"], ["confirm", "nothing"],
    ["evaluate", "nothing", "--split", "test"], ["ask", "nothing", "3+4?"],
]  # fmt: skip


def haps(*arguments: str) -> str:
    done = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Exit status, stdout and stderr of the real entry point."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["haps", *arguments])
        with pytest.raises(SystemExit) as caught:
            main()
        out, err = capsys.readouterr()
        return int(caught.value.code or 0), out, err

    return run


def test_help_and_whatever_ends_early_import_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from haps_search.cli.main import app\n"
        f"for call in {LIGHT_CALLS!r}:\n"
        "    CliRunner().invoke(app, call)\n"
        f"    heavy = [m for m in {HEAVY!r} if m in sys.modules]\n"
        "    assert not heavy, (call, heavy)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("verb", [verb.__name__.replace("_", "-") for verb in VERBS])
def test_every_verb_has_help_that_says_what_it_does(verb: str) -> None:
    shown = " ".join(haps(verb, "--help").split())
    assert shown.startswith("Usage: root " + verb)
    assert "--runs" in shown or verb in ("validate", "explain", "check-reward", "plan", "inspect", "collect")


def test_the_version_is_the_packages() -> None:
    assert haps("--version").strip() == f"haps-search {__version__}"


def test_validate_says_what_would_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    lines = haps("validate", "skills").splitlines()
    assert lines[0] == "skills: valid"
    assert "  candidates  adder (zoo), reverser (zoo), sorter (zoo)" in lines
    assert "  run         160 steps x 32 questions x 4 episodes" in lines
    assert "  space       routing.lora.rank: one of 2, 4, 8" in lines
    assert "  opponent    architecture-only: 3 trials, its learning rates" in lines
    assert "  opponent    plain LoRA: 3 trials, learning.learning_rate.low: log from 0.003 to 0.03" in lines


def test_validate_counts_a_changed_value() -> None:
    assert "  run         7 steps x" in haps("validate", SHIPPED, "--set", "run.steps=7")


def test_a_dry_run_counts_options_and_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    shown = haps("sweep", "skills", "--dry-run", "--trials", "3", "--concurrency", "1", "--set", "run.steps=7")
    assert "3 trials, 1 at a time, tpe sampler, scheduler asha, max validation_reward" in shown
    assert "  run         7 steps x" in shown
    assert list(tmp_path.iterdir()) == []


def broken_study(tmp_path: Path) -> str:
    described = {
        **DESCRIBED,
        "experiment": {**DESCRIBED["experiment"], "run": {"stepz": 3, "questions_per_step": "many"}},
        "space": {"run.stepz": {"type": "int", "low": 1, "high": 3}},
        "swep": {},
    }
    file = tmp_path / "broken.yaml"
    file.write_text(yaml.safe_dump(described, sort_keys=False))
    return str(file)


@pytest.mark.parametrize("verb", ["validate", "sweep", "train"])
def test_a_broken_study_is_answered_with_every_problem_and_status_2(
    ended: Callable[..., tuple[int, str, str]], tmp_path: Path, verb: str
) -> None:
    status, out, err = ended(verb, broken_study(tmp_path))
    assert status == 2
    assert out == ""
    assert "Traceback" not in err
    assert err.startswith(f"error: {tmp_path / 'broken.yaml'}: 4 problems")
    for part in ("did you mean steps?", "questions_per_step", "space.run.stepz", "did you mean sweep?"):
        assert part in err


def test_an_option_without_sense_is_a_problem_of_the_study(ended: Callable[..., tuple[int, str, str]]) -> None:
    status, _, err = ended("sweep", SHIPPED, "--dry-run", "--max-hours", "0")
    assert status == 2
    assert "sweep.max_hours" in err


@pytest.mark.parametrize("verb", ["resume", "status", "confirm"])
def test_a_sweep_that_is_not_there_is_answered_with_the_nearest(
    ended: Callable[..., tuple[int, str, str]], tmp_path: Path, verb: str
) -> None:
    open_sweep(tmp_path / "skills", a_study(), resume=False).close()
    status, _, err = ended(verb, "skils", "--runs", str(tmp_path))
    assert status == 2
    what = "sweep or run" if verb == "status" else "sweep"
    assert err == f"error: no {what} skils under {tmp_path}; did you mean skills?\n"


def test_status_of_an_empty_folder_says_how_to_begin(tmp_path: Path) -> None:
    shown = haps("status", "--runs", str(tmp_path / "none"))
    assert "no sweeps or runs under" in shown
    assert "haps sweep FILE" in shown


def test_status_tells_sweeps_that_ended_from_those_that_did_not(tmp_path: Path) -> None:
    journal = open_sweep(tmp_path / "tiny", a_study(trials=2, comparison=False), resume=False)
    write(journal, a_trial(0, 0.9), a_trial(1, state="failed", error="Diverged: loss is nan", metrics={}))
    journal.close()
    line = haps("status", "--runs", str(tmp_path)).strip()
    assert line.startswith("tiny: 2 trials begun, 100% of the steps done, not running: process ")
    assert line.endswith("is gone without a word (killed, or its machine lost); `haps resume tiny` goes on")
    listed = haps("status", "tiny", "--runs", str(tmp_path))
    assert "Diverged: loss is nan" in listed


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ConfigError(["one", "two"], "a.yaml"), 2),
        (CheckpointError("no checkpoint"), 1),
        (DataError("rows.jsonl:3: field question"), 1),
        (CandidateError("does not load"), 1),
        (PoolError("the machines gave up"), 1),
        (KeyboardInterrupt(), 130),
    ],
)
def test_errors_become_a_message_and_a_status(
    ended: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch, error: BaseException, status: int
) -> None:
    def raising(*_: Any) -> None:
        raise error

    monkeypatch.setattr("haps_search.verbs.loaded_run.find_run", raising)
    code, out, err = ended("ask", "skills", "3+4?")
    assert (code, out) == (status, "")
    assert "Traceback" not in err
    expected = "interrupted; what was done is kept" if status == 130 else f"error: {error}"
    assert err.strip() == expected


def test_a_bug_is_not_dressed_up_as_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    def raising() -> None:
        raise KeyError("a bug")

    monkeypatch.setattr(entry, "app", raising)
    with pytest.raises(KeyError):
        main()


def a_view(**changes: Any) -> TrialView:
    fields: dict[str, Any] = {
        "number": 3, "label": "", "state": "running", "step": 5, "steps": 20, "reward": 0.25, "validation": None,
        "entropy": 1.0, "alarm": "", "parameters": {}, "error": None,
    }  # fmt: skip
    return TrialView(**{**fields, **changes})


def test_a_plain_line_has_what_runs_and_counts_what_ended() -> None:
    views = [a_view(), a_view(number=4, state="failed", error="no"), a_view(number=5, alarm="route collapse")]
    assert plain_line(views, 0.42, 75.0) == (
        "42% done, 1:15 left, 1 trials ended | 003 5/20 reward 0.250 validation - entropy 1.000"
        " | 005 5/20 reward 0.250 validation - entropy 1.000 ! route collapse"
    )


def test_an_error_is_shown_as_it_is_and_not_read_as_markup() -> None:
    console = Console(width=140, record=True, file=io.StringIO())
    console.print(trials_table([a_view(state="failed", error="[enforce fail] cannot read [/data/x]")]))
    assert "[enforce fail] cannot read [/data/x]" in console.export_text()


@pytest.mark.parametrize(("seconds", "shown"), [(None, "?"), (59.6, "1:00"), (3599.7, "1:00:00"), (3725.0, "1:02:05")])
def test_times_are_written_as_on_a_clock(seconds: float | None, shown: str) -> None:
    assert clock(seconds) == shown
