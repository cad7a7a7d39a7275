"""The rooms of the design: each module imports only what stands to its right."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import haps_search

PACKAGE = Path(haps_search.__file__).parent
ORDER = (
    *("", "cli", "serving", "verbs", "sweep.tune", "sweep.optuna_mirror", "sweep.suggestions", "sweep.telling"),
    *(
        "engines.cluster",
        "records.mlflow_upgrade",
        "records.mlflow_models",
        "records.mlflow_pages",
        "records.mlflow_tracker",
    ),
    *("report", "sweep", "engines", "evaluation", "search", "episodes", "learning", "records"),
    *("evaluation.routing_metrics", "evaluation.intervals"),
    *("routing", "candidates", "lora", "tasks", "config", "types", "faults", "errors", "seeds", "version"),
)
"""From left to right; rooms that the design names together stand here in the one order they need. The package itself
("") hands out the verbs, lazily."""
RIM = (
    *("serving", "verbs", "sweep.tune", "sweep.optuna_mirror", "sweep.suggestions", "sweep.telling"),
    *(
        "engines.cluster",
        "records.mlflow_upgrade",
        "records.mlflow_models",
        "records.mlflow_pages",
        "records.mlflow_tracker",
    ),
)
RIM_LIBRARIES = {"ray", "mlflow", "optuna"}
WEB = {"fastapi", "starlette", "uvicorn", "prometheus_client"}
"""What only the service may import."""
LIGHT = ("config", "types", "faults", "errors", "seeds", "version")
HEAVY = {"torch", "transformers", "peft", "numpy", *RIM_LIBRARIES}


def modules() -> dict[str, Path]:
    """Dotted name below the package -> file."""
    found = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        parts = file.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = file
    return found


def room(module: str) -> str | None:
    """The longest room name that the module stands in; None for the package itself."""
    inside = [r for r in ORDER if module == r or (r and module.startswith(f"{r}."))]
    return max(inside, key=len, default=None)


def imports(name: str, source: str, package: bool) -> Iterator[tuple[int, str]]:
    """(line, absolute module) of every import, those inside functions and under TYPE_CHECKING too."""
    own = ["haps_search", *name.split(".")] if name else ["haps_search"]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            up = node.level - package if node.level else 0
            base = own[: len(own) - up] if node.level else []
            start = ".".join([*base, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{start}.{alias.name}") for alias in node.names)


def violations(name: str, source: str, package: bool = False) -> list[str]:
    """What a module imports against the order or the rim rule."""
    home, found = room(name), []
    for line, imported in imports(name, source, package):
        library, _, inner = imported.partition(".")
        if library in RIM_LIBRARIES and home not in RIM:
            found.append(f"{name}:{line} imports {library}, which only {', '.join(RIM)} may")
        if library in WEB and home != "serving":
            found.append(f"{name}:{line} imports {library}, which only serving may")
        target = room(inner) if library == "haps_search" and inner else None
        if target is not None and home is not None and ORDER.index(target) < ORDER.index(home):
            found.append(f"{name}:{line} ({home}) imports {imported}, which stands to its left")
    return found


def test_every_module_stands_in_a_room():
    assert [name for name in modules() if name and room(name) is None] == []


def test_rooms_import_only_what_stands_to_their_right():
    files = modules().items()
    found = [v for name, file in files for v in violations(name, file.read_text(), file.name == "__init__.py")]
    assert found == []


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("config.load", "from haps_search.sweep import space"),
        ("config.load", "def f():\n    from haps_search.tasks.task import Task"),
        ("config.load", "from ..routing.router import Router"),
        ("candidates.frozen_lm", "import haps_search.routing.router"),
        ("search.step", "import ray"),
        ("cli.sweep", "from ray import tune"),
        ("sweep.space", "import optuna.trial"),
        ("sweep.journal", "from haps_search.sweep.tune import run"),
        ("records.store", "from haps_search.records import mlflow_tracker"),
        ("types", "from haps_search import config"),
        ("verbs.sweep", "from haps_search.cli.display import Terminal"),
        ("sweep.tune", "from haps_search.verbs import events"),
        ("verbs.sweep", "from haps_search.serving.app import build_app"),
        ("verbs.sweep", "import fastapi"),
        ("serving.app", "from haps_search.cli import serve"),
    ],
)
def test_the_scan_sees_a_wrong_import(name, source):
    assert len(violations(name, source)) == 1


@pytest.mark.parametrize(
    ("name", "source"),
    [
        (
            "sweep.tune",
            "from haps_search.sweep import suggestions\nfrom ray import tune\nfrom haps_search.engines import cluster",
        ),
        ("engines.cluster.pool", "import ray\nfrom haps_search.engines.cluster.broker import Broker"),
        ("routing.backbone", "from haps_search.candidates.sources import load_lm"),
        ("config.load", "from haps_search import __version__, errors\nfrom .sweep import Study"),
    ],
)
def test_the_scan_allows_a_right_import(name, source):
    assert violations(name, source) == []


def imported_by(names: list[str]) -> set[str]:
    """Top-level modules in a fresh interpreter after importing these."""
    code = f"import importlib, sys\nfor n in {names!r}: importlib.import_module(n)\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {module.split(".")[0] for module in done.stdout.split()}


def full(names: list[str]) -> list[str]:
    return [f"haps_search.{n}" if n else "haps_search" for n in names]


def test_what_is_right_of_the_adapters_runs_without_ray_mlflow_and_optuna():
    right = [n for n in modules() if room(n) not in (*RIM, "cli", "verbs")]
    assert len(right) > 30
    assert imported_by(full(right)) & RIM_LIBRARIES == set()


def test_configuration_and_types_import_nothing_heavy():
    light = [n for n in modules() if room(n) in LIGHT]
    assert "config.load" in light
    assert imported_by(full(light)) & HEAVY == set()
