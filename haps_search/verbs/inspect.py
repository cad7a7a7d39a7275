"""Is this pool worth routing? What a table of outcomes holds, what is wrong with it, what routing could gain on it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from haps_search.config.load import load_table, parse_table
from haps_search.config.tables import TableConfig
from haps_search.errors import ConfigError
from haps_search.evaluation.pool.pool_report import PoolReport, pool_report
from haps_search.records.sealed import replace_text
from haps_search.tasks.tables.reading import LoadedTable, load_outcomes


@dataclass(frozen=True)
class Inspection:
    """A table as it was described, as it was read, and what that says."""

    config: TableConfig
    loaded: LoadedTable
    report: PoolReport

    def write(self, file: str | Path) -> Path:
        """All numbers as JSON; what is not finite is null."""
        loaded = self.loaded
        counted = {"dropped": loaded.dropped, "repeated": loaded.repeated, "cost_unit": loaded.cost_unit}
        content = {"file": self.config.file, "layout": loaded.layout, **counted, **asdict(self.report)}
        replace_text(Path(file), json.dumps(plain(content), indent=1) + "\n")
        return Path(file)

    def _repr_html_(self) -> str:
        return "".join(f"<p>{sentence}</p>" for sentence in self.report.verdict.sentences)


def inspect(table: str | Path | None = None, layout: str = "auto", config: str | Path | None = None) -> Inspection:
    """Inspect a file of outcomes, or the one that a YAML `config` describes.

    Raises:
        ConfigError: both or neither are given, or the layout cannot be told. DataError: malformed rows.
    """
    described = described_table(table, layout, config)
    loaded = load_outcomes(described)
    return Inspection(described, loaded, pool_report(loaded.table))


def candidates(table: str | Path | None = None, layout: str = "auto", config: str | Path | None = None) -> list[str]:
    """The names of a table's models, as the candidates of a replay study. Raises as `inspect`."""
    from haps_search.tasks.replay import candidate_names

    return list(candidate_names(load_outcomes(described_table(table, layout, config)).table))


def described_table(table: str | Path | None, layout: str, config: str | Path | None) -> TableConfig:
    """What was given as a description. Raises ConfigError."""
    if (table is None) == (config is None):
        raise ConfigError("needs either a table or --config FILE, whose `file` names the table")
    if config is not None:
        return load_table(config)
    return parse_table({"file": str(table), "layout": {"type": layout}, "missing": "keep"})


def plain(value: Any) -> Any:
    """JSON without NaN: null stands for it."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: plain(each) for key, each in value.items()}
    return [plain(each) for each in value] if isinstance(value, list | tuple) else value
