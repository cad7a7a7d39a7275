"""What a candidate's gradient, deltas and shared prompts cost, as ratios within one interleaved run.

    .venv/bin/python benchmarks/candidate.py [--repeats 5] [--threads 2] [--out benchmarks/results/candidate.json]

A random-weight Llama of SmolLM2-135M's shape; 350-token prompts, 48 new tokens, rank 8 on the last o_proj.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from haps_search.candidates.generate import Decoder, Generated, generate
from haps_search.candidates.gradient import row_gradients
from haps_search.candidates.suffix import Kept, decoder_layers
from haps_search.config.routing import LoraConfig
from haps_search.lora.spec import module_table, resolve
from haps_search.types import Delta, Sampling

PROMPT, NEW, EPISODES, SEED = 350, 48, 8, 0


class Bench:
    """The model, and the things that are timed."""

    def __init__(self) -> None:
        torch.manual_seed(SEED)
        shape = LlamaConfig(
            vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
            num_key_value_heads=3, tie_word_embeddings=True, max_position_embeddings=2048,
        )  # fmt: skip
        model = LlamaForCausalLM(shape).eval().requires_grad_(False)
        self.layout = resolve(LoraConfig(rank=8, scaling=0.5), module_table("lm", model))
        # No end token: every text has its full length, so that all repeats do the same work.
        self.decoder = Decoder(model, decoder_layers(model), (), 0)
        self.prompts = [torch.randint(0, 49152, (PROMPT,)).tolist() for _ in range(EPISODES)]
        self.samplings = [Sampling(NEW, 1.0, seed) for seed in range(EPISODES)]
        self.deltas = [Delta(self.layout, 0.01 * torch.randn(self.layout.size)) for _ in range(EPISODES)]
        self.kept = Kept(first=29)
        self.said: Generated | None = None

    def rollout(self) -> None:
        """Eight episodes of one question, states kept."""
        self.kept = Kept(first=29)
        one = [self.deltas[0]] * EPISODES
        self.said = generate(self.decoder, [self.prompts[0]] * EPISODES, self.samplings, one, self.kept)

    def suffix_gradient(self) -> None:
        self._gradient(self.kept)

    def full_gradient(self) -> None:
        self._gradient(None)

    def _gradient(self, kept: Kept | None) -> None:
        assert self.said is not None
        row_gradients(self.decoder, self.said, self.samplings, [self.deltas[0]] * EPISODES, False, kept)

    def with_deltas(self) -> None:
        generate(self.decoder, self.prompts, self.samplings, self.deltas)

    def without_deltas(self) -> None:
        generate(self.decoder, self.prompts, self.samplings, [None] * EPISODES)

    def one_episode(self) -> None:
        generate(self.decoder, self.prompts[:1], self.samplings[:1], self.deltas[:1])


RATIOS: dict[str, tuple[str, str, float, float]] = {
    "suffix_gradient": ("suffix_gradient", "full_gradient", 1.0, 0.12),
    "gradient_share": ("suffix_gradient", "rollout", 1.0, 0.10),
    "adapter_overhead": ("with_deltas", "without_deltas", 1.0, 1.05),
    "group_prefill": ("rollout", "one_episode", 1.0 / EPISODES, 0.35),
}
"""Name -> numerator, denominator, factor, and what it should reach on two CPU cores."""


def timed(call: Callable[[], None]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/candidate.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.set_flush_denormal(True)
    bench = Bench()
    names = ["rollout", "suffix_gradient", "full_gradient", "with_deltas", "without_deltas", "one_episode"]
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for repeat in range(arguments.repeats + 1):
        for name in names:
            passed = timed(getattr(bench, name))
            if repeat:  # the first round warms up
                seconds[name].append(passed)
        print(f"round {repeat}/{arguments.repeats}", flush=True)
    result = {"ratios": {n: ratio(seconds, *spec) for n, spec in RATIOS.items()}, "seconds": seconds, **circumstances()}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result | {"threads": arguments.threads, "seed": SEED}, indent=1) + "\n")
    for name, found in result["ratios"].items():
        print(
            f"{name:<18} {found['median']:.3f}  [{found['low']:.3f}, {found['high']:.3f}]  to reach {found['to_reach']}"
        )


def ratio(seconds: dict[str, list[float]], top: str, bottom: str, factor: float, to_reach: float) -> dict[str, float]:
    """Median of the rounds' own ratios, and their spread."""
    found = [factor * a / b for a, b in zip(seconds[top], seconds[bottom], strict=True)]
    return {"median": statistics.median(found), "low": min(found), "high": max(found), "to_reach": to_reach}


def circumstances() -> dict[str, str]:
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return {"commit": commit.stdout.strip(), "machine": platform.machine(), "torch": torch.__version__}


if __name__ == "__main__":
    main()
