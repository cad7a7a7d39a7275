"""A report on disk: index.html, and a CSV for every table and figure beside it."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from haps_search.records.sealed import replace_text
from haps_search.report.page import page
from haps_search.report.shape import Report, Table


def write(report: Report, folder: Path) -> Path:
    """Write everything into `folder`, made where missing; returns the page. Files of the same names are replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    for table in report.tables:
        replace_text(folder / f"{table.name}.csv", as_csv(table))
    file = folder / "index.html"
    replace_text(file, page(report))
    return file


def as_csv(table: Table) -> str:
    """RFC 4180 with a header; None is an empty field, numbers keep all their digits."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table.columns)
    writer.writerows(table.rows)
    return text.getvalue()
