"""The folder that travels with a submitted study: the study, its profile, its small files and its own code."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from haps_search.config.anchors import INPUTS, renamed
from haps_search.config.base import hooks
from haps_search.config.engines import ClusterProfile, RayEngineConfig
from haps_search.config.load import dump
from haps_search.config.sweep import Study
from haps_search.errors import ConfigError
from haps_search.sweep.inputs import LIMIT_BYTES, copied, files
from haps_search.sweep.submission import STUDY_FILE

PROFILES = "clusters/profiles"


def pack(study: Study, profile: ClusterProfile, folder: Path) -> Study:
    """Fill an empty folder with what a job of the study needs; returns the study as it is written there.

    A relative file name means a file of this machine, which is copied; an absolute one is the cluster's own. Modules
    of `module:function` that lie in the working directory are copied, others are the cluster's.

    Raises:
        ConfigError: files that are not there or too large, each with the way out.
    """
    engine = RayEngineConfig(profile=profile.name)
    experiment = study.experiment.model_copy(update={"engine": engine})
    luggage = _Luggage(folder / INPUTS)
    packed = renamed(study.model_copy(update={"experiment": experiment}), luggage.take)
    luggage.check()
    _write(folder / STUDY_FILE, dump(packed))
    _write(folder / PROFILES / f"{profile.name}.yaml", profile.model_dump(mode="json"))
    for module in dict.fromkeys(code for _, hook in hooks(dump(packed)) if (code := hook.partition(":")[0])):
        _take_code(module.partition(".")[0], folder)
    return packed


def own_package() -> Path:
    """haps_search itself, as it is imported here: from a checkout or installed from a wheel."""
    return Path(__file__).parents[1]


class _Luggage:
    """Copies of relative files, and what is wrong with them."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._taken = folder, dict[str, str]()
        self._sizes: dict[str, int] = {}
        self._missing: list[str] = []

    def take(self, name: str) -> str:
        source = Path(name)
        if source.is_absolute() or name.startswith("~"):
            return name
        if name not in self._taken:
            self._taken[name] = self._take(name, source)
        return self._taken[name]

    def _take(self, name: str, source: Path) -> str:
        if not source.exists():
            self._missing.append(name)
            return name
        self._sizes[name] = sum(file.stat().st_size for file in files(source))
        if sum(self._sizes.values()) > LIMIT_BYTES:
            return name
        return f"{INPUTS}/{copied(source, self._folder).name}"

    def check(self) -> None:
        way_out = "put it where every node sees it, and write its absolute path there"
        problems = [
            f"{name}: no such file here; if it is on the cluster, write its absolute path" for name in self._missing
        ]
        if sum(self._sizes.values()) > LIMIT_BYTES:
            largest = max(self._sizes, key=self._sizes.__getitem__)
            problems.append(
                f"{largest}: {self._sizes[largest] / 1e6:.0f} MB, and files that travel with a job may have "
                f"{LIMIT_BYTES / 1e6:.0f} MB together: {way_out}"
            )
        if problems:
            raise ConfigError(problems, "files of the study")


def _take_code(module: str, folder: Path) -> None:
    for source, copy in ((Path(f"{module}.py"), shutil.copyfile), (Path(module), _copy_package)):
        if source.exists():
            copy(source, folder / source.name)
            return


def _copy_package(source: Path, target: Path) -> None:
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))


def _write(file: Path, values: object) -> None:
    """As JSON, which is YAML with every text in quotes: none can be read back as a number."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(values, indent=1, ensure_ascii=False), encoding="utf-8")
