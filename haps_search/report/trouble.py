"""What went wrong: failed trials with their reasons, and alarms of collapse."""

from __future__ import annotations

from dataclasses import dataclass

from haps_search.report.shape import Section, Table
from haps_search.report.source import Source

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
        (t.number, t.label or t.kind, t.attempts, source.of(t)[-1][0] if source.of(t) else None, t.error)
        for t in source.trials
        if t.state == "failed"
    ]
    return Table("failed", "Failed trials", ("trial", "what", "attempts", "last step", "reason"), tuple(rows))


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
