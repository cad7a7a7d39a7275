"""What `dtype: auto` is: the checkpoint's own, but float32 on a CPU that is faster in it.

A CPU without instructions for 16 bits computes in them by emulation: on one with AVX2 a product in bfloat16 took 30
times as long as in float32, which holds every number of a 16-bit checkpoint exactly.
"""

from __future__ import annotations

import time
from functools import cache
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

ROWS, WIDTH = 4, 1024
"""Of the product that is timed: a decoding step of a few rows."""
WORTH = 1.2
"""Float32 takes twice the memory, so it has to be so many times as fast."""


def own_dtype(config: PreTrainedConfig) -> torch.dtype:
    """What a checkpoint was saved in; float32 where it does not say."""
    found = config.dtype or config.get_text_config().dtype or torch.float32
    dtype: torch.dtype = getattr(torch, found) if isinstance(found, str) else found
    return dtype


def slowdown(own: torch.dtype) -> float:
    """How many times slower than in float32 this CPU is in a 16-bit dtype; 1 for others, of which none is traded."""
    return seconds(own) / seconds(torch.float32) if own.itemsize == 2 else 1.0


def on_cpu(own: torch.dtype) -> torch.dtype:
    """What a checkpoint of this dtype is computed in on a CPU that has the memory for either."""
    return torch.float32 if slowdown(own) > WORTH else own


@cache
def seconds(dtype: torch.dtype) -> float:
    """Of one product in this process, the best of three; some milliseconds, once."""
    x, weight = torch.ones(ROWS, WIDTH, dtype=dtype), torch.ones(WIDTH, WIDTH, dtype=dtype)
    found = []
    for _ in range(3):
        began = time.perf_counter()
        torch.nn.functional.linear(x, weight)
        found.append(time.perf_counter() - began)
    return min(found)
