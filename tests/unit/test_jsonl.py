"""The run's own log: whole lines only, no step twice, readable while it grows."""

from __future__ import annotations

import errno
import json
import math
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from haps_search.errors import DataError
from haps_search.records.jsonl import (
    JsonlFollower,
    JsonlTracker,
    JsonlWriter,
    read_lines,
    read_records,
    truncate_after,
)
from haps_search.records.tracker import Record


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "metrics.jsonl"


@contextmanager
def disk_full_at(size: int) -> Iterator[None]:
    """Writes beyond `size` bytes of any file fail, the last one half done."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def logged(path: Path, steps: int) -> JsonlTracker:
    tracker = JsonlTracker(path)
    for step in range(steps):
        tracker.log(step, {"reward": step / 10})
    return tracker


def test_a_line_is_on_disk_before_the_call_returns(path: Path) -> None:
    tracker = JsonlTracker(path)
    tracker.log(0, {"reward": 0.5})
    (fields,) = [json.loads(line) for line in path.read_text().splitlines()]
    assert (fields["step"], fields["metrics"]) == (0, {"reward": 0.5})


def test_numbers_that_are_not_finite_survive_strict_json(path: Path) -> None:
    JsonlTracker(path).log(3, {"a": math.nan, "b": math.inf, "c": -math.inf, "d": 1.0})
    line = path.read_text()
    assert json.loads(line, parse_constant=pytest.fail)["metrics"] == {
        "a": "nan", "b": "inf", "c": "-inf", "d": 1.0,
    }  # fmt: skip
    metrics = read_records(path)[0].metrics
    assert math.isnan(metrics["a"])
    assert (metrics["b"], metrics["c"], metrics["d"]) == (math.inf, -math.inf, 1.0)


def test_a_torn_last_line_is_reported_and_left_out(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    logged(path, 2)
    path.write_bytes(path.read_bytes() + b'{"step": 2, "ti')
    assert [record.step for record in read_records(path)] == [0, 1]
    assert "torn" in caplog.text
    assert read_lines(path).torn == '{"step": 2, "ti'


def test_the_next_writer_cuts_a_torn_line_off(path: Path) -> None:
    logged(path, 2)
    path.write_bytes(path.read_bytes() + b'{"step": 2, "ti')
    JsonlTracker(path).log(2, {"reward": 1.0})
    assert [record.step for record in read_records(path)] == [0, 1, 2]


def test_a_broken_line_in_the_middle_is_named(path: Path) -> None:
    logged(path, 1)
    path.write_bytes(path.read_bytes() + b"not json\n" + path.read_bytes())
    with pytest.raises(DataError, match=r"metrics\.jsonl:2"):
        read_records(path)


def test_truncation_drops_later_steps_and_the_ending(path: Path) -> None:
    tracker = logged(path, 8)
    tracker.finish("stopped", {"reward": 0.7})
    resumed = JsonlTracker(path)
    assert resumed.truncate_after(4) == 4
    assert resumed.last_step == 4
    resumed.log(5, {"reward": 9.0})
    steps = [record.step for record in read_records(path)]
    assert steps == [0, 1, 2, 3, 4, 5]
    assert all("status" not in fields for fields in read_lines(path).fields)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_truncation_of_other_files_goes_by_their_step(path: Path) -> None:
    writer = JsonlWriter(path)
    for fields in ({"note": "start"}, {"step": 1, "text": "é\r"}, {"step": 2, "text": "b"}):
        writer.append(fields)
    assert truncate_after(path, 1) == 1
    assert read_lines(path).fields == ({"note": "start"}, {"step": 1, "text": "é\r"})
    assert truncate_after(path.with_name("absent"), 1) == 0


def test_a_full_disk_loses_nothing_once_there_is_room(path: Path) -> None:
    tracker = logged(path, 2)
    with disk_full_at(path.stat().st_size + 10):
        tracker.log(2, {"reward": 0.2})
        tracker.log(3, {"reward": 0.3})
        assert (tracker.missed, tracker.last_step) == (2, 1)
        assert path.read_bytes()[-1:] != b"\n", "the limit was meant to tear a line"
    tracker.log(4, {"reward": 0.4})
    assert tracker.missed == 0
    assert [record.step for record in read_records(path)] == [0, 1, 2, 3, 4]
    assert read_lines(path).torn == ""


def test_a_follower_gives_each_complete_line_once(path: Path) -> None:
    follower = JsonlFollower(path)
    assert follower.new() == []
    tracker = logged(path, 2)
    assert [fields["step"] for fields in follower.new()] == [0, 1]
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"step": 2')
    assert follower.new() == []
    path.write_bytes(whole)
    tracker.log(2, {"reward": 0.0})
    assert [fields["step"] for fields in follower.new()] == [2]
    assert follower.restarts == 0


def test_a_follower_reads_a_truncated_file_again(path: Path) -> None:
    tracker = logged(path, 6)
    follower = JsonlFollower(path)
    follower.new()
    tracker.truncate_after(3)
    assert [fields["step"] for fields in follower.new()] == [0, 1, 2, 3]
    assert follower.restarts == 1


def test_a_follower_notices_a_replacement_that_grew_longer(path: Path) -> None:
    follower = JsonlFollower(path)
    tracker = logged(path, 6)
    follower.new()
    tracker.truncate_after(1)
    tracker.log_many([Record(step, {"another": step * 1.5}, 0.0) for step in range(2, 30)])
    assert [fields["step"] for fields in follower.new()] == list(range(30))
    assert follower.restarts == 1


def test_a_follower_names_the_line_it_cannot_read(path: Path) -> None:
    logged(path, 2)
    follower = JsonlFollower(path)
    follower.new()
    path.write_bytes(path.read_bytes() + b"[1]\n")
    with pytest.raises(DataError, match=r"metrics\.jsonl:3: needs a JSON object, got list"):
        follower.new()


def test_a_disk_that_takes_half_a_line_says_why_it_took_no_more(path: Path) -> None:
    tracker = logged(path, 2)
    with disk_full_at(path.stat().st_size + 10):
        tracker.log(2, {"reward": 0.5})
        assert tracker.missed == 1
        with pytest.raises(OSError, match="File too large") as caught:
            tracker.settle()
    assert caught.value.errno == errno.EFBIG
    tracker.settle()
    assert [record.step for record in read_records(path)] == [0, 1, 2]


def test_a_disk_without_room_for_a_shorter_log_keeps_the_longer_one(path: Path) -> None:
    logged(path, 9)
    whole = path.read_bytes()
    with disk_full_at(40), pytest.raises(OSError, match="File too large"):
        truncate_after(path, 5)
    assert path.read_bytes() == whole
    assert [file.name for file in path.parent.iterdir()] == [path.name]
