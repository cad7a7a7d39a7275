"""Nobody waits for an actor without an end: whoever it was may be gone, and Ray does not always notice."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import haps_search

PACKAGE = Path(haps_search.__file__).parent
WAITS = {"ray.get", "ray.wait"}


def endless(source: str) -> list[int]:
    """Lines that wait for a remote call with no limit: `ray.get` without `timeout`, a reference awaited as it is."""
    return sorted(node.lineno for node in ast.walk(ast.parse(source)) if _waits(node) and not _bounded(node))


def _waits(node: ast.AST) -> bool:
    if isinstance(node, ast.Await):
        return isinstance(node.value, ast.Call) and ast.unparse(node.value.func).endswith(".remote")
    return isinstance(node, ast.Call) and ast.unparse(node.func) in WAITS


def _bounded(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and any(given.arg == "timeout" for given in node.keywords)


def _modules() -> Iterator[Path]:
    return (path for path in sorted(PACKAGE.rglob("*.py")) if "ray" in path.read_text())


def test_every_wait_for_a_remote_call_has_a_limit() -> None:
    found = [f"{path.relative_to(PACKAGE)}:{line}" for path in _modules() for line in endless(path.read_text())]
    assert not found, f"without a limit: {found}; use failures.got or failures.answer, or give a timeout"


def test_a_wait_without_an_end_would_be_seen() -> None:
    assert endless("x = ray.get(a.b.remote())\ny = ray.get(r, timeout=5)\nray.wait([r])") == [1, 3]
    assert endless("async def f():\n    await actor.call.remote(1)\n    await answer(actor.call.remote(1), 5)") == [2]
