"""File names of a study made absolute, wherever they stand: trials and workers have other working directories."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from haps_search.config.sweep import Study

_TASK_FILES = ("task.train", "task.validation", "task.test")


def anchored(study: Study) -> Study:
    """The study with its file names absolute, from the working directory; those of arms and of the space too."""
    values = study.model_dump(mode="json")
    values["experiment"] = _anchor("", values["experiment"])
    values["arms"] = {
        name: {path: _anchor(path, value) for path, value in arm.items()} for name, arm in values["arms"].items()
    }
    for path, entry in values["space"].items():
        entry["when"] = {parent: _anchor(parent, value) for parent, value in entry["when"].items()}
        if "values" in entry:
            entry["values"] = [_anchor(path, value) for value in entry["values"]]
    return Study.model_validate(values)


def _anchor(path: str, value: Any) -> Any:
    """The value that stands at a dotted path of an experiment."""
    if isinstance(value, list):
        return [_anchor(path, each) for each in value]
    if isinstance(value, dict):
        return {key: _anchor(f"{path}.{key}" if path else key, each) for key, each in value.items()} | _gguf(value)
    if not isinstance(value, str):
        return value
    if path == "run.warm_start":
        return _run_name(value)
    return _absolute(value) if path in _TASK_FILES or path.endswith(".source.path") else value


def _gguf(source: dict[str, Any]) -> dict[str, Any]:
    """The file of a GGUF source; inside a package it is a glob and stays."""
    own_file = source.get("type") == "gguf" and source.get("package") is None and isinstance(source.get("file"), str)
    return {"file": _absolute(source["file"])} if own_file else {}


def _run_name(name: str) -> str:
    """A run's folder as an absolute name; a bare NAME stays, since it is looked for beside the run that names it."""
    bare = len(Path(name).parts) == 1 and not (Path(name) / "experiment.json").exists()
    return name if bare else _absolute(name)


def _absolute(name: str) -> str:
    return str(Path(name).expanduser().absolute())
