"""Is this pool worth routing? What a table of outcomes holds, what is wrong with it, what routing could gain on it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from haps_search.config.load import load_table, parse_table
from haps_search.config.tables import TableConfig
from haps_search.errors import ConfigError
from haps_search.records.sealed import replace_text
from haps_search.tasks.tables.reading import LoadedTable, survey

if TYPE_CHECKING:
    from haps_search.evaluation.pool.pool_report import PoolReport


@dataclass(frozen=True)
class Inspection:
    """A table as it was described, as it was read, and what that says."""

    config: TableConfig
    loaded: LoadedTable
    report: PoolReport

    def write(self, file: str | Path) -> Path:
        """All numbers as JSON; what is not finite is null."""
        loaded = self.loaded
        counted: dict[str, Any] = {"dropped": loaded.dropped, "repeated": loaded.repeated}
        counted |= {"cost_unit": loaded.cost_unit, "unread": [asdict(each) for each in loaded.unread]}
        content = {"file": self.config.name, "layout": loaded.layout, **counted, **asdict(self.report)}
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
    loaded, texts = survey(described)
    # What judges a table takes seconds to load: a table that cannot be read is answered before.
    from haps_search.evaluation.pool.pool_report import pool_report

    return Inspection(described, loaded, pool_report(loaded.table, texts))


def candidates(table: str | Path | None = None, layout: str = "auto", config: str | Path | None = None) -> list[str]:
    """The names of a table's models, as the candidates of a replay study. Raises as `inspect`."""
    from haps_search.tasks.replay import candidate_names

    return list(candidate_names(survey(described_table(table, layout, config))[0].table))


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
