"""What one GPU does with a model of Llama-3.1-8B's shape, in a few minutes and one file: `make gpu`.

The tests that need a GPU, decoding against the bandwidth floor, prefill against the peak of a matrix product, scoring,
a whole step, and the most memory of each. Weights are random, so nothing is downloaded. `--small` runs the same code in
a tiny shape on whatever is there, where the numbers mean nothing.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any

import torch
from transformers.utils import logging as transformers_logging

from benchmarks import gpu_decode
from benchmarks.circumstances import circumstances
from benchmarks.measure import interleaved
from benchmarks.scale import FULL, SMALLEST, GpuSize, Size
from benchmarks.subjects import RANK, SCALING, babbling
from haps_search.candidates.decoder import Decoder
from haps_search.candidates.frozen_lm import FrozenLM
from haps_search.candidates.sample import sample
from haps_search.candidates.score import Row, score
from haps_search.candidates.sources import LoadedLM
from haps_search.candidates.suffix import decoder_layers
from haps_search.candidates.zoo.recipes import build_tokenizer
from haps_search.config.routing import LoraConfig
from haps_search.engines.assembly import build_learner
from haps_search.engines.local import LocalEngine
from haps_search.engines.torch_process import prepare_torch
from haps_search.lora.spec import module_table, resolve
from haps_search.types import Adapter, Distribution, Sampling

RESULTS = Path(__file__).parent / "results"
ROUNDS = 2


@dataclass(frozen=True, slots=True)
class Sizes:
    """`decode` as in gpu_decode; prompts of `prompt` tokens, `rows` at once, are read and `text` tokens of each are
    scored; a product of (`product`, `product`) matrices is the peak; `step` is a whole step."""

    decode: GpuSize
    rows: int
    prompt: int
    text: int
    product: int
    step: Size


LARGE = Sizes(FULL.gpu, rows=16, prompt=1024, text=64, product=8192, step=Size(32, 8, 350, 48))
SMALL = Sizes(SMALLEST.gpu, rows=2, prompt=9, text=3, product=64, step=Size(2, 2, 9, 3))


class Part:
    """One model on the device, made when it is first asked for, and what is measured on it."""

    def __init__(self, sizes: Sizes) -> None:
        self.sizes, self.device = sizes, torch.device("cuda" if torch.cuda.is_available() else "cpu")

    @cached_property
    def model(self) -> Any:
        return self.sizes.decode.shape.model(dtype=self.sizes.decode.dtype, device=self.device)

    @cached_property
    def decoder(self) -> Decoder:
        return Decoder(self.model, decoder_layers(self.model), (), 0)

    @cached_property
    def adapters(self) -> list[Adapter]:
        layout = resolve(LoraConfig(rank=RANK, scaling=SCALING), module_table("lm", self.model))
        draw = torch.Generator().manual_seed(0)
        return [Adapter(layout, 0.01 * torch.randn(layout.size, generator=draw)) for _ in range(self.sizes.rows)]

    def prompts(self, number: int) -> list[tuple[int, ...]]:
        draw = torch.Generator().manual_seed(number)
        shape = self.sizes.rows, self.sizes.prompt
        return list(map(tuple, torch.randint(0, self.sizes.decode.shape.vocabulary, shape, generator=draw).tolist()))

    def seconds(self, work: Callable[[int], object]) -> float:
        """The median of some rounds, after one that warms up."""

        def waited(number: int) -> None:
            work(number)
            if self.device.type == "cuda":
                torch.cuda.synchronize()

        return median(interleaved({"it": waited}, ROUNDS)["it"])


def tests(_: Part) -> dict[str, Any]:
    """tests/gpu in a process of its own."""
    command = [sys.executable, "-m", "pytest", "-q", "tests/gpu"]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False)
    return {"exit_code": done.returncode, "said": done.stdout.strip().splitlines()[-1:]}


def decode(part: Part) -> dict[str, Any]:
    """Steps of 1 to 128 rows, by the floor that reading the weights once sets; with adapters, and eagerly."""
    return gpu_decode.measure(replace(FULL, gpu=part.sizes.decode, rounds=ROUNDS), threads=1).to_json()


def prefill(part: Part) -> dict[str, Any]:
    """Of the products of the layers' weights alone: what attention and head compute counts as overhead."""
    once = [Sampling(1, 1.0, row) for row in range(part.sizes.rows)]
    frozen = [None] * part.sizes.rows
    read = part.seconds(lambda n: sample(part.decoder, part.prompts(n), once, frozen))
    adapted = part.seconds(lambda n: sample(part.decoder, part.prompts(n), once, part.adapters))
    tokens, peak = part.sizes.rows * part.sizes.prompt, _peak(part)
    weights = sum(p.numel() for layer in part.decoder.layers or () for p in layer.parameters())
    return {
        "tokens": tokens,
        "seconds": read,
        "seconds_with_adapters": adapted,
        "tokens_per_second": tokens / read,
        "product_flops": peak,
        "share_of_peak": 2 * weights * tokens / read / peak,
    }


