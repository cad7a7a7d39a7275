"""What uv is told of pip's settings, and what `make venv` does where something is missing."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]


def _loaded() -> ModuleType:
    spec = importlib.util.spec_from_file_location("ci_install", ROOT / ".ci" / "install.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


ci: Any = _loaded()


@pytest.fixture
def configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Write pip's configuration; the machine's own variables are gone, its global file stays beneath."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)

    def write(text: str) -> None:
        (tmp_path / "pip.conf").write_text(text)
        monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))

    return write


def test_pip_s_files_sections_and_variables_override_one_another_as_in_pip(
    configured: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    configured(
        "[global]\nindex-url = https://a:b%40c@mirror/simple\nextra-index-url =\n  file:///one\n  file:///two three\n"
        "find-links = /never\ncert = ~/ca.pem\nno-index = no\ntimeout = 90\n"
        "[install]\nfind-links = /wheels\n  https://there/wheels\nconstraint = /c1 /c2\ntrusted-host = h1:8080 h2\n"
        "[wheel]\nindex-url = https://another.command/simple\n"
    )
    monkeypatch.setenv("PIP_TIMEOUT", "180")
    monkeypatch.setenv("PIP_ONLY_BINARY", "numpy,scipy")
    monkeypatch.setenv("PIP_PROXY", "http://proxy:3128")
    monkeypatch.setenv("PIP_NO_BINARY", "")
    told = ci.pip_settings()
    assert told == ci.PipSettings(
        index="https://a:b%40c@mirror/simple", more=["file:///one", "file:///two", "three"],
        links=["/wheels", "https://there/wheels"], no_index=False, constraints=["/c1", "/c2"],
        trusted=["h1:8080", "h2"], cert=os.path.expanduser("~/ca.pem"), client=None, proxy="http://proxy:3128",
        timeout=180.0, no_binary=[], only_binary=["numpy", "scipy"],
    )  # fmt: skip
    monkeypatch.setenv("PIP_FIND_LINKS", "/of/the/variable")
    monkeypatch.setenv("PIP_NO_INDEX", "yes")
    told = ci.pip_settings()
    assert (told.links, told.no_index) == (["/of/the/variable"], True)


def test_a_pip_that_is_wrongly_configured_is_said(configured: Callable[[str], None]) -> None:
    configured("[global]\nno-index = perhaps\n")
    with pytest.raises(ci.NoUv, match="pip does not say"):
        ci.pip_settings()


def test_lists_become_a_flag_for_each_entry_whatever_is_in_it(tmp_path: Path) -> None:
    odd = tmp_path / "wheels, of mine"
    odd.mkdir()
    told = ci.PipSettings(
        links=[str(odd), "/not/there", "file:///not/there", odd.as_uri(), "https://there/wheels"],
        constraints=["/c1", "/c 2"], trusted=["h:1"], no_index=True, only_binary=[":all:"], no_binary=["x"],
    )  # fmt: skip
    assert ci.uv_flags(told) == [
        "--index-strategy", "unsafe-best-match",
        "--find-links", str(odd), "--find-links", odd.as_uri(), "--find-links", "https://there/wheels",
        "--constraint", "/c1", "--constraint", "/c 2", "--allow-insecure-host", "h:1", "--no-binary", "x",
        "--only-binary", ":all:", "--no-index",
    ]  # fmt: skip


def test_indexes_certificates_and_proxies_are_variables_and_on_no_command_line(tmp_path: Path) -> None:
    told = ci.PipSettings(
        index="https://me:secret@mirror/simple", more=["https://me:secret@more/simple", "file:///one"],
        cert="/ca.pem", client="/me.pem", proxy="http://proxy:3128", timeout=180.0,
    )  # fmt: skip
    assert "secret" not in " ".join(ci.uv_flags(told))
    assert ci.uv_environment(told, {"PATH": "/bin", "SSL_CERT_FILE": "/another.pem"}) == {
        "PATH": "/bin",
        "UV_DEFAULT_INDEX": "https://me:secret@mirror/simple",
        "UV_INDEX": "https://me:secret@more/simple file:///one",
        "UV_HTTP_TIMEOUT": "180",
        "SSL_CERT_FILE": "/ca.pem",
        "SSL_CLIENT_CERT": "/me.pem",
        "HTTP_PROXY": "http://proxy:3128",
        "HTTPS_PROXY": "http://proxy:3128",
    }
    assert ci.uv_environment(ci.PipSettings(cert=str(tmp_path)), {}) == {"SSL_CERT_DIR": str(tmp_path)}


def test_what_pip_leaves_open_stays_open_and_what_was_set_for_uv_stays_set() -> None:
    around = {"UV_DEFAULT_INDEX": "https://mine/simple", "SSL_CERT_FILE": "/ca.pem"}
    assert ci.uv_environment(ci.PipSettings(), around) == around
    assert ci.uv_environment(ci.PipSettings(index="https://pips/simple"), around) == around
    assert ci.uv_environment(ci.PipSettings(), {"REQUESTS_CA_BUNDLE": "/r.pem"})["SSL_CERT_FILE"] == "/r.pem"


def _wheel(folder: Path, version: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / f"torchlike-{version}-py3-none-any.whl", "w") as file:
        about = f"torchlike-{version}.dist-info"
        file.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: torchlike\nVersion: {version}\n")
        file.writestr(
            f"{about}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        file.writestr(f"{about}/RECORD", "")


def test_uv_takes_the_cpu_build_of_a_folder_before_the_index_s_and_passes_by_what_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As pip does: a build tag makes a version higher. The pin has none."""
    _wheel(tmp_path / "wheels", "2.13.0+cpu")
    for version in ("2.13.0", "2.14.0"):
        _wheel(tmp_path / "index" / "torchlike", version)
    listed = "".join(f'<a href="{f.name}">{f.name}</a>' for f in (tmp_path / "index" / "torchlike").iterdir())
    (tmp_path / "index" / "torchlike" / "index.html").write_text(f"<html><body>{listed}</body></html>")
    (tmp_path / "pins.txt").write_text("torchlike==2.13.0\n")
    told = ci.PipSettings(
        index=(tmp_path / "index").as_uri(), more=[(tmp_path / "without" / "simple").as_uri()],
        links=[str(tmp_path / "wheels"), "/not/there"], constraints=[str(tmp_path / "pins.txt")],
    )  # fmt: skip
    for name in [name for name in os.environ if name.startswith(("UV_", "PIP_"))]:
        monkeypatch.delenv(name)
    uv = shutil.which("uv") or str(Path(sys.executable).with_name("uv"))
    asked = [uv, "pip", "install", "--dry-run", "--reinstall", "--no-cache", "--python", sys.executable, "torchlike"]
    done = subprocess.run(
        [*asked, *ci.uv_flags(told)],
        env=ci.uv_environment(told, os.environ),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "torchlike==2.13.0+cpu" in done.stderr


class Ran:
    """Stands for `subprocess.run`; what begins with one of these names fails."""

    def __init__(self, *failing: str) -> None:
        self.failing, self.commands = failing, list[list[str]]()

    def __call__(self, command: Sequence[str], **_: Any) -> subprocess.CompletedProcess[str]:
        self.commands.append(list(command))
        failed = any(name in " ".join(command) for name in self.failing)
        return subprocess.CompletedProcess(command, int(failed), stdout="{}")


@pytest.mark.parametrize(
    ("on_path", "failing", "installers"),
    [
        (True, (), ["uv"]),
        (False, (), ["uv"]),
        (True, ("uv pip install",), ["uv", "pip"]),
        (False, ("constraints.txt uv",), ["pip"]),
        (True, ("create_command",), ["pip"]),
    ],
)
def test_pip_installs_where_uv_cannot(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], on_path: bool,
    failing: tuple[str, ...], installers: list[str],
) -> None:  # fmt: skip
    ran = Ran(*failing)
    monkeypatch.setattr(ci.subprocess, "run", ran)
    monkeypatch.setattr(ci.shutil, "which", lambda _: "/bin/uv" if on_path else None)
    monkeypatch.setattr(ci.sys, "executable", str(tmp_path / "python"))
    if not failing:
        (tmp_path / "uv").touch()
    assert ci.main(["--editable", ".[dev]"]) == 0
    found = ["pip" if "-m" in command else "uv" for command in ran.commands if ".[dev]" in command]
    assert found == installers
    assert all(str(ROOT / "constraints.txt") in command for command in ran.commands if ".[dev]" in command)
    assert ("installing by pip, which takes minutes" in capsys.readouterr().err) == ("pip" in installers)


