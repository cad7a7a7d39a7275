"""What trials share of a candidate itself: their rows in one batch against their rows in turn, without Ray.

A decoding step reads every weight once, whoever is in the batch, and computes for each row. Where reading takes longer,
rows of other trials are nearly free; where computing does, nothing can be shared. `pool_sharing` says what of it is
left when a broker and processes stand in between.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

import torch

from benchmarks.measure import Figure, Measured, Target, interleaved, ratios
from benchmarks.scale import Scale
from haps_search.candidates.decoder import Decoder
from haps_search.candidates.sample import sample
from haps_search.candidates.suffix import decoder_layers
from haps_search.engines.torch_process import prepare_torch
from haps_search.types import Sampling

FIGURES = ("sharing_1", "sharing_4", "sharing_16", "sharing_64")
"""By rows of a trial; `bounds` in the settings is what a machine of this bandwidth and this peak could reach."""
READ, LIMIT, UP_TO = 16, 0.4, 4


def measure(scale: Scale, threads: int) -> Measured:
    """Trials' rows at once over their rows in turn, with as many tokens as `scale.sharing` says for each size."""
    prepare_torch(threads)
    bench = _Bench(scale)
    variants: dict[str, Callable[[int], object]] = {"copy": bench.copy, "product": bench.product}
    for rows, new in scale.sharing:
        variants[f"{rows} rows, at once"] = bench.sampling(rows * scale.trials, 1, new)
        variants[f"{rows} rows, in turn"] = bench.sampling(rows, scale.trials, new)
    found = interleaved(variants, scale.slow_rounds)
    figures = [
        Figure(
            name,
            f"{scale.trials} trials of {rows} row{'s' if rows > 1 else ''} in one batch / in turn, {READ} tokens "
            f"read and {new} written",
            ratios(found[f"{rows} rows, at once"], found[f"{rows} rows, in turn"]),
            Target(LIMIT) if rows <= UP_TO else None,
        )
        for name, (rows, new) in zip(FIGURES, scale.sharing, strict=True)
    ]
    bounds = {rows: bench.bound(rows, found) for rows, _ in scale.sharing}
    settings = {"trials": scale.trials, "read": READ, "threads": threads, "bounds": bounds}
    return Measured(tuple(figures), found, settings)


class _Bench:
    def __init__(self, scale: Scale) -> None:
        self._shape, self._trials = scale.large, scale.trials
        model = scale.large.model()
        self._decoder = Decoder(model, decoder_layers(model), (), 0)
        # Every weight is read, of tied embeddings once, and multiplied with each row.
        self._weights = sum(p.numel() for p in model.parameters())
        self._source = torch.zeros(self._weights)
        self._target = torch.empty_like(self._source)
        self._square = torch.ones(scale.large.hidden * 2, scale.large.hidden * 2)

    def copy(self, _: int) -> None:
        self._target.copy_(self._source)

    def product(self, _: int) -> None:
        self._square @ self._square

    def sampling(self, rows: int, times: int, new: int) -> Callable[[int], object]:
        """Batches of so many rows, one after the other; the first alone where it warms up."""

        def sampled(number: int) -> None:
            for batch in range(times if number else 1):
                draw = torch.Generator().manual_seed(100 * number + batch)
                prompts = torch.randint(0, self._shape.vocabulary, (rows, READ), generator=draw).tolist()
                sample(self._decoder, prompts, [Sampling(new, 1.0, row) for row in range(rows)], [None] * rows)

        return sampled

    def bound(self, rows: int, found: dict[str, list[float]]) -> float:
        """Of the ratio, where a step takes the longer of reading all weights and of multiplying them."""
        reading = median(found["copy"]) / 2  # a copy writes as much as it reads
        operation = median(found["product"]) / (2 * len(self._square) ** 3)

        def step(count: int) -> float:
            return max(reading, 2 * self._weights * count * operation)

        return step(self._trials * rows) / (self._trials * step(rows))
