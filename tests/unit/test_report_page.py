"""The page itself: whole, self-contained, the same each time; and the verb that writes it."""

from __future__ import annotations

import csv
import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from reports import RATE, a_sweep, log, searched, steps_of, study_of
from sweeps import a_trial
from typer.testing import CliRunner

from haps_search.cli.main import app, main
from haps_search.report.build import as_csv, build, page, shown, write
from haps_search.report.canvas import THEME, inline_svg, light, short, words
from haps_search.report.parameters import Importance
from haps_search.report.shape import Report
from haps_search.report.source import read_sweep
from haps_search.sweep.journal import Journal

EVIL = '<script>alert("1")</script> $x_{2}$ & \x07'
FOUND = (Importance("validation_reward", "PED-ANOVA", 6, {RATE: 1.0}),)


class Seen(HTMLParser):
    """Tags, ids, what refers to ids, and addresses; complains of tags that do not nest."""

    VOID = frozenset({"meta", "br", "link", "img"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.refers: list[str] = []
        self.links: list[str] = []
        self.loads: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in self.VOID:
            self._open.append(tag)
        for name, value in attrs:
            self._take(tag, name, value or "")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def _take(self, tag: str, name: str, value: str) -> None:
        if name == "id":
            self.ids.append(value)
        elif name == "aria-labelledby":
            self.refers += value.split()
        elif name == "href" and value.startswith("#"):
            self.refers.append(value[1:])
        elif name == "href":
            self.links.append(value)
        elif name in ("src", "srcset", "data", "action") or name.startswith("on"):
            self.loads.append(f"{tag} {name}={value}")
        self.refers += re.findall(r"url\(#([^)]+)\)", value)


@pytest.fixture(scope="module")
def journal(tmp_path_factory: pytest.TempPathFactory) -> Journal:
    """A sweep with everything a report can show, under names that would break a careless page."""
    runs = tmp_path_factory.mktemp("runs")
    searched(runs)
    stored = {
        "references.json": {
            "rows": [{"label": EVIL, "mean": 0.5, "low": 0.4, "high": None, EVIL: 1}],
            "shares": [{"row": EVIL, EVIL: 0.5}],
        },
        "curve.json": {
            "points": [{"label": EVIL, "cost": 1, "reward": 0.5}],
            "hull": [{"cost": 1, "reward": 0.5}],
        },
        "tasks.json": {"rows": [{"task": EVIL, "kNN": 0.5}, {"task": "b", "router": 0.25}]},
        "calibration.json": {"bins": [{"predicted": 0.5, "realised": 0.5, "count": 3}]},
    }
    for name, content in stored.items():
        (runs / "tiny" / name).write_text(json.dumps(content))
    return Journal(runs / "tiny")


@pytest.fixture(scope="module")
def replayed(journal: Journal) -> Report:
    return build(read_sweep(journal), FOUND)


def test_the_page_holds_together(replayed: Report) -> None:
    seen = Seen(page(replayed))
    assert len(seen.ids) == len(set(seen.ids))
    assert set(seen.refers) <= set(seen.ids)
    assert seen.tags.count("svg") == sum(len(s.figures) for s in replayed.sections) >= 11
    assert seen.tags.count("svg") == seen.tags.count("desc")


def test_the_page_needs_no_network_and_runs_nothing(replayed: Report) -> None:
    text = page(replayed)
    seen = Seen(text)
    assert seen.loads == []
    assert {"script", "link", "iframe", "object"} & set(seen.tags) == set()
    assert {link for link in seen.links if not re.fullmatch(r"[\w.-]+\.csv", link)} == set()
    assert "@import" not in text
    assert re.findall(r"url\((?!#)", text) == []


def test_names_of_the_user_stay_text(replayed: Report) -> None:
    text = page(replayed)
    assert "&lt;script&gt;alert" in text
    assert "&lt;b&gt;loss&lt;/b&gt; is nan &amp; gone" in text


def test_every_table_and_figure_has_its_csv(replayed: Report, tmp_path: Path) -> None:
    file = write(replayed, tmp_path / "deep" / "report")
    links = set(Seen(file.read_text()).links)
    assert links == {f.name for f in file.parent.glob("*.csv")}
    with (file.parent / "trials.csv").open(newline="") as lines:
        rows = list(csv.reader(lines))
    assert len(rows) == 9
    assert rows[0][:4] == ["trial", "what", "state", "seed"]


def test_csv_keeps_all_digits_and_quotes_what_needs_it() -> None:
    from haps_search.report.shape import Table

    assert as_csv(Table("t", "t", ("a", "b"), ((0.1 + 0.2, 'x, "y"'), (None, 3)))) == (
        'a,b\n0.30000000000000004,"x, ""y"""\n,3\n'
    )


def test_the_same_sweep_gives_the_same_bytes(journal: Journal, replayed: Report) -> None:
    assert page(build(read_sweep(journal), FOUND)) == page(replayed)


def test_every_colour_of_a_figure_has_a_dark_side(replayed: Report) -> None:
    svgs = [f.svg for s in replayed.sections for f in s.figures]
    assert [c for svg in svgs for c in re.findall(r"#[0-9a-fA-F]{6}\b", svg)] == []
    used = {name for svg in svgs for name in re.findall(r"var\(--([\w-]+)\)", svg)}
    assert used <= set(THEME)
    assert len({bright for bright, _ in THEME.values()}) == len(THEME)


def test_a_users_own_matplotlib_settings_change_nothing() -> None:
    import matplotlib

    def paint(axes: object) -> None:
        axes.plot([0, 1], [0, 1], color=light("best"))  # type: ignore[attr-defined]

    plain = inline_svg("n", "t", "d", paint)
    with matplotlib.rc_context({"axes.linewidth": 5, "svg.fonttype": "path", "xtick.direction": "in"}):
        assert inline_svg("n", "t", "d", paint) == plain


def test_a_sweep_with_nothing_in_it_yet_says_what_is_missing(tmp_path: Path) -> None:
    report = build(read_sweep(a_sweep(tmp_path / "new", study_of(), [], {})))
    assert report.missing == (
        "Comparison: it is measured when the sweep ends",
        "Learning curves: no step has been recorded yet",
        "Route shares: no step with route shares has been recorded yet",
        "Parameter importance: no space was searched",
        "Parallel coordinates: no space was searched",
        "Parameter and objective: no space was searched",
        "Trials: no trial has begun yet",
        "Collapse alarms: no step has been recorded yet",
    )
    Seen(page(report))


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, ""), (0.5, "0.500"), (0.0, "0.000"), (1e-5, "1e-05"), (12345.0, "12345"), (1.5e7, "1.5e+07"), (7, "7")],
)
def test_cells_are_short(value: float | None, text: str) -> None:
    assert shown(value) == text