def test_pip_is_brought_into_an_environment_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    ran = Ran("--version")
    monkeypatch.setattr(ci.subprocess, "run", ran)
    ci.pip_settings()
    assert [sys.executable, "-m", "ensurepip"] in ran.commands


def test_the_lock_has_every_direct_dependency_within_its_bounds_and_no_places_or_builds() -> None:
    pins = dict(line.split("==") for line in ci.LOCK.read_text().splitlines() if not line.startswith("#"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for wanted in map(Requirement, project["dependencies"] + project["optional-dependencies"]["dev"]):
        pin = pins[re.sub(r"[-_.]+", "-", wanted.name).lower()]
        assert wanted.specifier.contains(pin), f"{wanted} is pinned to {pin}: `make lock`"
    assert not [pin for pin in pins.values() if not re.fullmatch(r"[0-9][0-9a-z.]*", pin)]
    assert ci.LOCK.read_text().startswith(ci.HEADER)


def test_build_tags_leave_the_lock() -> None:
    assert ci.without_builds("numpy==2.4.6\ntorch==2.13.0+cpu\n") == "numpy==2.4.6\ntorch==2.13.0\n"


def test_an_install_that_did_not_end_is_done_again_and_one_that_did_is_not(tmp_path: Path) -> None:
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\necho "$@" >> calls\nexit $(cat status)\n')
    python.chmod(0o755)

    def made(status: int) -> tuple[int, int]:
        (tmp_path / "status").write_text(str(status))
        done = subprocess.run(
            ["make", "venv", f"PYTHON={sys.executable}"], cwd=tmp_path, capture_output=True, check=False
        )
        return done.returncode, len((tmp_path / "calls").read_text().splitlines())

    assert made(1) == (2, 1)
    assert made(0) == (0, 2)
    assert made(0) == (0, 2)
    assert (tmp_path / "calls").read_text().splitlines()[0] == ".ci/install.py --editable .[dev]"
