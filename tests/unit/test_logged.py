"""Logs with one outcome per question: read, judged, and refused with the place or the numbers."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from judged_sweeps import FRUIT, WORDS, fruit_study, fruit_table, replay_sweep
from sweeps import a_study
from typer.testing import CliRunner

from haps_search.cli.main import app
from haps_search.config.load import load_log
from haps_search.config.tables import LogConfig
from haps_search.errors import ConfigError, DataError
from haps_search.evaluation.judged_log import judge_logged
from haps_search.evaluation.off_policy import Floats
from haps_search.evaluation.propensities import estimated
from haps_search.records.run_folder import RunFolder
from haps_search.tasks.tables.log import LoggedTable, read_log, recognise_log
from haps_search.types import Question


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


ROWS = [{"prompt": f"q{i}", "action": "ab"[i % 2], "reward": i % 3 / 2, "propensity": 0.25 + i / 8} for i in range(4)]


@pytest.mark.parametrize("name", ["log.csv", "log.jsonl"])
def test_a_log_is_recognised_by_its_columns(tmp_path: Path, name: str) -> None:
    log = read_log(recognise_log(write(tmp_path / name, ROWS)))
    assert [q.text for q in log.questions] == ["q0", "q1", "q2", "q3"]
    assert log.actions == ("a", "b", "a", "b")
    np.testing.assert_allclose(log.rewards, [0, 0.5, 1, 0])
    assert log.propensities is not None
    np.testing.assert_allclose(log.propensities, [0.25, 0.375, 0.5, 0.625])


def test_a_description_names_columns_and_the_range(tmp_path: Path) -> None:
    rows = [{"q": "x", "who": "lab/a", "stars": 5, "kind": "chat"}, {"q": "y", "who": "b", "stars": 1, "kind": "code"}]
    file = tmp_path / "log.yaml"
    file.write_text(
        f"file: {write(tmp_path / 'log.csv', rows)}\ntext: q\ntask: kind\nscore_range: [1.0, 5.0]\n"
        "logged: {action: who, reward: stars, propensity: estimate}\n"
    )
    log = read_log(load_log(file))
    assert log.propensities is None
    np.testing.assert_allclose(log.rewards, [1, 0])
    assert [q.attributes["task"] for q in log.questions] == ["chat", "code"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"propensity": 0}, "`propensity`: got 0, needs the probability of the choice, more than 0 and at most 1"),
        ({"propensity": 1.5}, "`propensity`: got 1.5, needs the probability"),
        ({"propensity": None}, "`propensity`: got null, needs the probability"),
        ({"propensity": "often"}, '`propensity`: got "often", needs a number'),
        ({"action": ""}, "`action`: got nothing, needs the name"),
        ({"reward": None}, "`reward`: got nothing, needs what the choice earned"),
        ({"reward": 2}, "`reward`: got 2, needs a score in [0, 1]"),
        ({"prompt": " "}, "`prompt`: got"),
    ],
)
def test_a_malformed_choice_is_named_by_line_and_column(tmp_path: Path, change: Mapping[str, Any], said: str) -> None:
    file = write(tmp_path / "log.jsonl", [ROWS[0], {**ROWS[1], **change}])
    with pytest.raises(DataError) as caught:
        read_log(recognise_log(file))
    assert str(caught.value).startswith(f"{file}:2: {said}")


def test_columns_that_cannot_be_told_are_asked_for(tmp_path: Path) -> None:
    rows = [{k: v for k, v in row.items() if k != "propensity"} for row in ROWS]
    with pytest.raises(ConfigError, match=r"cannot tell the propensity from the columns prompt, action, reward: name"):
        recognise_log(write(tmp_path / "log.csv", rows))
    with pytest.raises(DataError, match=r"`reward`: got no such column \(the table has: prompt"):
        read_log(
            LogConfig(
                file=str(write(tmp_path / "o.csv", [{"prompt": "x", "action": "a", "propensity": 1}])), text="prompt"
            )
        )


def fruit_log(rows: int, seed: int = 0, floor: float = 0.1) -> tuple[LoggedTable, Floats, Floats]:
    """A log over the kinds of `fruit_table`, features that tell the kind, and the probabilities of the log."""
    draw = np.random.default_rng(seed)
    kinds = draw.integers(3, size=rows)
    logging = np.full((rows, 3), (1 - 2 * floor) / 2)
    logging[np.arange(rows), kinds] = 2 * floor  # the log rarely takes the right fruit
    actions = np.array([draw.choice(3, p=row) for row in logging])
    rewards = (draw.random(rows) < np.where(actions == kinds, 0.9, 0.2)).astype(np.float64)
    questions = tuple(
        Question(str(i), f"{WORDS[k]} of log {seed} {i}", "1", attributes={"task": ""}) for i, k in enumerate(kinds)
    )
    table = LoggedTable(questions, tuple(FRUIT[a] for a in actions), rewards, logging[np.arange(rows), actions])
    return table, np.eye(3)[kinds], logging


def test_what_a_router_would_have_earned_is_known_of_a_log_that_did_otherwise() -> None:
    """Right choices earn 0.9, the log 0.34; each fruit alone 0.43."""
    table, kinds, _ = fruit_log(4000)
    found = judge_logged(table, FRUIT, {"router": kinds}, kinds, 0.02)
    row = found.rows[0]
    assert row.estimates is not None
    for interval in (row.estimates.doubly_robust, row.estimates.inverse_propensity, row.estimates.self_normalised):
        assert abs(interval.mean - 0.9) < 2 * (interval.high - interval.low) / 2 < 0.2
    assert row.gain is not None
    assert row.gain.low > 0.4
    assert found.earned.mean < 0.4
    assert [r.label for r in found.rows] == ["router", *(f"always {fruit}" for fruit in FRUIT)]
    for other in found.rows[1:]:
        assert other.estimates is not None
        assert abs(other.estimates.doubly_robust.mean - 0.433) < 0.08


def test_estimated_propensities_are_near_the_true_ones_and_judge_alike() -> None:
    table, kinds, _ = fruit_log(4000)
    assert table.propensities is not None
    actions = np.array([FRUIT.index(name) for name in table.actions])
    told = estimated(kinds, actions, np.arange(4000) % 5, floor=0.02)
    assert np.abs(told.propensities - table.propensities).max() < 0.06
    assert told.raised == 0
    raised = estimated(kinds, actions, np.arange(4000) % 5, floor=0.3)
    assert raised.raised == int((told.propensities < 0.3).sum()) > 0
    assert raised.propensities.min() == 0.3
    unknown = LoggedTable(table.questions, table.actions, table.rewards, None)
    judged = judge_logged(unknown, FRUIT, {"router": kinds}, kinds, 0.02)
    assert judged.clipped is not None
    assert judged.rows[0].estimates is not None
    assert abs(judged.rows[0].estimates.doubly_robust.mean - 0.9) < 0.06


def test_a_choice_that_no_other_fold_has_gets_the_floor() -> None:
    actions, folds = np.array([0, 1, 0, 1, 2, 1]), np.array([0, 0, 1, 1, 0, 1])
    assert estimated(np.zeros((6, 1)), actions, folds, floor=0.05).propensities[4] == 0.05
    with pytest.raises(ValueError, match="folds: got 1"):
        estimated(np.zeros((6, 1)), actions, np.zeros(6, np.int64), floor=0.05)


def test_a_fruit_that_was_never_logged_is_refused_with_numbers_and_others_are_told() -> None:
    table, kinds, _ = fruit_log(2000)
    kept = [i for i, name in enumerate(table.actions) if name != "plum"]
    assert table.propensities is not None
    less = LoggedTable(
        tuple(table.questions[i] for i in kept), tuple(table.actions[i] for i in kept), table.rewards[kept],
        table.propensities[kept],
    )  # fmt: skip
    share = kinds[kept][:, 2].mean()
    with pytest.raises(
        DataError, match=rf"router would have earned: support is missing: .*plum {share:.1%} .* 0 times"
    ):
        judge_logged(less, FRUIT, {"router": kinds[kept]}, kinds[kept], 0.02)
    with pytest.raises(DataError, match=r"no candidates of the run: it has apple.*, the run x, y"):
        judge_logged(table, ("x", "y"), {"router": kinds[:, :2]}, kinds, 0.02)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HAPS_CACHE", str(folder / "cache"))
        replay_sweep(folder / "made", fruit_study(fruit_table(folder / "made.jsonl")), (0.05,))
    return folder


def log_file(path: Path, rows: int, foreign: int = 0) -> Path:
    table, _, _ = fruit_log(rows, seed=7)
    assert table.propensities is not None
    written = [
        {"prompt": q.text, "model": a, "reward": r, "propensity": p}
        for q, a, r, p in zip(
            table.questions, table.actions, table.rewards.tolist(), table.propensities.tolist(), strict=True
        )
    ]
    for line in random.Random(0).sample(written, foreign):
        line["model"] = "fig/1"
    return write(path, written)


def test_haps_evaluate_logged_says_what_the_router_would_have_earned(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HAPS_CACHE", str(runs / "cache"))
    file = log_file(tmp_path / "production.csv", 1500, foreign=30)
    told = [json.loads(line) for line in (runs / "made.jsonl").read_text().splitlines()]
    with file.open("a") as out:
        out.write(f"{told[0]['query']},apple,1,0.5\n")
    done = CliRunner().invoke(
        app, ["evaluate", "made", "--runs", str(runs), "--logged", str(file)], catch_exceptions=False
    )
    assert "1,500 logged choices" in done.output
    assert "1 logged questions whose text stands in the run's own table are left out" in done.output
    assert "30 choices are no candidates of the run" in done.output
    kept = json.loads((runs / "made" / "logged-production.csv.json").read_text(), parse_constant=pytest.fail)
    rows = {row["label"]: row for row in kept["rows"]}
    assert rows["router"]["doubly robust"]["low"] > 0.65
    assert rows["router"]["over the log"]["low"] > 0.3
    assert rows["router, sampled"]["refused"] is None
    assert kept["earned"]["mean"] < 0.4


def test_only_a_replay_is_judged_by_a_log(tmp_path: Path) -> None:
    RunFolder(tmp_path / "alone", a_study().experiment)
    for option in ("--logged", "--table"):
        with pytest.raises(ConfigError, match="only a replay is judged on a table or a log"):
            CliRunner().invoke(
                app, ["evaluate", "alone", "--runs", str(tmp_path), option, "x.csv"], catch_exceptions=False
            )
