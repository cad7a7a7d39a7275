"""How large the things are that are measured."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from haps_search.candidates.zoo.recipes import build_tokenizer

POSITIONS = 2048


@dataclass(frozen=True, slots=True)
class Shape:
    """A Llama with random weights; speed does not ask what they are."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    intermediate: int
    vocabulary: int
    tied: bool = True

    def model(
        self, seed: int = 0, dtype: torch.dtype = torch.float32, device: torch.device | None = None
    ) -> LlamaForCausalLM:
        """Frozen, in evaluation mode; made where it is to be, since there may be no room for it elsewhere."""
        config = LlamaConfig(
            vocab_size=self.vocabulary, hidden_size=self.hidden, intermediate_size=self.intermediate,
            num_hidden_layers=self.layers, num_attention_heads=self.heads, num_key_value_heads=self.kv_heads,
            tie_word_embeddings=self.tied, max_position_embeddings=POSITIONS, bos_token_id=None, eos_token_id=1,
        )  # fmt: skip
        with torch.random.fork_rng(devices=[]), torch.device(device or "cpu"):
            torch.manual_seed(seed)
            model: LlamaForCausalLM = AutoModelForCausalLM.from_config(config, dtype=dtype)
        return model.eval().requires_grad_(False)

    def save(self, folder: Path) -> Path:
        """As a candidate's folder, in bfloat16 as real ones are; a character of a prompt is a token."""
        self.model().bfloat16().save_pretrained(folder)
        build_tokenizer().save_pretrained(folder)
        return folder


SMOLLM2_135M = Shape(30, 576, 9, 3, 1536, 49152)
LLAMA_31_8B = Shape(32, 4096, 32, 8, 14336, 128256, tied=False)


@dataclass(frozen=True, slots=True)
class Size:
    """Of a step: Q, G, tokens read and tokens written."""

    questions: int
    episodes: int
    prompt: int
    new: int


@dataclass(frozen=True, slots=True)
class GpuSize:
    """What gpu_decode samples: `rows` at once, prompts of `prompt` tokens, texts of `few` and of `many`, which share a
    shape; the bandwidth is that of copying `copied` bytes."""

    shape: Shape
    dtype: torch.dtype
    rows: tuple[int, ...]
    prompt: int
    few: int
    many: int
    copied: int


@dataclass(frozen=True, slots=True)
class Crowd:
    """Of the broker's rehearsal: `open` are the numbers of tickets that wait at any moment, ascending."""

    workers: int
    trials: int
    candidates: int
    open: tuple[int, ...]
    exchanges: int


@dataclass(frozen=True, slots=True)
class Processes:
    """Of many_workers: every trial asks for so many `requests` at once, and so many workers are killed meanwhile."""

    workers: int
    trials: int
    requests: int
    kills: int


@dataclass(frozen=True, slots=True)
class Payload:
    """Of pool_bytes: P numbers in an adapter, Q and G of a step."""

    size: int
    questions: int
    episodes: int


@dataclass(frozen=True, slots=True)
class Served:
    """Of serving: `clients` ask for `answers` each in a round; `requests` say what one costs in CPU, and after `many`
    memory is compared with what it was after a tenth of them."""

    clients: int
    answers: int
    requests: int
    many: int


@dataclass(frozen=True, slots=True)
class Scale:
    """`large` is the candidate of every ratio but step_scaling's, which takes `middle`.

    A single trial takes steps of size `alone`; the pool's `trials`, and the zoo, of size `pool`. In a round each trial
    takes `pool_steps` with the large candidate and `zoo_steps` with the zoo. What takes minutes has `slow_rounds`, and
    rivals and ray_overhead ask half of `alone`'s questions.
    """

    large: Shape
    middle: Shape
    alone: Size
    pool: Size
    rounds: int
    slow_rounds: int
    trials: int
    pool_steps: int
    zoo_steps: int
    sizes: tuple[int, ...]
    """Of Q and of G in step_scaling; while one moves, the other stands in the middle."""
    pools: tuple[int, ...]
    """Of K."""
    prompts: tuple[int, ...]
    """Prompt lengths."""
    sharing: tuple[tuple[int, int], ...]
    """Rows of a trial, and tokens that each writes."""
    truncated: tuple[int, int]
    """Rows and tokens by which sampling under a top-p is compared with plain sampling."""
    gpu: GpuSize
    crowd: Crowd
    processes: Processes
    payloads: tuple[Payload, ...]
    """Whose bytes are counted."""
    timed: Payload
    """Whose steps are timed."""
    served: Served


