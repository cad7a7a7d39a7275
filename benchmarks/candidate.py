"""What a candidate's gradient, adapters and shared prompts cost."""

from __future__ import annotations

import sys

import torch

from benchmarks.measure import Figure, Measured, Target, interleaved, ratios
from benchmarks.scale import Scale
from benchmarks.subjects import RANK, SCALING
from haps_search.candidates import lying, row_attention
from haps_search.candidates import sample as decoding
from haps_search.candidates.activations import Activations, Ids, Kept
from haps_search.candidates.decoder import Decoder
from haps_search.candidates.prefill import prefill, recomputed
from haps_search.candidates.sample import sample
from haps_search.candidates.score import Row, score
from haps_search.candidates.suffix import decoder_layers
from haps_search.config.routing import LoraConfig
from haps_search.engines.torch_process import prepare_torch
from haps_search.lora.spec import module_table, resolve
from haps_search.types import Adapter, Sampling

FIGURES = (
    "suffix_gradient", "gradient_share", "lost_activations", "adapter_overhead", "group_prefill", "ended_rows",
    "packed_prefill", "shared_prompt", "refill", "top_p",
)  # fmt: skip


class _Bench:
    """One model, G prompts and adapters; what sampling keeps is what scoring replays."""

    def __init__(self, scale: Scale) -> None:
        self.scale = scale
        model = scale.large.model()
        layout = resolve(LoraConfig(rank=RANK, scaling=SCALING), module_table("lm", model))
        # No end token: every text has its full length, so that all rounds do the same work.
        layers = decoder_layers(model)
        assert layers is not None
        self.layers, self.decoder = layers, Decoder(model, layers, (), 0)
        self.draw = torch.Generator().manual_seed(0)
        numbers = [torch.randn(layout.size, generator=self.draw) for _ in range(scale.alone.episodes)]
        self.adapters = [Adapter(layout, 0.01 * values) for values in numbers]
        self.samplings = [Sampling(scale.alone.new, 1.0, seed) for seed in range(scale.alone.episodes)]
        self.prompts: list[Ids] = []
        self.short: list[Ids] = []
        self.completions: list[Ids] = []
        self.activations: list[Activations] = []

    def rollout(self, _: int) -> None:
        """G episodes of one question, activations kept."""
        shape, rows = self.scale.large, len(self.samplings)
        drawn = torch.randint(0, shape.vocabulary, (rows, self.scale.alone.prompt), generator=self.draw)
        self.prompts, kept = list(map(tuple, drawn.tolist())), Kept(first=shape.layers - 1)
        self.short = [prompt[: self.scale.pool.prompt] for prompt in self.prompts]
        asked = [self.prompts[0]] * rows
        self.completions = [ids for ids, _ in sample(self.decoder, asked, self.samplings, self._one(), kept).rows()]
        self.activations = kept.activations(range(rows), asked, self.completions, [True] * rows)

    def suffix_gradient(self, _: int) -> None:
        """One gradient of the question's G completions, from what was kept."""
        self._gradient(self.activations)

    def recomputed_gradient(self, _: int) -> None:
        """The same where nothing was kept."""
        prompts, first = [self.prompts[0]] * len(self.completions), self.scale.large.layers - 1
        self._gradient(recomputed(self.decoder, self.layers, first, prompts, self.completions, True))

    def full_gradient(self, _: int) -> None:
        self._gradient(None)

    def _gradient(self, activations: list[Activations] | None) -> None:
        rows = [
            Row(self.prompts[0], ids, sampling.distribution, adapter, weight=1.0 if number % 2 else -1.0)
            for number, (ids, sampling, adapter) in enumerate(
                zip(self.completions, self.samplings, self._one(), strict=True)
            )
        ]
        score(self.decoder, rows, activations)

    def _one(self) -> list[Adapter]:
        return [self.adapters[0]] * len(self.adapters)

    def with_adapters(self, _: int) -> None:
        sample(self.decoder, self.short, self.samplings, self.adapters)

    def without_adapters(self, _: int) -> None:
        sample(self.decoder, self.short, self.samplings, [None] * len(self.short))

    def one_episode(self, _: int) -> None:
        sample(self.decoder, self.prompts[:1], self.samplings[:1], self.adapters[:1])

    def packed(self, _: int) -> None:
        """Prompts whose lengths are evenly spread, one after the other."""
        self._read(1.0)

    def padded(self, _: int) -> None:
        """The same beside each other."""
        self._read(0.0)

    def _read(self, packed_under: float) -> None:
        count, before = len(self.prompts), lying.PACKED_UNDER
        spread = [prompt[: max(1, len(prompt) * (row + 1) // count)] for row, prompt in enumerate(self.prompts)]
        lying.PACKED_UNDER = packed_under
        try:
            with torch.no_grad():
                prefill(self.decoder, spread, self.adapters, None)
        finally:
            lying.PACKED_UNDER = before

    def shared(self, _: int) -> None:
        """Episodes of one question, whose prompt's keys and values are there once."""
        self._episodes(0)

    def copied(self, _: int) -> None:
        """The same, each with a copy."""
        self._episodes(sys.maxsize)

    def _episodes(self, shared_from: int) -> None:
        before, row_attention.SHARED_FROM = row_attention.SHARED_FROM, shared_from
        try:
            sample(self.decoder, [self.prompts[0]] * len(self.samplings), self.samplings, self._one())
        finally:
            row_attention.SHARED_FROM = before

    def lengths(self) -> list[int]:
        """Of a step's texts, evenly from 1 to the longest."""
        alone = self.scale.alone
        rows = alone.questions * alone.episodes
        return [max(1, alone.new * (row + 1) // rows) for row in range(rows)]

    def rows_leave(self, _: int) -> None:
        """A step's episodes, whose texts end one after another."""
        shape, alone = self.scale.large, self.scale.alone
        rows = alone.questions * alone.episodes
        samplings = [Sampling(length, 1.0, row) for row, length in enumerate(self.lengths())]
        prompts = [[row % shape.vocabulary] * 16 for row in range(rows)]
        sample(self.decoder, prompts, samplings, [self.adapters[row % len(self.adapters)] for row in range(rows)])

    def mixed_lengths(self) -> list[int]:
        """The same lengths in no order: whose text ends when is not known before."""
        lengths = self.lengths()
        return [lengths[row] for row in torch.randperm(len(lengths), generator=torch.Generator().manual_seed(0))]

    def refilled(self, _: int) -> None:
        """As many at a time as a question has episodes; others join as texts end."""
        self._mixed(range(len(self.lengths())))

    def in_turn(self, _: int) -> None:
        """One batch after another; rows that have ended leave."""
        rows, together = range(len(self.lengths())), self.scale.alone.episodes
        for start in rows[::together]:
            self._mixed(rows[start : start + together])

    def _mixed(self, rows: range) -> None:
        lengths, vocabulary, adapters = self.mixed_lengths(), self.scale.large.vocabulary, self.adapters
        sample(
            self.decoder,
            [[row % vocabulary] * 16 for row in rows],
            [Sampling(lengths[row], 1.0, row) for row in rows],
            [adapters[row % len(adapters)] for row in rows],
            together=self.scale.alone.episodes,
        )

    def plain(self, _: int) -> None:
        self._many(1.0)

    def nucleus(self, _: int) -> None:
        self._many(0.9)

    def _many(self, top_p: float) -> None:
        rows, new = self.scale.truncated
        samplings = [Sampling(new, 1.0, row, top_p=top_p) for row in range(rows)]
        prompts = [[row % self.scale.large.vocabulary] for row in range(rows)]
        sample(self.decoder, prompts, samplings, [None] * rows)

    def rows_stay(self, number: int) -> None:
        leaves_at, decoding.SHRINK = decoding.SHRINK, 0.0
        try:
            self.rows_leave(number)
        finally:
            decoding.SHRINK = leaves_at


def measure(scale: Scale, threads: int) -> Measured:
    """`large` alone, without router or engine."""
    prepare_torch(threads)
    bench, count = _Bench(scale), scale.alone.episodes
    variants = (
        "rollout", "suffix_gradient", "recomputed_gradient", "full_gradient", "with_adapters", "without_adapters",
        "one_episode", "rows_leave", "rows_stay", "packed", "padded", "shared", "copied", "refilled", "in_turn",
        "plain", "nucleus",
    )  # fmt: skip
    found = interleaved({name: getattr(bench, name) for name in variants}, scale.rounds)
    rows = scale.alone.questions * count
    compared: tuple[tuple[str, str, str, float | None], ...] = (
        ("suffix_gradient", "scoring with gradient from kept activations / by the whole model", "full_gradient", 0.12),
        ("gradient_share", f"scoring with gradient / sampling, {count} episodes of one question", "rollout", 0.10),
        ("lost_activations", "scoring where nothing was kept / from kept activations", "suffix_gradient", None),
        ("adapter_overhead", f"generation with {count} different adapters / without", "without_adapters", 1.05),
        ("group_prefill", f"{count} episodes of one question / {count} x one episode", "one_episode", 0.35),
        ("ended_rows", f"{rows} texts of up to {scale.alone.new} tokens, ended rows leave / stay", "rows_stay", None),
        ("packed_prefill", f"reading {count} prompts of lengths spread evenly, packed / padded", "padded", None),
        (
            "shared_prompt",
            f"{count} episodes of one question on one prompt's keys and values / on copies",
            "copied",
            None,
        ),
        ("refill", f"{rows} such texts in no order, {count} at a time, others join / batch by batch", "in_turn", 0.75),
        ("top_p", f"sampling under a top-p of 0.9 / plain, {scale.truncated[0]} rows, decoding included", "plain", 1.3),
    )
    tops = (
        "suffix_gradient",
        "suffix_gradient",
        "recomputed_gradient",
        "with_adapters",
        "rollout",
        "rows_leave",
        "packed",
        "shared",
        "refilled",
        "nucleus",
    )
    top = dict(zip(FIGURES, tops, strict=True))
    factor = {"group_prefill": 1.0 / count}
    figures = [
        Figure(
            name,
            what,
            ratios(found[top[name]], found[bottom], factor.get(name, 1.0)),
            None if limit is None else Target(limit),
        )
        for name, what, bottom, limit in compared
    ]
    settings = {"prompt": scale.alone.prompt, "new": scale.alone.new, "episodes": count, "threads": threads}
    return Measured(tuple(figures), found, settings)
