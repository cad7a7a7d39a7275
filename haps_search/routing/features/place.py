"""Where features are kept between runs."""

from __future__ import annotations

import os
from pathlib import Path


def features_cache() -> Path:
    """`$HAPS_CACHE/features`, else `~/.cache/haps_search/features`."""
    base = os.environ.get("HAPS_CACHE")
    return (Path(base).expanduser() if base else Path.home() / ".cache" / "haps_search") / "features"
