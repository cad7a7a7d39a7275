"""Where a split's rows come from: a file, a folder that `datasets` saved, or a data set of the Hugging Face hub."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from haps_search.config.tasks import DatasetSource, Source
from haps_search.errors import ConfigError, DataError, PoolError
from haps_search.tasks.rows import Header, Row, Rows, open_rows
from haps_search.types import Split

if TYPE_CHECKING:
    from datasets import Dataset

INSTALL = "`pip install haps-search[datasets]` brings the library for it"


def source_problem(source: Source, split: Split) -> str | None:
    """What keeps a source from being read, as far as it shows without reading it."""
    path = _path(source)
    if path is not None and not path.exists():
        way_out = f"give a path that is absolute or relative to {Path.cwd()}"
        return f"task.{split}: no file `{_named(source)}`: {way_out}"
    if (path is None or path.is_dir()) and importlib.util.find_spec("datasets") is None:
        return f"task.{split}: `{_named(source)}` is a data set of Hugging Face: {INSTALL}"
    return None


def open_source(source: Source, split: Split, header: Header | None = None) -> Rows:
    """The rows of a split; of a folder or a hub's data set with several splits those of its own name, unless the
    source says which. Columns of class labels have the classes' names.

    Raises:
        ConfigError: nothing of that name, or no such split.
        DataError: a file that is not what its ending says, or a folder that nobody saved.
        PoolError: the hub does not answer.
    """
    path = _path(source)
    if path is None:
        assert isinstance(source, DatasetSource)
        return _rows(_of_hub(source, split), source.name)
    if path.is_dir():
        wanted = source.split if isinstance(source, DatasetSource) else None
        return _rows(_of_folder(path, wanted, split), str(path))
    return open_rows(path, header=header)


def _path(source: Source) -> Path | None:
    """Of what lies on this machine; None for the hub's."""
    name = source if isinstance(source, str) else source.folder
    return None if name is None else Path(name).expanduser()


def _named(source: Source) -> str:
    return source if isinstance(source, str) else source.name


def _of_folder(path: Path, wanted: str | None, split: Split) -> Dataset:
    from datasets import Dataset, DatasetDict, load_from_disk

    try:
        found = load_from_disk(str(path))
    except (FileNotFoundError, ValueError) as error:
        raise DataError(f"{path}: not a folder that `Dataset.save_to_disk` wrote ({error})") from error
    if isinstance(found, Dataset):
        if wanted is not None:
            raise ConfigError(f"task.{split}: `{path}` is one data set without splits: leave out `split: {wanted}`")
        return found
    assert isinstance(found, DatasetDict)
    name = wanted or split
    if name not in found:
        there = ", ".join(found)
        raise ConfigError(f"task.{split}: `{path}` has no split {name} (it has {there}): say which by `split: NAME`")
    return found[name]


def _of_hub(source: DatasetSource, split: Split) -> Dataset:
    from datasets import load_dataset
    from datasets.exceptions import DatasetNotFoundError

    name = source.split or split
    try:
        return load_dataset(source.hub, source.config, split=name, revision=source.revision)
    except (DatasetNotFoundError, ValueError) as error:
        raise ConfigError(f"task.{split}: cannot read split {name} of `{source.name}` ({error})") from error
    except OSError as error:
        raise PoolError(f"task.{split}: `{source.name}` cannot be fetched ({error})") from error


def _rows(dataset: Dataset, name: str) -> Rows:
    classes = {column: kind.names for column, kind in dataset.features.items() if getattr(kind, "names", None)}

    def stream() -> Iterator[Row]:
        for number, row in enumerate(dataset, start=1):
            yield Row(number, f"row {number}", _with_names(row, classes))

    return Rows(name, tuple(dataset.column_names), False, stream())


def _with_names(row: Mapping[str, Any], classes: Mapping[str, list[str]]) -> dict[str, Any]:
    """A class label of -1 means that nobody knows it."""
    named = {c: names[row[c]] if row[c] is not None and row[c] >= 0 else None for c, names in classes.items()}
    return {**row, **named}
