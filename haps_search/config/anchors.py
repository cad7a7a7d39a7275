"""File names of a study made absolute, wherever they stand: trials and workers have other working directories."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from haps_search.config.run import Experiment
from haps_search.config.sweep import Study

Rename = Callable[[str], str]
INPUTS = "inputs"
"""The folder beside a study or sweep with copies of its files; a digest of the contents begins each name."""
_COPY = re.compile(rf".*/{INPUTS}/([0-9a-f]{{12}}-[^/]+)")
_DATA_FILES = (
    *("task.train", "task.validation", "task.test"),
    *("task.train.folder", "task.validation.folder", "task.test.folder"),
    *("task.table.file", "task.table.parts.file", "task.table.layout.prices", "learning.references.completions"),
)


def anchored(study: Study) -> Study:
    """The study with its file names absolute, from the working directory; those of arms and of the space too."""
    return renamed(study, _absolute)


def renamed(study: Study, rename: Rename) -> Study:
    """The study with each of its file names as `rename` gives it; those of arms and of the space too."""
    values = study.model_dump(mode="json")
    values["experiment"] = _visit("", values["experiment"], rename)
    values["arms"] = {
        name: {path: _visit(path, value, rename) for path, value in arm.items()} for name, arm in values["arms"].items()
    }
    for path, entry in values["space"].items():
        entry["when"] = {parent: _visit(parent, value, rename) for parent, value in entry["when"].items()}
        if "values" in entry:
            entry["values"] = [_visit(path, value, rename) for value in entry["values"]]
    return Study.model_validate(values)


def renamed_in(experiment: Experiment, rename: Rename) -> Experiment:
    """The experiment with each of its file names as `rename` gives it."""
    return Experiment.model_validate(_visit("", experiment.model_dump(mode="json"), rename))


def copy_name(file: str) -> str | None:
    """The name of a copy in an inputs folder, None for another file."""
    found = _COPY.fullmatch(file)
    return found[1] if found else None


def unplaced(value: Any) -> Any:
    """A JSON value in which copies in inputs folders stand for their contents, wherever the folders lie."""
    if isinstance(value, dict):
        return {key: unplaced(each) for key, each in value.items()}
    if isinstance(value, list):
        return [unplaced(each) for each in value]
    copy = copy_name(value) if isinstance(value, str) else None
    return value if copy is None else f"{INPUTS}/{copy}"


def _visit(path: str, value: Any, rename: Rename) -> Any:
    """The value that stands at a dotted path of an experiment; a stage has such paths itself."""
    if path == "stages":
        return [{inner: _visit(inner, each, rename) for inner, each in stage.items()} for stage in value]
    if isinstance(value, list):
        return [_visit(path, each, rename) for each in value]
    if isinstance(value, dict):
        visited = {key: _visit(f"{path}.{key}" if path else key, each, rename) for key, each in value.items()}
        return visited | _gguf(value, rename)
    if not isinstance(value, str):
        return value
    if path == "run.warm_start":
        return _run_name(value, rename)
    return rename(value) if (value and path in _DATA_FILES) or path.endswith(".source.path") else value


def _gguf(source: dict[str, Any], rename: Rename) -> dict[str, Any]:
    """The file of a GGUF source; inside a package it is a glob and stays."""
    own_file = source.get("type") == "gguf" and source.get("package") is None and isinstance(source.get("file"), str)
    return {"file": rename(source["file"])} if own_file else {}


def _run_name(name: str, rename: Rename) -> str:
    """A run's folder is a file name; a bare NAME stays, since it is looked for beside the run that names it."""
    bare = len(Path(name).parts) == 1 and not (Path(name) / "experiment.json").exists()
    return name if bare else rename(name)


def _absolute(name: str) -> str:
    return str(Path(name).expanduser().absolute())
