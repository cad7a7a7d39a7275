"""The outcome in sentences with numbers. What an interval does not show is not said."""

from __future__ import annotations

from collections.abc import Sequence

from haps_search.evaluation.intervals import seed_interval
from haps_search.report.shape import number
from haps_search.report.source import Source
from haps_search.report.standings import Gap, Standing, Standings, arms_on, comparison, references
from haps_search.report.stored import Fields
from haps_search.report.trouble import alarms
from haps_search.sweep.events import TrialRecord

ORACLES = ("per-query oracle", "oracle")
"""Rows that choose with the answers in sight; no router is held against them."""


def verdict(source: Source) -> tuple[str, ...]:
    """Sentences in the order they matter."""
    said = [*_unfinished(source), *_winner(source)]
    for split in ("test", "validation"):
        arms = arms_on(source, split)
        said += _arms(arms, split) if arms else []
    for found in (comparison(source), references(source)):
        said += _best_other(found) if found else []
    said += _judged(source)
    return (*said, *_confirmed(source), *_troubles(source))


def _unfinished(source: Source) -> list[str]:
    done = sum(t.ended for t in source.trials)
    if source.kind == "run":
        return [] if done else ["The run has not ended; what follows will change."]
    if source.ended:
        return []
    return [f"The sweep has not ended ({done} of {len(source.trials)} begun trials have); what follows will change."]


def _winner(source: Source) -> list[str]:
    if source.arms:
        return []
    if not source.ranked:
        return ["No trial has ended with a result yet."] if source.trials else ["No trial has begun yet."]
    best, objective = source.ranked[0], source.objectives[0]
    who = "The run" if source.kind == "run" else f"The best of {len(source.ranked)} search trials, {best.number:03d},"
    value = number(best.metrics[objective.metric])
    others = "".join(f", {o.metric} {number(best.metrics[o.metric])}" for o in source.objectives[1:])
    steps = f" after {source.of(best)[-1][0]} steps" if source.of(best) else ""
    stopped = "" if best.state == "finished" else "; the scheduler stopped it there"
    return [f"{who} reached {objective.metric} {value}{others}{steps}{stopped}."]


def _arms(found: Standings, split: str) -> list[str]:
    first = next((row for row in found.rows if row.label == found.chief), None)
    if first is None:
        return []
    said = [f"On {split} {first.label} earns {_interval(first)}{_over(first)}."]
    for row in found.rows:
        if row.gap is not None and row.label not in ORACLES and "(frozen)" not in row.label:
            said.append(f"{row.label} {held_against(row.gap, first.label)}.")
    return said


def _best_other(found: Standings) -> list[str]:
    chief = next((row for row in found.rows if row.label == found.chief), None)
    if chief is None:
        return []
    said = [f"{found.title}: {chief.label} has {_interval(chief)}{_over(chief)}."]
    others = [row for row in found.rows if row is not chief and _is_rival(row)]
    best = max(others, key=lambda row: row.mean, default=None)
    if best is not None and best.gap is not None:
        said.append(f"It {held_against(best.gap, f'{best.label}, the best row beside it ({number(best.mean)})')}.")
    elif best is not None:
        said.append(f"The best row beside it is {best.label} with {_interval(best)}; no paired difference is known.")
    return said


def _is_rival(row: Standing) -> bool:
    """Whether a router could be this row, and it is no other form of the searched router."""
    return row.label not in ORACLES and row.extra.get("kind") != "router"


def _judged(source: Source) -> list[str]:
    """What judging a replay said of AIQ; of mean reward the rows above say it."""
    stored = source.stored.get("references.json")
    if stored is None or not stored.has("outcomes"):
        return []
    rows = stored.objects("outcomes")
    gaps = [(row.text("measure"), row.text("reference"), _stored_gap(row)) for row in rows]
    return [f"In {measure} it {held_against(gap, name)}." for measure, name, gap in gaps if measure != "mean reward"]


def _stored_gap(fields: Fields) -> Gap:
    return Gap(fields.number("mean"), fields.maybe("low"), fields.maybe("high"))


def held_against(gap: Gap, other: str) -> str:
    """Better, worse or not told apart, by where the interval of a difference lies."""
    shown = f"{gap.mean:+.3f} [{number(gap.low)}, {number(gap.high)}]"
    if gap.low is None or gap.high is None:
        return f"differs by {gap.mean:+.3f} from {other}, without an interval"
    if gap.low > 0:
        return f"is better than {other}: {shown}"
    if gap.high < 0:
        return f"is worse than {other}: {shown}"
    return f"cannot be told apart from {other}: {shown}"


FEW = 8
"""So many values are read one by one."""


def _confirmed(source: Source) -> list[str]:
    if source.kind == "run" or source.arms or not source.ranked:
        return []
    best, metric = source.ranked[0], source.objectives[0].metric
    again = [t.metrics[metric] for t in _confirming(source.trials, best) if metric in t.metrics]
    if again:
        spread = seed_interval(again)
        each = f": {' '.join(number(v) for v in again)}" if len(again) <= FEW else f" over {len(again)} of them"
        ends = f" [{_ends(spread.low, spread.high)}]" if len(again) > 2 else ""
        return [f"On fresh seeds its setting gives {number(spread.mean)}{ends}{each}."]
    if len(source.ranked) < 2:
        return []
    return [
        "The best of many looks better than it is: it is not confirmed on fresh seeds "
        f"(`haps confirm {source.name}` does it)."
    ]


def _confirming(trials: Sequence[TrialRecord], best: TrialRecord) -> list[TrialRecord]:
    label = f"trial {best.number}"
    return [t for t in trials if t.kind == "confirm" and t.label == label and t.state in ("finished", "stopped")]


def _troubles(source: Source) -> list[str]:
    failed = sum(t.state == "failed" for t in source.trials)
    raised = {alarm.trial for alarm in alarms(source)}
    said = [f"{failed} of {len(source.trials)} trials failed."] if failed else []
    return said + ([f"Collapse alarms rose in {len(raised)} of {len(source.trials)} runs."] if raised else [])


def _interval(row: Standing) -> str:
    return f"{number(row.mean)} [{_ends(row.low, row.high)}]"


def _ends(low: float | None, high: float | None) -> str:
    return f"{number(low)}, {number(high)}"


def _over(row: Standing) -> str:
    return "" if row.count is None else f" over {row.count} questions"
