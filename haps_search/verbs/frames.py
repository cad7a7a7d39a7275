"""Results as pandas tables, and as HTML where a notebook shows them."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pandas import DataFrame

    from haps_search.evaluation.comparison import Row
    from haps_search.evaluation.intervals import Interval
    from haps_search.sweep.events import TrialRecord


def trials_frame(trials: Sequence[TrialRecord]) -> DataFrame:
    """Indexed by trial number: kind, label, seed, state, step, `parameters.PATH`, `metrics.NAME`, error."""
    return frame([_trial(t) for t in trials], index="trial")


def comparison_frame(rows: Sequence[Row]) -> DataFrame:
    """Indexed by the row's label: reward and gain (the joint router's over this row), each mean, low and high; and what
    a row that learnt has cost."""
    found = [
        {
            "": r.label,
            **interval("reward", r.reward),
            **interval("gain", r.joint_gain),
            "seeds": r.seeds,
            **(asdict(r.cost) if r.cost is not None else {}),
        }
        for r in rows
    ]
    return frame(found, "")


def frame(rows: Sequence[Mapping[str, Any]], index: str) -> DataFrame:
    """Rows with a column of the table as its index."""
    import pandas as pd  # half a second that whoever looks at no table need not wait

    return pd.DataFrame(list(rows)).set_index(index) if rows else pd.DataFrame()


def interval(name: str, found: Interval | None) -> dict[str, float | None]:
    """Mean, low and high under names of their own."""
    if found is None:
        return {name: None, f"{name}_low": None, f"{name}_high": None}
    return {name: found.mean, f"{name}_low": found.low, f"{name}_high": found.high}


def page(title: str, tables: Mapping[str, DataFrame]) -> str:
    """A heading, and each table under its name."""
    parts = [f"<h4>{html.escape(title)}</h4>"]
    for name, table in tables.items():
        if len(table):
            parts += [f"<p>{html.escape(name)}</p>", table.to_html(float_format="{:.3f}".format, na_rep="")]
    return "".join(parts)


def _trial(t: TrialRecord) -> dict[str, Any]:
    return {
        "trial": t.number,
        "kind": t.kind,
        "label": t.label,
        "seed": t.seed,
        "state": t.state,
        "step": t.reports[-1][0] if t.reports else None,
        **{f"parameters.{path}": value for path, value in t.parameters.items()},
        **{f"metrics.{name}": value for name, value in t.metrics.items()},
        "error": t.error,
    }
