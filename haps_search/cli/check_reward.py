"""haps check-reward FILE --answers FILE: what is read from real texts, what is paid and why."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from haps_search.cli.options import File, Set

if TYPE_CHECKING:
    from rich.table import Table

    from haps_search.verbs.check_reward import CheckedAnswer, CheckedReward

_SHOWN = 160


def check_reward(
    file: File,
    answers: Annotated[Path, typer.Option(help="JSONL: a text per line, and its question's id or words.")],
    set_: Set = None,
    json_: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Show on real texts what a study's reward reads, what it pays and why."""
    import json
    from dataclasses import asdict

    from haps_search.cli.display import wide_console
    from haps_search.config.load import load_study
    from haps_search.verbs.check_reward import check_reward

    found = check_reward(load_study(file, set_ or ()), answers)
    if json_:
        counted = {"mean": found.mean, "unread": found.unread, "hedged": found.hedged}
        typer.echo(json.dumps({**asdict(found), **counted}, indent=1, ensure_ascii=False))
        return
    console = wide_console()
    console.print(_table(found))
    for line in (_summary(found), *found.remarks):
        console.print(line, highlight=False, soft_wrap=True, markup=False)


def _table(found: CheckedReward) -> Table:
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=None, pad_edge=False)
    for name in ("question", "text", "read", "paid", "why"):
        shown.add_column(name, justify="right" if name == "paid" else "left", overflow="fold")
    for each in found.answers:
        cells = (each.question, _cut(each.text), each.read or "nothing", _paid(each), _why(each))
        shown.add_row(*map(Text, cells))  # square brackets in texts are no markup
    return shown


def _cut(text: str) -> str:
    """The end of a long text, where answers stand, on one line."""
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN else f"... {line[-_SHOWN:]}"


def _paid(each: CheckedAnswer) -> str:
    return f"{each.reward:.3g}" if each.learning == each.reward else f"{each.reward:.3g} ({each.learning:.3g} learning)"


def _why(each: CheckedAnswer) -> str:
    if each.read is None:
        return each.failure or ""
    read, *references = each.compared
    found = f"{each.how}: " if each.how else ""
    several = f"; states {', '.join(each.stated)}" if each.stated else ""
    return f"{found}`{read}` against {' or '.join(f'`{one}`' for one in references)}{several}"


def _summary(found: CheckedReward) -> str:
    settings = ", ".join(f"{key}: {value}" for key, value in found.reward.items())
    return (
        f"{len(found.answers)} texts, mean reward {found.mean:.4g}, {found.unread} not read, {found.hedged} that state "
        f"several answers  ({settings})"
    )