def _peak(part: Part) -> float:
    """Operations per second of one large matrix product in the weights' dtype."""
    n = part.sizes.product
    a, b = (torch.ones(n, n, dtype=part.sizes.decode.dtype, device=part.device) for _ in range(2))
    return 2 * n**3 / part.seconds(lambda _: a @ b)


def scoring(part: Part) -> dict[str, Any]:
    """Log-likelihoods and one gradient per adapter of given completions, by the whole model."""

    def scored(number: int) -> None:
        texts = [prompt[-part.sizes.text :] for prompt in part.prompts(number + 100)]
        given = zip(part.prompts(number), texts, part.adapters, strict=True)
        score(part.decoder, [Row(p, text, Distribution(), adapter, weight=1.0) for p, text, adapter in given])

    tokens, seconds = part.sizes.rows * (part.sizes.prompt + part.sizes.text), part.seconds(scored)
    return {"tokens": tokens, "seconds": seconds, "tokens_per_second": tokens / seconds}


def step(part: Part) -> dict[str, Any]:
    """Routing, sampling, scoring and the router's update, on the local engine."""
    size = part.sizes.step
    subject = babbling(Path("random-weights"), ["lm"], size, threads=1)
    config = subject.experiment.candidates[0].model_copy(update={"batch_rows": 256, "device": part.device.type})
    tokenizer = build_tokenizer()
    lm = FrozenLM(config, LoadedLM(part.model, tokenizer, part.device, (int(tokenizer.eos_token_id),)))
    learner = build_learner(subject.experiment, subject.task, {"lm": lm.table})
    engine = LocalEngine({"lm": lm}, learner)
    seconds = part.seconds(lambda number: subject.step(engine, number))
    written = size.questions * size.episodes * size.new
    return {"questions": size.questions, "episodes": size.episodes, "seconds": seconds, "at_most_written": written}


PARTS: Mapping[str, Callable[[Part], dict[str, Any]]] = {
    "tests": tests, "decode": decode, "prefill": prefill, "score": scoring, "step": step,
}  # fmt: skip


def measured(sizes: Sizes, minutes: float) -> dict[str, Any]:
    """Every part by name, with its seconds and its most memory; those not begun in time are named."""
    found: dict[str, Any] = {}
    began, part = time.perf_counter(), Part(sizes)
    for name, work in PARTS.items():
        if time.perf_counter() - began > 60 * minutes:
            found[name] = {"left_out": f"not begun within {minutes:g} minutes"}
            continue
        if part.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        started = time.perf_counter()
        result = work(part)
        found[name] = {**result, "took_s": time.perf_counter() - started, "most_bytes": _most(part.device)}
        print(f"{name}: {found[name]['took_s']:.0f} s", flush=True)
        gc.collect()  # decode has a model of its own
        torch.cuda.empty_cache()
    return found


def _most(device: torch.device) -> int | None:
    """Of the device's memory; of a CPU's nobody keeps count."""
    return torch.cuda.max_memory_allocated() if device.type == "cuda" else None


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description="One GPU, measured in minutes.")
    parser.add_argument("--small", action="store_true", help="a tiny shape, also without a GPU: does it run")
    parser.add_argument("--minutes", type=float, default=7.0, help="no part is begun after so many (7)")
    parser.add_argument("--out", type=Path, help="JSON to write; by default results/gpu-COMMIT.json")
    arguments = parser.parse_args()
    if not (arguments.small or torch.cuda.is_available()):
        parser.error("torch finds no CUDA device; --small runs the same code in a tiny shape without one")
    transformers_logging.disable_progress_bar()
    prepare_torch(None)
    where = circumstances()
    where["device"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    everything = {"circumstances": where, **measured(SMALL if arguments.small else LARGE, arguments.minutes)}
    text = json.dumps(everything, indent=1) + "\n"
    out = arguments.out or (None if arguments.small else RESULTS / f"gpu-{where['commit']}.json")
    if out is None:
        print(text)
    else:
        out.write_text(text)
        print(f"written: {out}")


if __name__ == "__main__":
    main()
