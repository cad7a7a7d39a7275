"""float64 that stays float64.

Norms and rotary embeddings of `transformers` pass through float32 whatever the model's dtype, which would
leave a float64 model with errors of 1e-8 and make equality across batches a matter of luck.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


class _KeepFloat64(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is Tensor.float:
            func = Tensor.double
        elif func is Tensor.to:
            args = tuple(torch.float64 if a is torch.float32 else a for a in args)
        kwargs = {k: torch.float64 if v is torch.float32 else v for k, v in kwargs.items()}
        return func(*args, **kwargs)


def exact(dtype: torch.dtype) -> AbstractContextManager[object]:
    """While open, a model of dtype float64 computes nothing in float32; other dtypes are left alone."""
    return _KeepFloat64() if dtype == torch.float64 else nullcontext()