def test_labels_fit_and_hold_nothing_that_xml_cannot() -> None:
    assert words("a\x00b") == "a\N{REPLACEMENT CHARACTER}b"
    assert words("x" * 50, 10) == "x" * 9 + "\N{HORIZONTAL ELLIPSIS}"
    assert (short(0.00001), short(0.25)) == ("1e-5", "0.25")


def haps(*arguments: str) -> str:
    done = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return " ".join(done.output.split())


def test_the_verb_reports_a_sweep_that_runs_and_says_what_is_missing(tmp_path: Path) -> None:
    a_sweep(tmp_path / "going", study_of(), [a_trial(0, state="running")], {0: steps_of([0.1])})
    said = haps("report", "going", "--runs", str(tmp_path))
    assert "not shown Comparison: it is measured when the sweep ends" in said
    assert f"wrote {tmp_path / 'going' / 'report' / 'index.html'}" in said
    assert "The sweep has not ended" in (tmp_path / "going" / "report" / "index.html").read_text()


def test_the_verb_reports_a_single_run_where_it_is_told_to(tmp_path: Path) -> None:
    folder = tmp_path / "alone"
    log(folder, steps_of([0.1, 0.3]))
    (folder / "experiment.json").write_text(study_of().experiment.model_dump_json())
    haps("report", "alone", "--runs", str(tmp_path), "--out", str(tmp_path / "out"))
    text = (tmp_path / "out" / "index.html").read_text()
    assert "not ended, 2 of 20 steps done" in text
    assert not (folder / "report").exists()


def test_an_unknown_name_is_answered_with_the_nearest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    a_sweep(tmp_path / "skills", study_of(), [], {})
    monkeypatch.setattr(sys, "argv", ["haps", "report", "skils", "--runs", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"error: no sweep or run skils under {tmp_path}; did you mean skills?\n"
