"""Python runs this at the start of every process of a chaos run. In Ray's workers the file $CHAOS_SICK says what
befalls whoever opens a model's configuration: a stale handle of NFS, or a server that is overloaded."""

from __future__ import annotations

import builtins
import errno
import os
import sys
from typing import Any

_FLAG = os.environ.get("CHAOS_SICK", "")
_open = builtins.open


def _sick(file: Any, *arguments: Any, **named: Any) -> Any:
    if isinstance(file, str | os.PathLike) and str(file).endswith("config.json") and os.path.exists(_FLAG):
        with _open(_FLAG) as flag:
            what = flag.read()
        if what == "ESTALE":
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), os.fspath(file))
        _answer(int(what))
    return _open(file, *arguments, **named)


def _answer(status: int) -> None:
    import requests

    response = requests.Response()
    response.status_code = status
    raise requests.HTTPError(f"{status} Server Error", response=response)


if _FLAG and any(argument.endswith("default_worker.py") for argument in sys.orig_argv):
    builtins.open = _sick
