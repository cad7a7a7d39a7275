"""What went wrong: failed trials with their reasons, and alarms of collapse."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from haps_search.evaluation.intervals import seed_interval
from haps_search.evaluation.labels import IN_HINDSIGHT
from haps_search.report.comparisons import (
    BACKWARD,
    FORWARD,
    Gap,
    Standing,
    Standings,
    arms_on,
    comparison,
    on_test,
    references,
)
from haps_search.report.noise import noise_verdict
from haps_search.report.shape import Section, Table, number
from haps_search.report.source import Fields, Source
from haps_search.sweep.events import TrialRecord
from haps_search.sweep.ranking import broken, ranked

ALARMS = ("route_collapse", "answer_collapse")


@dataclass(frozen=True, slots=True)
class Alarm:
    """One alarm of one trial: the steps at which it rose first and last, at how many, of how many recorded."""

    trial: int
    alarm: str
    first: int
    last: int
    steps: int
    recorded: int


def alarms(source: Source) -> list[Alarm]:
    """By trial; trials that raised none have no row."""
    found = []
    for trial in source.trials:
        points = source.of(trial)
        for name in ALARMS:
            steps = [step for step, metrics in points if metrics.get(name)]
            if steps:
                found.append(Alarm(trial.number, name, steps[0], steps[-1], len(steps), len(points)))
    return found


def failures(source: Source) -> Table:
    """Failed trials with attempts and reasons."""
    rows = [
        (
            t.number,
            t.label or t.kind,
            t.attempts,
            source.of(t)[-1][0] if source.of(t) else None,
            t.error,
            " | ".join(t.log),
        )
        for t in source.trials
        if t.state == "failed"
    ]
    heads = ("trial", "what", "attempts", "last step", "reason", "printed last")
    return Table("failed", "Failed trials", heads, tuple(rows))


def failures_section(source: Source) -> Section:
    table = failures(source)
    if not table.rows:
        return Section("failed", "Failed trials", ("None.",))
    return Section("failed", "Failed trials", (f"{len(table.rows)} of {len(source.trials)} trials failed.",), (table,))


def alarms_section(source: Source) -> Section:
    found = alarms(source)
    limits = source.experiment.run.collapse
    text = (
        f"Routes: entropy below {limits.route_entropy:g} nats while one assignment has more than "
        f"{limits.assignment_share:.0%} of the episodes. Answers: one answer given in more than "
        f"{limits.answer_share:.0%} of them."
    )
    if not any(source.records.values()):
        return Section("alarms", "Collapse alarms", (text,), missing="no step has been recorded yet")
    if not found:
        return Section("alarms", "Collapse alarms", (text, "None rose."))
    rows = tuple((a.trial, a.alarm.replace("_", " "), a.first, a.last, a.steps, a.recorded) for a in found)
    columns = ("trial", "alarm", "first step", "last step", "steps with it", "steps recorded")
    return Section("alarms", "Collapse alarms", (text,), (Table("alarms", "Alarms", columns, rows),))


ORACLES = (*IN_HINDSIGHT, "oracle")
"""Rows that choose with the answers in sight, the last as stored results call it; no router is held against them."""


def verdict(source: Source) -> tuple[str, ...]:
    """Sentences in the order they matter."""
    said = [*_unfinished(source), *_winner(source)]
    for split in ("test", "validation"):
        arms = arms_on(source, split)
        said += _arms(arms, split) if arms else []
    for found in (on_test(source), comparison(source), references(source)):
        said += _best_other(found) if found else []
    said += _judged(source)
    return (*said, *noise_verdict(source), *_confirmed(source), *_troubles(source))


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
    return [f"{who} reached {objective.metric} {value}{others}{steps}{stopped}.", *_constrained(source, best)]


def _constrained(source: Source, best: TrialRecord) -> list[str]:
    """What keeping the constraints cost."""
    if not source.constraints:
        return []
    asked = " and ".join(map(str, source.constraints))
    if broken(best.metrics, source.constraints):
        return [f"No trial keeps {asked}; this one breaks the least."]
    kept = [t for t in source.ranked if not broken(t.metrics, source.constraints)]
    said = [f"It keeps {asked}, as {len(kept)} of {len(source.ranked)} do."]
    free = ranked(source.ranked, source.objectives)[0]
    if free.number == best.number:
        return said
    metric, why = source.objectives[0].metric, ", ".join(broken(free.metrics, source.constraints))
    return [
        *said,
        f"Unconstrained, {free.number:03d} with {metric} {number(free.metrics[metric])} would win: it breaks {why}.",
    ]


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
    return [*said, *(_dearer(chief, best) if best is not None else ())]


def _dearer(chief: Standing, other: Standing) -> list[str]:
    """What a step of the other costs beside one of this, forward and backward."""
    ratios = []
    for name in (FORWARD, BACKWARD):
        mine, theirs = chief.extra.get(name), other.extra.get(name)
        if isinstance(mine, int | float) and isinstance(theirs, int | float) and mine > 0:
            ratios.append(theirs / mine)
    if len(ratios) < 2:
        return []
    return [f"A step of {other.label} takes {ratios[0]:.2g} times its operations forward, {ratios[1]:.2g} backward."]


def _is_rival(row: Standing) -> bool:
    """Whether a router could be this row, and it is no other form of the searched router."""
    return row.label not in ORACLES and row.extra.get("kind") != "router"


def _judged(source: Source) -> list[str]:
    """What judging a replay said of AIQ0 (of AIQ in older results); of mean reward the rows above say it."""
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
