"""What a process that holds models is allowed before it computes anything."""

from __future__ import annotations

import pytest
import torch

from haps_search.engines.torch_process import prepare_torch


@pytest.mark.parametrize(("gpus", "fractions"), [(0.25, [0.25]), (1.0, []), (2.0, []), (None, [])])
def test_a_process_on_a_part_of_a_gpu_gets_that_part_of_its_memory(
    gpus: float | None, fractions: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[float] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", found.append)
    prepare_torch(None, gpus)
    assert found == fractions