FULL = Scale(
    large=SMOLLM2_135M,
    middle=Shape(8, 256, 4, 2, 768, 4096),
    alone=Size(questions=4, episodes=8, prompt=350, new=48),
    pool=Size(questions=8, episodes=8, prompt=48, new=8),
    rounds=4,
    slow_rounds=3,
    trials=8,
    pool_steps=1,
    zoo_steps=2,
    sizes=(2, 4, 8, 16, 32),
    pools=(1, 2, 4),
    prompts=(64, 128, 256, 512),
    sharing=((1, 48), (4, 48), (16, 24), (64, 8)),
    truncated=(256, 4),
    gpu=GpuSize(LLAMA_31_8B, torch.bfloat16, rows=(1, 8, 32, 128), prompt=32, few=40, many=88, copied=2**32),
    crowd=Crowd(workers=1000, trials=100, candidates=10, open=(1000, 10_000, 100_000), exchanges=20_000),
    processes=Processes(workers=16, trials=8, requests=2000, kills=8),
    payloads=(Payload(10_000, 32, 4), Payload(1_000_000, 32, 4), Payload(40_000_000, 4, 4)),
    timed=Payload(1_000_000, 32, 4),
    served=Served(clients=32, answers=1, requests=200, many=10_000),
)

QUICK = Scale(
    large=Shape(6, 192, 3, 1, 512, 2048),
    middle=Shape(2, 64, 2, 1, 128, 512),
    alone=Size(questions=2, episodes=4, prompt=64, new=8),
    pool=Size(questions=2, episodes=4, prompt=16, new=4),
    rounds=2,
    slow_rounds=2,
    trials=2,
    pool_steps=1,
    zoo_steps=1,
    sizes=(2, 4, 8),
    pools=(1, 2),
    prompts=(16, 32, 64),
    sharing=((1, 8), (4, 8), (16, 4), (64, 2)),
    truncated=(32, 2),
    gpu=GpuSize(Shape(4, 256, 4, 2, 768, 4096), torch.float32, rows=(1, 8), prompt=32, few=40, many=88, copied=2**27),
    crowd=Crowd(workers=100, trials=20, candidates=4, open=(200, 2000), exchanges=1000),
    processes=Processes(workers=4, trials=2, requests=200, kills=1),
    payloads=(Payload(10_000, 8, 2), Payload(100_000, 8, 2)),
    timed=Payload(100_000, 8, 2),
    served=Served(clients=8, answers=1, requests=20, many=100),
)

SMALLEST = Scale(
    large=Shape(2, 24, 2, 1, 32, 300),
    middle=Shape(2, 24, 2, 1, 32, 300),
    alone=Size(questions=2, episodes=2, prompt=9, new=3),
    pool=Size(questions=2, episodes=2, prompt=6, new=2),
    rounds=1,
    slow_rounds=1,
    trials=2,
    pool_steps=1,
    zoo_steps=1,
    sizes=(2, 3),
    pools=(1, 2),
    prompts=(5, 9),
    sharing=((1, 2), (4, 2), (16, 2), (64, 2)),
    truncated=(4, 2),
    gpu=GpuSize(
        Shape(2, 24, 2, 1, 32, 300, tied=False), torch.float32, rows=(1, 2), prompt=4, few=2, many=8, copied=2**20
    ),
    crowd=Crowd(workers=20, trials=5, candidates=2, open=(50, 200), exchanges=200),
    processes=Processes(workers=2, trials=2, requests=60, kills=1),
    payloads=(Payload(2000, 2, 2), Payload(20_000, 2, 2)),
    timed=Payload(2000, 2, 2),
    served=Served(clients=4, answers=2, requests=4, many=20),
)
"""For the tests of the benchmarks themselves."""
