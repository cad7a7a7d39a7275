"""The reckoning: every trial, step and question of a sweep exactly once, by what lies in its folder. Reads only."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

from haps_search.config.run import RunConfig
from haps_search.errors import DataError
from haps_search.records.jsonl import read_lines
from haps_search.records.run_folder import EXAMPLES
from haps_search.sweep.events import AttemptStarted, Event, SweepEnded, TrialEnded, TrialRecord, TrialSuggested
from haps_search.sweep.journal import Journal
from haps_search.sweep.layout import lock_file, trial_folder, trial_name
from haps_search.sweep.lock import holder
from haps_search.sweep.settings import experiment_of


def sweep_problems(sweep: Path, deadly: Collection[int] = ()) -> list[str]:
    """What does not add up in a sweep's folder, each with its name; empty where all is there once. Of `deadly` trials
    each may have failed, with its reason and what it printed last."""
    journal = Journal(sweep)
    try:
        events, trials, study = list(journal.events()), journal.trials(), journal.study()
    except DataError as error:
        return [str(error)]
    failed = {trial.number for trial in trials if trial.number in deadly and trial.state == "failed"}
    found = [*_journal(events, study.sweep.trials, failed), *_ended(sweep, events)]
    for trial in trials:
        if trial.number in failed:
            found += [] if trial.error else [f"trial {trial_name(trial.number)}: it has failed without a reason"]
            continue
        run = experiment_of(study, trial).run
        found += [f"trial {trial_name(trial.number)}: {problem}" for problem in _trial(sweep, trial, run)]
    return [f"{sweep.name}: {problem}" for problem in found]


def _journal(events: Sequence[Event], wanted: int, failed: Collection[int]) -> Iterator[str]:
    suggested = Counter(e.number for e in events if isinstance(e, TrialSuggested))
    if suggested != Counter(range(wanted)):
        yield f"needs trials 0 to {wanted - 1}, each suggested once; got {dict(suggested)}"
    drawn = Counter(json.dumps(dict(e.parameters), sort_keys=True) for e in events if isinstance(e, TrialSuggested))
    yield from (f"{count} trials of the same parameters {text}" for text, count in drawn.items() if count > 1)
    for number in suggested:
        attempts = [e.attempt for e in events if isinstance(e, AttemptStarted) and e.number == number]
        if attempts != list(range(1, len(attempts) + 1)):
            yield f"trial {trial_name(number)}: attempts {attempts}, which do not count from 1"
        ends = [e.state for e in events if isinstance(e, TrialEnded) and e.number == number]
        needed = "failed" if number in failed else "finished"
        if ends != [needed]:
            yield f"trial {trial_name(number)}: ended {ends}, needs one end, {needed}"


def _ended(sweep: Path, events: Sequence[Event]) -> Iterator[str]:
    if not events or not isinstance(events[-1], SweepEnded):
        yield "the journal does not close with the sweep's end"
    if not (sweep / "report.json").exists():
        yield "report.json is missing"
    held = holder(lock_file(sweep))
    if held is not None:
        yield f"its lock is held by {held}"


def _trial(sweep: Path, trial: TrialRecord, run: RunConfig) -> Iterator[str]:
    folder = trial_folder(sweep, trial.number)
    try:
        yield from _metrics(folder / "metrics.jsonl", run)
        yield from _examples(folder / "examples.jsonl", run)
    except DataError as error:
        yield str(error)
    result = folder / "result.json"
    written = json.loads(result.read_text())["metrics"] if result.exists() else None
    if written != trial.metrics:
        yield f"the journal's last metrics {dict(trial.metrics)} are not those of result.json {written}"
    if leftovers := sorted(p.name for p in folder.rglob("*.tmp-*")):
        yield f"half-written files are left: {leftovers}"


def _metrics(file: Path, run: RunConfig) -> Iterator[str]:
    lines = read_lines(file)
    if lines.torn:
        yield f"{file.name}: the last line is torn"
    yield from _once(file.name, (f["step"] for f in lines.fields if "metrics" in f), range(1, run.steps + 1))
    endings = [f["status"] for f in lines.fields if "status" in f]
    if endings != ["finished"]:
        yield f"{file.name}: endings {endings}, needs one, finished"
    for fields in lines.fields:
        validated = "validation_reward" in fields.get("metrics", {})
        if "metrics" in fields and validated != (fields["step"] in _validated(run)):
            yield f"{file.name}: step {fields['step']} is {'' if validated else 'not '}validated"


def _examples(file: Path, run: RunConfig) -> Iterator[str]:
    """Each validation keeps the same questions, its first ones."""
    lines = read_lines(file)
    if lines.torn:
        yield f"{file.name}: the last line is torn"
    asked: dict[int, list[str]] = {step: [] for step in _validated(run)}
    for fields in lines.fields:
        asked.setdefault(fields["step"], []).append(fields["question"])
    wanted = min(run.validation.questions or EXAMPLES, EXAMPLES)
    first = next(iter(asked.values()))
    if len(set(first)) != wanted:
        yield f"{file.name}: {len(set(first))} questions at the first validation, needs {wanted}"
    if set(asked) != set(_validated(run)):
        yield f"{file.name}: has steps {sorted(asked)}, validated were {_validated(run)}"
    for step, questions in asked.items():
        yield from _once(f"{file.name}, step {step}", questions, dict.fromkeys(first))


def _validated(run: RunConfig) -> list[int]:
    return [step for step in range(1, run.steps + 1) if step == run.steps or step % run.validation.every == 0]


def _once(where: str, got: Iterable[int | str], wanted: Iterable[int | str]) -> Iterator[str]:
    counts, needed = Counter(got), set(wanted)
    for name in sorted(needed - set(counts), key=str):
        yield f"{where}: {name} is missing"
    for name, count in counts.items():
        if name not in needed:
            yield f"{where}: {name} does not belong there"
        elif count > 1:
            yield f"{where}: {name} is there {count} times"
