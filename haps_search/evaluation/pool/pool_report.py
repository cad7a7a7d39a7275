"""What the numbers mean, in words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from haps_search.evaluation.intervals import Interval
from haps_search.evaluation.pool.census import Census, census
from haps_search.evaluation.pool.gains import Gains, ModelLine, complete, gains, model_lines
from haps_search.evaluation.pool.likeness import Likeness, Luck, likeness, luck
from haps_search.tasks.outcomes import OutcomeTable
from haps_search.tasks.tables.splits import Digests, digests

WORTH = 0.01
"""A gain below this is not worth a router: a hundredth of the way from the worst score to the best."""
_SAVING = 0.05

Kind = Literal["worth", "open", "cannot", "unknown"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """`worth`: the task's name alone already pays. `open`: there is room, but nothing yet that surely fills it.
    `cannot`: not even perfect choices gain anything. `unknown`: there is nothing to compare."""

    kind: Kind
    sentences: tuple[str, ...]


def verdict(gains: Gains | None, luck: Luck | None) -> Verdict:
    """Read the comparison; None where no question was answered by every model."""
    if gains is None or luck is None:
        return Verdict("unknown", ("It cannot be told: no question was answered by every model.",))
    if gains.oracle.gain.mean < WORTH and (gains.oracle.gain.high < WORTH or gains.oracle.gain.mean == 0):
        return Verdict("cannot", (*_cannot(gains), *_costs(gains)))
    task = gains.best_per_task
    worth = task is not None and task.gain.low > 0
    kind: Kind = "worth" if worth else "open"
    return Verdict(kind, (_room(gains, worth), _by_task(gains), _luck(gains, luck), *_costs(gains)))


def signed(interval: Interval) -> str:
    """A gain, with its sign."""
    return f"{interval.mean:+.3f} [{interval.low:+.3f}, {interval.high:+.3f}]"


def _cannot(gains: Gains) -> tuple[str, ...]:
    gain = gains.oracle.gain
    said = (
        f"Routing cannot help here: even perfect choices would gain only {signed(gain)} over always {gains.best_model}."
    )
    if gain.mean > 0:
        return (said,)
    said = f"Routing cannot help here: no other model earned more than {gains.best_model} on any question."
    if gain.high < WORTH:
        return (said,)
    return (said, f"With {gains.questions} questions, a gain of up to {gain.high:+.3f} is not excluded.")


def _room(gains: Gains, worth: bool) -> str:
    opening = "Routing is worth trying" if worth else "Routing may help, and this table alone does not show it"
    return f"{opening}: it can gain at most {signed(gains.oracle.gain)} over always {gains.best_model}."


def _by_task(gains: Gains) -> str:
    task = gains.best_per_task
    if task is None:
        return "The table names fewer than two tasks, so what knowing the task is worth cannot be told."
    if task.gain.low > 0:
        return (
            f"A router that knows only the task gains {signed(task.gain)}; one that reads the question may gain more."
        )
    if gains.same_choice:
        return (
            f"A router that knows only the task would always choose {gains.best_model} too: it must read the question."
        )
    said = "loses" if task.gain.high < 0 else "gains nothing sure"
    return f"A router that knows only the task {said}, {signed(task.gain)}: it must read the question."


def _luck(gains: Gains, luck: Luck) -> str:
    most = f"{gains.oracle.gain.mean:+.3f}"
    if luck.sure_gain is None:
        return f"How much of the {most} is luck that no router can see cannot be told: {luck.unknown}."
    share = "Not all" if luck.sure_gain.low > 0 else "All"
    may = "is" if luck.sure_gain.low > 0 else "may be"
    stays = f"chosen by half of the samples and paid by the rest, {signed(luck.sure_gain)} stays"
    return f"{share} of the {most} {may} luck: {stays}."


def _costs(gains: Gains) -> tuple[str, ...]:
    """What perfect choices, the cheapest of the best each time, would save."""
    paid, needed = gains.best_single.cost, gains.oracle.cost
    if paid is None or needed is None or paid <= 0 or needed > (1 - _SAVING) * paid:
        return ()
    saved = 1 - needed / paid
    return (f"Perfect choices would cost {needed:.3g} instead of {paid:.3g}: at most {saved:.0%} can be saved.",)


@dataclass(frozen=True, slots=True)
class PoolReport:
    """Made from a table, read by `haps inspect`. Comparisons are None where no question is complete."""

    census: Census
    models: tuple[ModelLine, ...]
    gains: Gains | None
    luck: Luck | None
    likeness: Likeness | None
    verdict: Verdict


def pool_report(table: OutcomeTable, texts: Digests | None = None) -> PoolReport:
    """Look at a table of one question and two models at least; the same table gives the same report.

    `texts` stand for the questions' texts where the table was read without them.
    """
    known = digests([question.text for question in table.questions]) if texts is None else texts
    part = complete(table, known)
    compared = None if part is None else gains(part)
    chance = None if part is None else luck(part)
    return PoolReport(
        census=census(table, known),
        models=model_lines(table, part),
        gains=compared,
        luck=chance,
        likeness=None if part is None else likeness(part),
        verdict=verdict(compared, chance),
    )
