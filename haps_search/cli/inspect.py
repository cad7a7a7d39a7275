"""haps inspect TABLE: is this pool worth routing?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def inspect(
    table: Annotated[Path | None, typer.Argument(help="Outcomes: JSON, JSONL, CSV, TSV or Parquet.")] = None,
    layout: Annotated[
        str, typer.Option(help="auto, llmrouter, routerbench, nested, long or collected; others by --config.")
    ] = "auto",
    config: Annotated[Path | None, typer.Option(help="A YAML that says which columns of which file hold what.")] = None,
    candidates: Annotated[
        bool, typer.Option("--candidates", help="Only print the candidates of a replay study.")
    ] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Keep all numbers in this file as well.")] = None,
) -> None:
    """Say what a table of outcomes holds, what is wrong with it, and what routing could gain on it."""

    from haps_search.config.load import load_table, parse_table
    from haps_search.errors import ConfigError
    from haps_search.tasks.tables.reading import survey

    if (table is None) == (config is None):
        raise ConfigError("needs either a table or --config FILE, whose `file` names the table")
    if config is not None:
        described = load_table(config)
    else:
        described = parse_table({"file": str(table), "layout": {"type": layout}, "missing": "keep"})
    loaded, texts = survey(described)
    if candidates:
        from haps_search.tasks.replay import candidate_names

        listed = [f"  - {{name: {name}, source: {{type: table}}}}" for name in candidate_names(loaded.table)]
        typer.echo("\n".join(["candidates:", *listed]))
        return

    # What judges a table takes seconds to load: a table that cannot be read is answered before.
    import json
    from dataclasses import asdict

    from haps_search.cli.display import wide_console
    from haps_search.cli.pool_page import page, plain
    from haps_search.evaluation.pool.pool_report import pool_report
    from haps_search.records.sealed import replace_text

    report = pool_report(loaded.table, texts)
    if json_file is not None:
        counted = {"dropped": loaded.dropped, "repeated": loaded.repeated, "cost_unit": loaded.cost_unit}
        counted["unread"] = [asdict(each) for each in loaded.unread]
        content = {"file": described.name, "layout": loaded.layout, **counted, **asdict(report)}
        replace_text(json_file, json.dumps(plain(content), indent=1) + "\n")
    console = wide_console()
    for part in page(described, loaded, report):
        console.print(part)
