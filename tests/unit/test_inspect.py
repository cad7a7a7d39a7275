"""haps inspect: one screen about a table."""

from __future__ import annotations

import json
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from haps_search.cli.main import app
from haps_search.config.candidates import CandidateConfig
from haps_search.config.load import parse_table
from haps_search.errors import ConfigError, DataError
from haps_search.tasks.tables.reading import read_table, survey
from haps_search.tasks.tables.splits import digests, folds

ASSETS = Path(__file__).parents[1] / "assets" / "tables"


def haps(*arguments: str | Path) -> str:
    done = CliRunner().invoke(app, ["inspect", *map(str, arguments)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def planted(path: Path, models: int = 3) -> Path:
    """120 questions of which two come again in the test split, one without a score, and a model name like markup."""
    rows = [
        {
            "id": i,
            "query": f"Question {i if i < 118 else i - 118}",
            "split": "train" if i < 118 else "test",
            "scores": {f"m{m} [bold]": float((i + m) % 3 == 0) for m in range(models)},
        }
        for i in range(120)
    ]
    del rows[7]["scores"]["m1 [bold]"]  # type: ignore[attr-defined]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_what_was_planted_is_on_the_screen(tmp_path: Path) -> None:
    shown = haps(planted(tmp_path / "t.jsonl"))
    lines = shown.splitlines()
    assert len(lines) <= 45
    for part in (
        "120 x 3 models",
        "1 cells in 1 questions",
        "2 texts on 4 questions (2 to the letter",
        "2 texts stand in several splits (2 in test and train), e.g. 0, 118",
        "m2 [bold]",
        "119 questions that all models answered",
        "Routing may help",
        "each score is one run",
    ):
        assert part in shown, part


def test_a_pool_of_many_models_still_fits_one_screen(tmp_path: Path) -> None:
    shown = haps(planted(tmp_path / "t.jsonl", models=40)).splitlines()
    assert len(shown) <= 45
    assert any("and 26 more" in line for line in shown)


def test_costs_say_what_they_are() -> None:
    assert "per million tokens" in haps(ASSETS / "llmrouter" / "outcomes.jsonl")
    assert "per question, in the table's money" in haps(ASSETS / "routerbench.jsonl", "--layout", "routerbench")


def test_all_numbers_are_kept_as_strict_json(tmp_path: Path) -> None:
    haps(planted(tmp_path / "t.jsonl"), "--json", tmp_path / "report.json")
    kept = json.loads((tmp_path / "report.json").read_text(), parse_constant=pytest.fail)
    assert kept["layout"] == "llmrouter"
    assert kept["census"]["missing_cells"] == 1
    assert kept["verdict"]["kind"] == "open"
    assert len(kept["likeness"]["matrix"]) == 3
    assert kept["gains"]["oracle"]["gain"]["mean"] > 0.3


def test_a_description_in_yaml_decides_about_policies(tmp_path: Path) -> None:
    table, config = planted(tmp_path / "t.jsonl"), tmp_path / "t.yaml"
    config.write_text(f"file: {table}\nlayout: {{type: llmrouter}}\nmissing: drop\n")
    assert "dropped     1 questions" in haps("--config", config)
    config.write_text(f"file: {table}\n")
    with pytest.raises(DataError, match="1 missing cells"):
        haps("--config", config)


def test_what_cannot_be_read_is_counted_on_the_screen_and_kept(tmp_path: Path) -> None:
    file = planted(tmp_path / "t.jsonl")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    for i in (3, 5, 9):
        rows[i]["scores"]["m0 [bold]"] = "n/a"
    rows[11]["query"] = None
    file.write_text("".join(json.dumps(row) + "\n" for row in rows) + "{broken\n")
    shown = haps(file, "--json", tmp_path / "report.json")
    assert "119 x 3 models" in shown
    assert "3 times: " in shown
    assert '`scores.m0 [bold]`: got "n/a", needs a number' in " ".join(shown.split())
    kept = json.loads((tmp_path / "report.json").read_text())
    assert [(u["kind"], u["count"]) for u in kept["unread"]] == [
        ("`scores.m0 [bold]`: needs a number", 3), ("`query`: needs text that is not empty", 1), ("bad JSON", 1),
    ]  # fmt: skip
    assert kept["unread"][0]["first"].startswith(f"{file}:4: ")


@pytest.mark.parametrize("content", ["", "{", '[{"a": 1}]'])
def test_a_table_that_cannot_be_read_is_answered_before_anything_heavy_is_loaded(tmp_path: Path, content: str) -> None:
    (tmp_path / "t.json").write_text(content)
    code = (
        "import sys\nfrom haps_search.cli.main import main\nsys.argv = ['haps', 'inspect', 't.json']\n"
        "try:\n    main()\nexcept SystemExit as left:\n    print(left.code, *sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    code_, *modules = done.stdout.split()
    assert code_ in "12"
    assert {module.partition(".")[0] for module in modules} & {
        "sklearn",
        "scipy",
        "torch",
        "matplotlib",
        "ray",
    } == set()


@pytest.mark.parametrize("ending", ["jsonl", "json"])
def test_texts_are_not_held(tmp_path: Path, ending: str) -> None:
    """2,000 questions of 5 kB; what is kept of each is a few numbers."""
    rows = [{"id": i, "query": f"{i} " + "x" * 5000, "scores": {"a": 1, "b": i % 2}} for i in range(2000)]
    file = tmp_path / f"t.{ending}"
    file.write_text(json.dumps(rows) if ending == "json" else "".join(json.dumps(row) + "\n" for row in rows))
    config = parse_table({"file": str(file)})
    del rows
    tracemalloc.start()
    try:
        loaded, texts = survey(config)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(loaded.table.questions) == len(set(texts.exact.tolist())) == 2000
    assert peak < 6_000_000, f"{peak} bytes for texts of 10 MB"
    table = read_table(config)
    assert (digests([q.text for q in table.questions]).folds(2) == texts.folds(2)).all()
    assert (folds([q.text for q in table.questions], 2) == texts.folds(2)).all()


def test_one_table_is_needed_and_one_only(tmp_path: Path) -> None:
    for arguments in ([], ["t.jsonl", "--config", "t.yaml"]):
        with pytest.raises(ConfigError, match="needs either a table or --config"):
            haps(*arguments)
    with pytest.raises(ConfigError, match=r"layout\.type: got \"llmruoter\".*did you mean llmrouter\?"):
        haps(tmp_path / "t.jsonl", "--layout", "llmruoter")


def test_candidates_of_a_replay_study_are_written_out(tmp_path: Path) -> None:
    file = tmp_path / "table.jsonl"
    rows = [{"id": str(i), "query": f"text {i}", "split": "train", "scores": {"lab/a": 1, "b": 0}} for i in (0, 1)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    listed = yaml.safe_load(haps(file, "--candidates"))["candidates"]
    assert [CandidateConfig.model_validate(each).name for each in listed] == ["lab-a", "b"]
