"""One page of a sweep or a run, to read and to send."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from haps_search.report.build import build, write
from haps_search.report.parameters import Importance, why_not
from haps_search.report.source import Source, read_run, read_sweep
from haps_search.sweep.hold import fetched, put_back
from haps_search.verbs.find import find_run, named_folder, sweep_journal


@dataclass(frozen=True)
class Reported:
    """The page, how many CSV files stand beside it, and what could not be shown, a line each."""

    file: Path
    tables: int
    missing: tuple[str, ...]

    def _repr_html_(self) -> str:
        return f'<a href="{self.file.as_uri()}">{self.file}</a>'


def report(name: str, out: str | Path | None = None, runs: str | Path = "runs") -> Reported:
    """Write index.html, which needs no network, and the data of every figure as CSV beside it; also while it runs.

    Raises:
        ConfigError: no such sweep or run. DataError: a damaged stored file.
    """
    source = _source(name, runs)
    made = build(source, _importances(source))
    file = write(made, Path(out) if out is not None else source.folder / "report")
    put_back(source.folder)
    return Reported(file, len(made.tables), tuple(made.missing))


def written_page(source: Source) -> Path:
    """The page in the sweep's own folder, as it stands."""
    return write(build(source, _importances(source)), source.folder / "report")


def _source(name: str, runs: str | Path) -> Source:
    if "/" in name or (fetched(named_folder(runs, name)) / "experiment.json").exists():
        found = find_run(runs, name)
        return read_run(found.folder, found.experiment)
    return read_sweep(sweep_journal(runs, name))


def _importances(source: Source) -> tuple[Importance, ...]:
    if source.study is None or why_not(source):
        return ()
    from haps_search.sweep.suggestions import importances  # Optuna, which other reports need not wait for

    return importances(source.study, source.trials)
