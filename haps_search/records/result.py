"""How a run said that it ended, for those who read it without torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def has_steps_left(result: Mapping[str, Any], steps: int) -> bool:
    """Whether a run that ended at its last step would go on to `steps`. Patience that ran out stays so."""
    return bool(result.get("reason") == "steps" and result["steps"] < steps)
