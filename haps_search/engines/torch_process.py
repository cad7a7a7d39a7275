"""Torch in a process that holds models."""

from __future__ import annotations

import os

import torch


def prepare_torch(threads: int | None, gpus: float | None = None) -> None:
    """Set up torch in a process that holds models, before it computes anything.

    A process that was given no GPU (`gpus` 0) sees none: Ray leaves all of a machine's visible to it, and device
    `auto` would take the first, where a candidate sits. One that was given a fraction of a GPU gets no more of its
    memory, or batches that grow while they fit would take it from the neighbours.

    Numbers below the smallest normal float become zero: optimiser moments get there, and a CPU then needs
    a hundred times as long for a step (seen: 12.7 s instead of 0.14 s).
    """
    if gpus == 0:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    elif gpus is not None and gpus < 1 and torch.cuda.is_available():
        torch.cuda.set_per_process_memory_fraction(gpus)
    torch.set_flush_denormal(True)
    if threads is not None:
        torch.set_num_threads(threads)
