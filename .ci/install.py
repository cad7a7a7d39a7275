"""Install into the environment whose Python runs this: by uv, which is told what pip is configured with, else by pip.

.venv/bin/python .ci/install.py REQUIREMENT...    what `pip install` takes, under the versions of constraints.txt
.venv/bin/python .ci/install.py --lock [OPTION...]    compile constraints.txt anew, by `uv pip compile`
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "constraints.txt"
HEADER = """\
# The versions this project is tested with (Python 3.11 on Linux), direct and transitive.
# Compiled by `make lock` from pyproject.toml with the extra dev; edit bounds there, not versions here.
# torch carries no build tag, so a machine takes the CPU or CUDA build its index offers; CUDA's libraries are those of
# PyPI's build, and nobody else installs them.
"""
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")
_ASK_PIP = """
import json
from pip._internal.commands import create_command
told = create_command("install").parser.get_default_values()
binaries = told.format_control
print(json.dumps({
    "index": told.index_url, "more": told.extra_index_urls, "links": told.find_links, "no_index": told.no_index,
    "constraints": told.constraints, "trusted": told.trusted_hosts, "cert": told.cert, "client": told.client_cert,
    "proxy": told.proxy, "timeout": told.timeout, "no_binary": sorted(binaries.no_binary),
    "only_binary": sorted(binaries.only_binary),
}))
"""
PIPS_INDEX, PIPS_TIMEOUT_S = "https://pypi.org/simple", 15


@dataclass(frozen=True)
class PipSettings:
    """What `pip install` would use on this machine, by its files and variables; the defaults are pip's own."""

    index: str = PIPS_INDEX
    more: Sequence[str] = ()
    links: Sequence[str] = ()
    no_index: bool = False
    constraints: Sequence[str] = ()
    trusted: Sequence[str] = ()
    cert: str | None = None
    client: str | None = None
    proxy: str | None = None
    timeout: float = PIPS_TIMEOUT_S
    no_binary: Sequence[str] = ()
    only_binary: Sequence[str] = ()


def pip_settings() -> PipSettings:
    """Asked of pip itself, whose files, sections and variables override one another in an order of its own.

    `pip config list` does not say which of two files holds. Raises NoUv where this pip cannot be asked.
    """
    _bring_pip()
    told = subprocess.run([sys.executable, "-c", _ASK_PIP], stdout=subprocess.PIPE, text=True, check=False)
    if told.returncode:
        raise NoUv("pip does not say what it is configured with")
    return PipSettings(**json.loads(told.stdout))


def uv_flags(settings: PipSettings) -> list[str]:
    """Options of uv's resolver. To pip all indexes are equal and the highest version wins; uv has to be told that."""
    each = [
        ("--find-links", _there(settings.links)),
        ("--constraint", settings.constraints),
        ("--allow-insecure-host", settings.trusted),
        ("--no-binary", settings.no_binary),
        ("--only-binary", settings.only_binary),
    ]
    given = [part for flag, values in each for value in values for part in (flag, value)]
    return ["--index-strategy", "unsafe-best-match", *given, *(["--no-index"] if settings.no_index else [])]


def uv_environment(settings: PipSettings, around: Mapping[str, str]) -> dict[str, str]:
    """Variables for uv. Indexes are here and not among the flags, since passwords in them would be seen by `ps`.

    What somebody set for uv on purpose (UV_...) stays as it is.
    """
    cert = settings.cert or around.get("REQUESTS_CA_BUNDLE") or around.get("CURL_CA_BUNDLE")  # as requests does for pip
    set_: dict[str, str | None] = {
        "UV_DEFAULT_INDEX": settings.index if settings.index != PIPS_INDEX else None,
        "UV_INDEX": " ".join(settings.more),
        "UV_HTTP_TIMEOUT": f"{settings.timeout:.0f}" if settings.timeout != PIPS_TIMEOUT_S else None,
        "SSL_CERT_DIR" if cert and Path(cert).is_dir() else "SSL_CERT_FILE": cert,
        "SSL_CLIENT_CERT": settings.client,
        "HTTP_PROXY": settings.proxy,
        "HTTPS_PROXY": settings.proxy,
    }
    meant = {name for name in around if name.startswith("UV_")}
    return {**around, **{name: value for name, value in set_.items() if value and name not in meant}}


