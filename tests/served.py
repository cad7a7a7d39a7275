"""Runs that were trained for a moment, and a service over them on loopback."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI

from haps_search.config.load import parse_study
from haps_search.verbs.train import train

NAMES = ("adder", "sorter")
QUESTIONS = ("[y] sort plum=", "[x] add 3+4=", "[x] sort kado=", "[y] add 17+5=")


def trained(folder: Path, name: str = "own", **experiment: Any) -> str:
    """Two steps of the embedded zoo: adapters that do something, skills as they were."""
    candidates = [{"name": n, "source": {"type": "zoo", "name": n}, "price": {"read": 1, "written": 2}} for n in NAMES]
    described = {
        "task": {"type": "skills", "sizes": {"train": 24, "validation": 6, "test": 6}},
        "candidates": candidates,
        "run": {
            "steps": 2, "questions_per_step": 4, "episodes_per_question": 2, "seed": 3,
            "validation": {"every": 2, "questions": 6}, "sampling": {"max_new_tokens": 8},
        },
        "learning": {"learning_rate": {"high": 0.01, "low": 0.05}},
        "engine": {"type": "local", "threads": 1},
        **experiment,
    }  # fmt: skip
    train(parse_study({"name": "tiny", "experiment": described, "tracking": {"mlflow": False}}), name, folder)
    return name


@contextmanager
def listening(app: FastAPI) -> Iterator[str]:
    """The address of the app on a free port of loopback."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", access_log=False))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the server ended while it started"
        thread.join(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
