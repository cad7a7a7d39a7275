"""The arms of a sweep side by side, on the same questions and the same seeds."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from haps_search.config.engines import RayEngineConfig
from haps_search.config.sweep import Study
from haps_search.errors import ConfigError
from haps_search.evaluation.comparison import ArmRow, arm_rows
from haps_search.evaluation.intervals import Interval
from haps_search.evaluation.labels import ORACLE
from haps_search.records.readings import earlier_readings, note_reading
from haps_search.records.sealed import replace_text
from haps_search.search.engine import finished
from haps_search.search.validation import Scored
from haps_search.sweep.events import SweepEnded, TrialRecord
from haps_search.sweep.inputs import all_at_hand
from haps_search.sweep.settings import arms
from haps_search.tasks.held_out import Held
from haps_search.types import Assignment
from haps_search.verbs.driver import Driver, driven, no_result
from haps_search.verbs.events import Report, Said, silent
from haps_search.verbs.find import sweep_journal
from haps_search.verbs.frames import frame, interval, page
from haps_search.verbs.measure import frozen_scores, keep_texts, score_trials
from haps_search.version import __version__

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True)
class Measured:
    """Rewards (S, N) per arm, with the questions they stand for.

    `failed` are trials that broke, `missing` arms and seeds that have not ended.
    """

    split: Held
    questions: tuple[str, ...]
    rewards: Mapping[str, Sequence[Sequence[float]]]
    seeds: Mapping[str, tuple[int, ...]]
    failed: tuple[str, ...]
    missing: tuple[str, ...]


@dataclass(frozen=True)
class ArmsComparison:
    """What was measured, the table's rows, and the file that keeps both."""

    name: str
    measured: Measured
    rows: tuple[ArmRow, ...]
    file: Path

    @property
    def frame(self) -> DataFrame:
        """A row per arm: reward and paired difference to the first arm, with 95 % intervals."""
        found = [
            {
                "": r.label,
                **interval("reward", r.reward),
                **interval("difference", r.difference),
                "could_show": r.resolvable,
            }
            for r in self.rows
        ]
        return frame(found, "")

    def _repr_html_(self) -> str:
        return page(f"{self.name}, {self.measured.split} split", {"arms": self.frame})


def compare(
    name: str,
    split: Held,
    again: bool = False,
    runs: str | Path = "runs",
    report: Report = silent,
    profile: str | None = None,
) -> ArmsComparison:
    """Measure every arm and seed, and the frozen candidates, on a pool under the sweep's profile or another one.

    Raises:
        ConfigError: the study has no arms, or the test split was read before and nobody asked for it `again`.
        PoolError: no arm has a result, or the machines gave up.
    """
    journal = sweep_journal(runs, name)
    study, ended = all_at_hand(journal.study(), journal.folder), journal.last_end()
    if profile is not None:
        placed = study.experiment.model_copy(update={"engine": RayEngineConfig(profile=profile)})
        study = study.model_copy(update={"experiment": placed})
    if not study.arms:
        raise ConfigError(
            f"sweep {name} has no arms to compare; `haps evaluate {name} --split {split}` measures its best trial"
        )
    if split == "test":
        earlier_readings(journal.folder, again)  # before Ray is started for nothing
    if not finished_arms(journal.trials(), study):
        raise no_result(journal.trials(), name)

    def work(d: Driver) -> ArmsComparison:
        measured = measure_arms(d, study, split, again)
        if ended is not None:  # taking the sweep up opened it again
            d.journal.append(SweepEnded(ended.reason, time.time()))
        return measured

    return driven(study, journal.folder, True, report, work)


def measure_arms(d: Driver, study: Study, split: Held, again: bool = False) -> ArmsComparison:
    """All arms on a split, kept as `compare-SPLIT.json` with every reward. Raises ConfigError as `compare`."""
    folder, trials = d.journal.folder, finished_arms(d.journal.trials(), study)
    if not trials:
        raise no_result(d.journal.trials(), folder.name)
    if split == "test":
        earlier = note_reading(folder, f"{folder.name}, {len(trials)} runs of arms", again)
        for first in earlier[:1]:
            d.report(Said(f"the test split was read {len(earlier)} times before, first on {first.when}"))
    return _kept(folder, _measured(d, study, trials, split))


