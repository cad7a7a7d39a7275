"""Reading what a user wrote: studies and cluster profiles, all problems at once, each with its line."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from haps_search.config.anchors import anchored
from haps_search.config.candidates import CandidateConfig, Pool
from haps_search.config.checks import arm_problems, readable, space_problems
from haps_search.config.complaints import validate
from haps_search.config.conditions import canonical
from haps_search.config.document import FROM_OVERRIDE, Document, Problem, line_of, read, render, scalar
from haps_search.config.engines import ClusterProfile, Nodes
from haps_search.config.opponent_checks import opponent_problems
from haps_search.config.overrides import override
from haps_search.config.schema import suggest
from haps_search.config.search_checks import search_problems
from haps_search.config.sweep import Study
from haps_search.config.tables import LogConfig, TableConfig
from haps_search.errors import ConfigError

Model = TypeVar("Model", bound=BaseModel)


Overrides = Sequence[str] | Mapping[str, Any]
"""`path=value` texts, or path -> value; a path is dotted inside the file, or inside its `experiment`."""


def load_study(path: str | Path, overrides: Overrides = ()) -> Study:
    """The study of `read_study`, its file names absolute from the working directory. Raises ConfigError."""
    return anchored(read_study(path, overrides))


def read_study(path: str | Path, overrides: Overrides = ()) -> Study:
    """The study in a YAML file, or in `search_spaces/NAME.yaml` where `path` is a bare name; file names as written.

    Raises:
        ConfigError: every problem found, with path and line, or a file that is not there.
    """
    file = _find(path, "search_spaces")
    return _study(_read(file), overrides, file)


def _study(document: Document, overrides: Overrides, source: str | Path) -> Study:
    given = overrides
    if isinstance(given, Mapping):
        given = [f"{where}={json.dumps(value)}" for where, value in given.items()]
    problems = [*document.problems, *override(document.value, document.lines, given)]
    study, found = validate(Study, document.value)
    problems += found + _space(document.value, study)
    return _result(study, problems, document, source)


def load_profile(name_or_path: str | Path) -> ClusterProfile:
    """The cluster profile in a YAML file, or in `clusters/profiles/NAME.yaml` where a bare name is given.

    Raises:
        ConfigError: every problem found, with path and line, or a file that is not there.
    """
    file = _find(name_or_path, "clusters/profiles")
    document = _read(file)
    profile, found = validate(ClusterProfile, document.value)
    return _result(profile, [*document.problems, *found], document, file)


def parse_nodes(specs: Sequence[str]) -> tuple[Nodes, ...]:
    """Machines from texts such as `count=2,cpus=64,gpus=8,gpu_memory_gb=80`, a kind each.

    Raises:
        ConfigError: every problem found, with the text.
    """
    found = []
    for spec in specs:
        pairs = [part.partition("=") for part in spec.split(",")]
        if not all(key and equals for key, equals, _ in pairs):
            raise ConfigError(f"got {spec!r}, needs key=value pairs with commas, as in cpus=64,gpus=8", "--nodes")
        values = {key.strip(): scalar(value) for key, _, value in pairs}
        nodes, problems = validate(Nodes, values)
        found.append(_result(nodes, problems, Document(values, {}, ()), f"--nodes {spec}"))
    return tuple(found)


def load_pool(path: str | Path) -> tuple[CandidateConfig, ...]:
    """The `candidates` of a YAML file: of a study's experiment, or at its top.

    Raises:
        ConfigError: every problem found, or a file that is not there.
    """
    document = _read(Path(path))
    inner = document.value.get("experiment")
    values = inner if isinstance(inner, dict) else document.value
    pool, found = validate(Pool, {"candidates": values.get("candidates")})
    return _result(pool, [*document.problems, *found], document, Path(path)).candidates


def load_table(path: str | Path) -> TableConfig:
    """The description of an outcome table in a YAML file.

    Raises:
        ConfigError: every problem found, with path and line, or a file that is not there.
    """
    document = _read(Path(path))
    table, found = validate(TableConfig, document.value)
    return _result(table, [*document.problems, *found], document, Path(path))


def load_log(path: str | Path) -> LogConfig:
    """The description of a log in a YAML file.

    Raises:
        ConfigError: every problem found, with path and line, or a file that is not there.
    """
    document = _read(Path(path))
    log, found = validate(LogConfig, document.value)
    return _result(log, [*document.problems, *found], document, Path(path))


def parse_table(values: Any) -> TableConfig:
    """A table's description from plain values. Raises ConfigError with every problem found."""
    table, problems = validate(TableConfig, values)
    return _result(table, problems, Document(values, {}, ()), "")


