"""Three tiny causal LMs that ship with haps_search, one skill each (see README.md beside this file)."""

from __future__ import annotations

import difflib
from pathlib import Path

from haps_search.errors import CandidateError

ZOO: tuple[str, ...] = ("adder", "reverser", "sorter")


def zoo_path(name: str) -> Path:
    """The model folder of a zoo member, as `from_pretrained` reads it.

    Raises:
        CandidateError: no member of that name.
    """
    if name not in ZOO:
        near = difflib.get_close_matches(name, ZOO, n=1, cutoff=0.0)[0]
        raise CandidateError(f"no zoo model `{name}`, did you mean `{near}`? There are {', '.join(ZOO)}")
    return Path(__file__).parent / name