def _measured(d: Driver, study: Study, trials: Sequence[TrialRecord], split: Held) -> Measured:
    """Every run and, but in replay, the frozen candidates; their texts are kept in `examples-SPLIT.jsonl`."""
    replays = study.experiment.task.type == "replay"  # its table may lack answers, and nobody can be asked for them
    beside = "" if replays else " and the frozen candidates"
    d.report(Said(f"measuring {len(trials)} runs{beside} on the whole {split} split"))

    def say(trial: TrialRecord, one: Scored) -> None:
        d.report(Said(f"  {trial.label}, seed {trial.seed}: {one.mean:.3f}"))

    scored: dict[str, list[Scored]] = {}
    seeds: dict[str, tuple[int, ...]] = {}
    found = finished(score_trials(d.live, d.journal.folder, study, trials, split, say))
    for trial, one in zip(trials, found, strict=True):
        scored.setdefault(trial.label, []).append(one)
        seeds[trial.label] = (*seeds.get(trial.label, ()), trial.seed)
    frozen = {} if replays else finished(frozen_scores(d.live, d.journal.folder, study.experiment, split))
    questions = same_questions([s for row in scored.values() for s in row] + list(frozen.values()))
    texts = {f"frozen {', '.join(z)}": s for z, s in frozen.items()} | {k: v[0] for k, v in scored.items()}
    keep_texts(d.journal.folder / f"examples-{split}.jsonl", texts)
    failed = tuple(f"{t.label}, seed {t.seed}: {t.error}" for t in d.journal.trials() if t.state == "failed")
    left = missing_arms(d.journal.trials(), study)
    return Measured(split, questions, arm_rewards(scored, frozen), seeds, failed, left)


def _kept(folder: Path, measured: Measured) -> ArmsComparison:
    rows = tuple(arm_rows(measured.rewards, measured.seeds))
    content = {
        "code_version": __version__,
        "rows": [asdict(row) | {"resolvable": _or_none(row.resolvable)} for row in rows],
        **asdict(measured),
    }
    file = folder / f"compare-{measured.split}.json"
    replace_text(file, json.dumps(content))
    return ArmsComparison(folder.name, measured, rows, file)


def arm_rewards(
    scored: Mapping[str, Sequence[Scored]], frozen: Mapping[Assignment, Scored]
) -> dict[str, Sequence[Sequence[float]]]:
    """(S, N) per arm, then what frozen candidates earn (S = 1), and the best of them per question in hindsight, where
    they were measured."""
    rewards: dict[str, Sequence[Sequence[float]]] = {label: [s.rewards for s in row] for label, row in scored.items()}
    rewards |= {f"always {', '.join(z)} (frozen)": [s.rewards] for z, s in frozen.items()}
    if frozen:
        rewards[ORACLE] = [[max(r) for r in zip(*(s.rewards for s in frozen.values()), strict=True)]]
    return rewards


def same_questions(scored: Sequence[Scored]) -> tuple[str, ...]:
    """The ids that all were measured on. Raises ConfigError where arms have other questions: nothing can be paired."""
    asked = {tuple((e.question.id, e.question.text, e.question.reference) for e in each.episodes) for each in scored}
    if len(asked) > 1:
        raise ConfigError(
            "arms: their questions differ, so their rewards cannot be paired: arms may not change the files, limits or "
            "sizes of the split that is measured; `haps evaluate NAME/NUMBER` measures a trial alone"
        )
    return tuple(identity for identity, _, _ in asked.pop())


def finished_arms(trials: Sequence[TrialRecord], study: Study) -> list[TrialRecord]:
    """Trials of the study's arms that left a result, arm by arm, seeds in the study's order."""
    order = {label: index for index, label in enumerate(study.arms)}
    there = [t for t in trials if t.label in order and t.state in ("finished", "stopped")]
    return sorted(there, key=lambda t: (order[t.label], study.sweep.seeds.index(t.seed)))


def missing_arms(trials: Sequence[TrialRecord], study: Study) -> tuple[str, ...]:
    """Arms and seeds of the study that have neither a result nor an error."""
    ended = {(t.label, t.seed) for t in trials if t.ended}
    return tuple(f"{s.label}, seed {s.seed}" for s in arms(study) if (s.label, s.seed) not in ended)


def stored_arms(folder: Path, split: Held) -> ArmsComparison | None:
    """The comparison of arms that a sweep's folder keeps; None where it is not there or not whole."""
    file = folder / f"compare-{split}.json"
    try:
        found = json.loads(file.read_text())
        rows = tuple(
            ArmRow(
                r["label"],
                Interval(**r["reward"]),
                Interval(**r["difference"]) if r["difference"] else None,
                tuple(r["seeds"]),
                math.nan if r["resolvable"] is None else r["resolvable"],
            )
            for r in found["rows"]
        )
        seeds = {label: tuple(each) for label, each in found["seeds"].items()}
        kept = Measured(
            split, tuple(found["questions"]), found["rewards"], seeds, tuple(found["failed"]), tuple(found["missing"])
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return ArmsComparison(folder.name, kept, rows, file)


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value