def make_study(values: Mapping[str, Any], overrides: Overrides = ()) -> Study:
    """A study from plain values, as a YAML file would hold them; file names become absolute. Raises ConfigError."""
    return anchored(_study(Document(json.loads(json.dumps(values)), {}, ()), overrides, "study"))


def parse_study(values: Any, source: str = "") -> Study:
    """A study from the plain values that `dump` gave.

    Raises:
        ConfigError: every problem found.
    """
    study, problems = validate(Study, values)
    return _result(study, problems, Document(values, {}, ()), source)


def dump(study: Study) -> dict[str, Any]:
    """A study as plain JSON values, every default written out."""
    return study.model_dump(mode="json")


def fingerprint(config: BaseModel) -> str:
    """Sixteen hex digits of the SHA-256 of a configuration's canonical JSON."""
    return hashlib.sha256(canonical(config.model_dump(mode="json")).encode()).hexdigest()[:16]


def _result(model: Model | None, problems: list[Problem], document: Document, source: str | Path) -> Model:
    if model is None or problems:
        lines = document.lines
        problems.sort(key=lambda p: _line(p, document))
        raise ConfigError(list(dict.fromkeys(render(p, lines) for p in problems)), str(source))
    return model


def _line(problem: Problem, document: Document) -> int:
    line = problem.line if problem.line is not None else line_of(problem.where, document.lines)
    return line if line and line != FROM_OVERRIDE else 1_000_000_000


def _space(values: Any, study: Study | None) -> list[Problem]:
    experiment = values.get("experiment")
    if study is not None:
        experiment = study.experiment.model_dump(mode="json")
    plain = experiment if isinstance(experiment, dict) else {}
    space, arms, sweep = values.get("space"), values.get("arms"), values.get("sweep")
    problems = arm_problems(arms, plain) if isinstance(arms, dict) else []
    if isinstance(space, dict):
        sampler = sweep.get("sampler") if isinstance(sweep, dict) else None
        grid = isinstance(sampler, dict) and sampler.get("type") == "grid"
        problems += space_problems(readable(space), list(space), plain, grid)
    if isinstance(sweep, dict):
        problems += search_problems(readable(space), sweep, plain)
        opponents = sweep.get("opponents")
        problems += opponent_problems(opponents, plain) if isinstance(opponents, dict) else []
    return problems


def _read(file: Path) -> Document:
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"not UTF-8 text: {error.reason} at byte {error.start}", str(file)) from error
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", str(file)) from error
    document = read(text, str(file))
    if not isinstance(document.value, dict):
        got = "nothing" if document.value is None else "a list" if isinstance(document.value, list) else "text"
        raise ConfigError(f"got {got}, needs a mapping with name and what belongs to it", str(file))
    return document


def _find(path: str | Path, folder: str) -> Path:
    """A path as it is; a bare name in `folder` of the working directory, the checkout or the package."""
    given = Path(path)
    if given.is_file():
        return given
    bare = len(given.parts) == 1
    for place in _places(folder) if bare else ():
        for name in (given.name, f"{given.name}.yaml"):
            if (place / name).is_file():
                return place / name
    if given.is_dir():
        raise ConfigError(f"is a folder; needs a YAML file. It holds {_listed(_files(given))}", str(path))
    known = _files(given.parent)
    if bare:
        known += [file.removesuffix(".yaml") for place in _places(folder) for file in _files(place)]
    where = f"{given.parent}" if not bare else f"this folder or {folder}"
    raise ConfigError(f"no such file; {suggest(given.name, known, f'{where} has')}", str(path))


def _places(folder: str) -> Iterator[Path]:
    package = Path(__file__).resolve().parents[1]
    yield from (Path(folder), package.parent / folder, package / "shipped" / folder)


def _files(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    return sorted(f.name for f in folder.iterdir() if f.suffix in (".yaml", ".yml"))


def _listed(names: list[str]) -> str:
    return ", ".join(names) or "none"
