"""What processes need in memory, as numbers, and where these are kept: working them out takes transformers and torch,
whose import takes longer than the arithmetic."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import version
from pathlib import Path

from haps_search.candidates.zoo import zoo_path
from haps_search.config.candidates import PathSource, ZooSource
from haps_search.config.routing import BackboneConfig
from haps_search.config.run import Experiment

PROCESS_BYTES = 1_000_000_000
"""Python, torch and the CUDA context of one process, about."""
LIGHT_BYTES = 400_000_000
"""Of a process without torch, about."""
DECIDING = ("torch", "transformers", "haps-search")
"""Packages whose versions may change a number."""


@dataclass(frozen=True, slots=True)
class Need:
    """Bytes of one process: what it holds, per row of a batch of `tokens` what it takes while computing, and `beside`
    what does not grow with rows: the logits formed at a time. `kept` are caches of prompts and of references and the
    activations of what was sampled, each under the candidate's own bound, and `stored` is what one reference takes
    there, and on disk; `adapters` are the adapters and gradients that it has at a time, of which `least_adapters`
    cannot be fewer; `process` is what it takes before it holds anything.

    A candidate that runs out of memory answers a batch in halves, so one row has to fit. A router (`halves` false)
    reads all its questions at once, and nobody knows before how long their prompts are.
    """

    weights: int
    optimiser: int
    per_row: int
    rows: int
    tokens: int
    halves: bool
    beside: int = 0
    stored: int = 0
    kept: int = 0
    adapters: int = 0
    least_adapters: int = 0
    process: int = PROCESS_BYTES

    @property
    def held(self) -> int:
        return self.process + self.weights + self.optimiser + self.adapters + self.kept + self.beside

    @property
    def working(self) -> int:
        return self.beside + self.per_row * self.rows

    @property
    def total(self) -> int:
        return self.held + self.per_row * self.rows

    @property
    def least(self) -> int:
        """Below this it cannot run."""
        spare = self.adapters - self.least_adapters
        return self.held - spare + (self.per_row if self.halves else 0)

    def rows_in(self, there: float) -> int:
        """How many rows of a batch fit into so many bytes."""
        return int((there - self.held) // self.per_row)

    def tokens_in(self, there: float) -> int:
        """How long prompts may be where all rows have to fit into so many bytes."""
        return int(self.tokens * (there - self.held) // (self.per_row * self.rows))


@dataclass(frozen=True, slots=True)
class Needs:
    """Memory per candidate worker, by name, and of one router. `adapters` are the bytes of one adapter of each
    candidate as it travels, 0 without a low level; `shared` says that all questions have the same one."""

    candidates: Mapping[str, Need]
    router: Need
    adapters: Mapping[str, int] = field(default_factory=dict)
    shared: bool = False


def most(needs: Sequence[Need]) -> Need:
    """What covers them all, one at a time."""
    return Need(**{each.name: max(getattr(need, each.name) for need in needs) for each in fields(Need)})


def kept(experiment: Experiment, prompt_tokens: int, work_out: Callable[[], Needs]) -> Needs:
    """The needs as they were worked out before for the same models, settings and versions, else worked out and kept.

    Models of the hub are asked each time: what stands behind their names may change.
    """
    described = _described(experiment, prompt_tokens)
    if described is None:
        return work_out()
    file = _folder() / f"{hashlib.sha256(described).hexdigest()}.json"
    try:
        found = json.loads(file.read_text())
        candidates = {name: Need(**need) for name, need in found["candidates"].items()}
        return Needs(candidates, Need(**found["router"]), found["adapters"], found["shared"])
    except (OSError, ValueError, KeyError, TypeError):  # not there, or half written by who was killed
        needs = work_out()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        aside = file.with_suffix(f".{os.getpid()}")
        aside.write_text(json.dumps(asdict(needs)))
        aside.replace(file)
    except OSError:
        pass  # a cache that cannot be written saves no time and breaks nothing
    return needs


def _described(experiment: Experiment, prompt_tokens: int) -> bytes | None:
    """All that decides the numbers; None where that cannot be read here."""
    backbone = experiment.routing.backbone
    sources = [c.source for c in experiment.candidates if c.own]
    sources += [backbone.source] if isinstance(backbone, BackboneConfig) else []
    shapes = []
    for source in sources:
        if not isinstance(source, PathSource | ZooSource):
            return None
        file = (zoo_path(source.name) if isinstance(source, ZooSource) else Path(source.path)) / "config.json"
        if not file.is_file():
            return None
        shapes.append(hashlib.sha256(file.read_bytes()).hexdigest())
    parts = experiment.model_dump(mode="json", include={"candidates", "routing", "learning", "run", "stages"})
    versions = [version(name) for name in DECIDING]
    known = [each.name for kind in (Needs, Need) for each in fields(kind)]
    return json.dumps([parts, shapes, prompt_tokens, versions, known], sort_keys=True).encode()


def _folder() -> Path:
    base = os.environ.get("HAPS_CACHE")
    return (Path(base).expanduser() if base else Path.home() / ".cache" / "haps_search") / "needs"