def _there(links: Sequence[str]) -> list[str]:
    """Without the folders that are not there, over which pip goes with a warning and uv ends."""
    return [link for link in map(os.path.expanduser, links) if (path := _path_of(link)) is None or path.exists()]


def _path_of(link: str) -> Path | None:
    """None for what lies elsewhere."""
    if link.startswith("file:"):
        return Path(url2pathname(urlsplit(link).path))
    return None if "://" in link else Path(link)


def install(arguments: Sequence[str]) -> int:
    """The exit status of what installed."""
    wanted = ["--constraint", str(LOCK), *arguments]
    try:
        done = _uv(["pip", "install", "--quiet", "--python", sys.executable, *wanted], pip_settings())
        if done == 0:
            return 0
        reason = "uv could not"
    except NoUv as error:
        reason = str(error)
    _say(f"{reason}: installing by pip, which takes minutes")
    return subprocess.run([*PIP, "install", "--quiet", *wanted], check=False).returncode


def lock(arguments: Sequence[str]) -> int:
    """Write constraints.txt: versions that it has and that still fit stay, unless `--upgrade` or the like is given.

    Builds that lie in a folder of this machine (find-links) have no say in what others install.
    """
    with tempfile.TemporaryDirectory() as folder:
        compiled = Path(folder, LOCK.name)
        shutil.copy(LOCK, compiled)  # uv keeps what it finds in the file it writes
        for_ = ["--extra", "dev", "--python-version", "3.11"]
        bare = ["--no-annotate", "--no-header", "--no-emit-index-url", "--no-emit-find-links"]
        command = ["pip", "compile", "--quiet", str(ROOT / "pyproject.toml"), *for_, *bare, "--output-file"]
        status = _uv([*command, str(compiled), *arguments], replace(pip_settings(), links=()), subprocess.DEVNULL)
        if status == 0:
            LOCK.write_text(HEADER + without_builds(compiled.read_text()))
        return status


def without_builds(pins: str) -> str:
    """As `torch==2.13.0` of `torch==2.13.0+cpu`, which only some indexes have."""
    return re.sub(r"^(\S+==[^+\s]+)\+\S+", r"\1", pins, flags=re.MULTILINE)


class NoUv(Exception):
    """uv cannot be had here, or cannot be told what it needs."""


def _uv(command: Sequence[str], settings: PipSettings, out: int | None = None) -> int:
    """Run uv as pip is configured. Raises NoUv."""
    full = [shutil.which("uv") or _own_uv(), *command, *uv_flags(settings)]
    return subprocess.run(full, env=uv_environment(settings, os.environ), stdout=out, check=False).returncode


def _own_uv() -> str:
    """The environment's uv, brought by pip if need be."""
    own = Path(sys.executable).with_name("uv")
    if not own.exists():
        _say("no uv on PATH: bringing it into the environment by pip")
        brought = subprocess.run([*PIP, "install", "--quiet", "--constraint", str(LOCK), "uv"], check=False)
        if brought.returncode or not own.exists():
            raise NoUv("there is no uv")
    return str(own)


def _bring_pip() -> None:
    """An environment that uv made has none, and pip knows this machine's indexes."""
    if subprocess.run([*PIP, "--version"], capture_output=True, check=False).returncode:
        subprocess.run([sys.executable, "-m", "ensurepip"], stdout=subprocess.DEVNULL, check=False)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # noqa: T201


def main(arguments: Sequence[str]) -> int:
    verb: Callable[[Sequence[str]], int] = lock if arguments[:1] == ["--lock"] else install
    try:
        return verb(arguments[1:] if verb is lock else arguments)
    except NoUv as error:
        _say(str(error))
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
