"""haps explain KEY: what a key of a study or profile means, and what may stand there."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from haps_search.verbs.explain import Explained

WIDTH = 110
Key = Annotated[str, typer.Argument(metavar="KEY", help="A dotted path as --set takes it: learning.kl_weight")]


def explain(key: Key) -> None:
    """Say what a key of a study or of a cluster profile means."""
    from haps_search.verbs.explain import explain as verb

    typer.echo("\n\n".join(map(_shown, verb(key))))


def _shown(found: Explained) -> str:
    of = f"  (of type {found.variant})" if found.variant else ""
    lines = [f"{found.path}{of}", f"  takes    {found.kind}"]
    lines += [f"  default  {found.default}"] if found.default else ["  has no default"]
    lines += textwrap.wrap(found.text, WIDTH, initial_indent="  ", subsequent_indent="  ")
    width = max((len(name) for name, _ in found.below), default=0)
    for name, text in found.below:
        lines += textwrap.wrap(f"{name:<{width}}  {text}", WIDTH, initial_indent="    ", subsequent_indent=" " * 8)
    return "\n".join(lines)
