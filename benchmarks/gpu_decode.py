"""Decoding on a GPU against the floor that its memory sets, with and without adapters.

A step has to read every weight once, so it takes at least the weights' bytes over the memory's bandwidth, which is
measured by copying. `large_gpu` has random weights, so nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor

from benchmarks.measure import Figure, Measured, interleaved
from benchmarks.scale import GpuSize, Scale
from benchmarks.subjects import RANK, SCALING
from haps_search.candidates.decoder import Decoder
from haps_search.candidates.fixed import fixed_plans
from haps_search.candidates.prompt_cache import PromptCache
from haps_search.candidates.sample import sample
from haps_search.candidates.suffix import decoder_layers
from haps_search.config.routing import LoraConfig
from haps_search.engines.torch_process import prepare_torch
from haps_search.lora.spec import module_table, resolve
from haps_search.types import Adapter, Sampling

FIGURES = ("gpu_step", "gpu_adapters", "gpu_graph")
"""Each once per number of rows, as in `gpu_step_8`."""


def measure(scale: Scale, threads: int) -> Measured:
    """Raises ValueError where this model has no decoding of one shape."""
    prepare_torch(threads)
    bench = _Bench(scale.gpu)
    found = interleaved(bench.variants(), scale.rounds)
    rows = [figure for n in scale.gpu.rows for figure in figures(n, scale.gpu, found, bench.bytes_read)]
    settings = {
        "device": bench.device_name,
        "dtype": str(scale.gpu.dtype),
        "weights_bytes_per_step": bench.bytes_read,
        "copied_bytes": scale.gpu.copied,
        "bytes_per_second": median(2 * scale.gpu.copied / seconds for seconds in found["copy"]),
        "prompt": scale.gpu.prompt,
        "new": [scale.gpu.few, scale.gpu.many],
        "tokens_per_second": {n: _tokens_per_second(n, scale.gpu, found) for n in scale.gpu.rows},
    }
    return Measured(tuple(rows), found, settings)


@dataclass(frozen=True, slots=True)
class _How:
    """One way to decode: so many rows, `graph` in tensors of one shape, rows under adapters of their own or none."""

    rows: int
    graph: bool
    adapters: bool

    @property
    def name(self) -> str:
        return f"{self.rows} rows, {'graph' if self.graph else 'eager'}{', adapters' if self.adapters else ''}"


def _ways(rows: int) -> tuple[_How, ...]:
    return _How(rows, True, False), _How(rows, True, True), _How(rows, False, False)


class _Bench:
    def __init__(self, size: GpuSize) -> None:
        self._size, self._device = size, torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model = size.shape.model(dtype=size.dtype, device=self._device)
        plans = fixed_plans(model)
        if plans is None:
            raise ValueError(f"{type(model).__name__} has no static decoding")
        # Without an end token every text has its full length.
        layers, cache = decoder_layers(model), PromptCache(0)
        self._decoders = {
            True: Decoder(model, layers, (), 0, cache, plans),
            False: Decoder(model, layers, (), 0, cache),
        }
        layout = resolve(LoraConfig(rank=RANK, scaling=SCALING), module_table("lm", model))
        draw = torch.Generator().manual_seed(0)
        self._adapters = [
            Adapter(layout, 0.01 * torch.randn(layout.size, generator=draw)) for _ in range(max(size.rows))
        ]
        self._source = torch.zeros(size.copied, dtype=torch.uint8, device=self._device)
        self._copy = torch.empty_like(self._source)
        # Of the table of embeddings a step reads a row, unless it is the output head too.
        embeddings: Tensor = model.get_input_embeddings().weight
        tied = embeddings is model.get_output_embeddings().weight
        total = sum(p.numel() * p.element_size() for p in model.parameters())
        self.bytes_read = total - (0 if tied else embeddings.numel() * embeddings.element_size())

    @property
    def device_name(self) -> str:
        return torch.cuda.get_device_name(self._device) if self._device.type == "cuda" else "cpu"

    def variants(self) -> Mapping[str, Callable[[int], object]]:
        """The copy, and of each way a long text and a short one: their difference is that of steps alone."""
        found: dict[str, Callable[[int], object]] = {"copy": self._copied}
        for how in (how for rows in self._size.rows for how in _ways(rows)):
            for new in (self._size.few, self._size.many):
                found[f"{how.name}, {new} tokens"] = self._sampler(how, new)
        return found

    def _copied(self, _: int) -> None:
        self._copy.copy_(self._source)
        self._wait()

    def _sampler(self, how: _How, new: int) -> Callable[[int], object]:
        adapters = [self._adapters[row] if how.adapters else None for row in range(how.rows)]
        samplings = [Sampling(new, 1.0, row) for row in range(how.rows)]

        def sampled(number: int) -> None:
            draw = torch.Generator().manual_seed(number)
            prompts = torch.randint(0, self._size.shape.vocabulary, (how.rows, self._size.prompt), generator=draw)
            sample(self._decoders[how.graph], prompts.tolist(), samplings, adapters)
            self._wait()

        return sampled

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


def step_seconds(how: _How, size: GpuSize, found: Mapping[str, list[float]]) -> list[float]:
    """Seconds of one decoding step in each round."""
    long, short = (found[f"{how.name}, {new} tokens"] for new in (size.many, size.few))
    return [(a - b) / (size.many - size.few) for a, b in zip(long, short, strict=True)]


def figures(rows: int, size: GpuSize, found: Mapping[str, list[float]], bytes_read: int) -> tuple[Figure, ...]:
    graph, adapters, eager = (step_seconds(how, size, found) for how in _ways(rows))
    floor = [bytes_read * seconds / (2 * size.copied) for seconds in found["copy"]]
    compared = (
        ("gpu_step", f"a decoding step of {rows} rows / reading the weights once", graph, floor),
        ("gpu_adapters", f"the same with an adapter of its own per row / without, {rows} rows", adapters, graph),
        ("gpu_graph", f"a CUDA graph / eager decoding, {rows} rows", graph, eager),
    )
    return tuple(
        Figure(f"{name}_{rows}", what, tuple(a / b for a, b in zip(top, bottom, strict=True)))
        for name, what, top, bottom in compared
    )


def _tokens_per_second(rows: int, size: GpuSize, found: Mapping[str, list[float]]) -> dict[str, float]:
    return {how.name: median(rows / seconds for seconds in step_seconds(how, size, found)) for how in _ways(rows)}
