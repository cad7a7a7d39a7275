"""Where and with what a measurement was made."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

_LIBRARIES = ("torch", "transformers", "ray", "numpy")


def circumstances() -> dict[str, Any]:
    """Commit, hardware and versions; a commit of a changed tree ends in `-dirty`."""
    return {
        "commit": commit(),
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "load_before": [round(load, 2) for load in os.getloadavg()],
        "python": platform.python_version(),
        **{name: version(name) for name in _LIBRARIES},
    }


def commit() -> str:
    """`unknown` outside a repository."""
    # Without optional locks: whoever else works in this repository is not disturbed.
    asked = ["git", "--no-optional-locks", "describe", "--always", "--dirty", "--exclude=*"]
    here = Path(__file__).parent
    return subprocess.run(asked, cwd=here, capture_output=True, text=True, check=False).stdout.strip() or "unknown"


def _cpu() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    names = [line.partition(":")[2].strip() for line in _lines(cpuinfo) if line.startswith("model name")]
    return f"{names[0] if names else 'unnamed'}, {platform.machine()}"


def _lines(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.exists() else []
