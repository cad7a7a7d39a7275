"""Any causal LM of `transformers` as a candidate."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import nn

from haps_search.candidates.chat import render
from haps_search.candidates.decoder import Decoder
from haps_search.candidates.exact import exact
from haps_search.candidates.fixed import FixedPlans, fixed_plans
from haps_search.candidates.generate import Generated, generate
from haps_search.candidates.gradient import RowGradients, row_gradients
from haps_search.candidates.prompt_cache import PromptCache
from haps_search.candidates.stack import on_several_devices
from haps_search.candidates.suffix import Kept, decoder_layers, first_patched
from haps_search.config.candidates import CandidateConfig
from haps_search.errors import CandidateError
from haps_search.lora.spec import module_table
from haps_search.types import Request, Response

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from haps_search.candidates.sources import LoadedLM


_log = logging.getLogger(__name__)


class FrozenLM:
    """A frozen LLM that speaks under per-request adapters. Implements `Candidate`."""

    def __init__(self, config: CandidateConfig, lm: LoadedLM) -> None:
        self._config, self._lm = config, lm
        self.table = module_table(config.name, lm.model)
        stops = (*lm.stop_ids, *_tokens_with(config.stop, lm.tokenizer))
        pad = lm.tokenizer.pad_token_id
        layers = _replayed(config, lm)
        cache = PromptCache(int(config.prompt_cache_gb * 1e9))
        with exact(lm.model.dtype):
            self._decoder = Decoder(lm.model, layers, stops, pad, cache, _plans(config, lm))
        self._budget = TokenBudget(config.batch_tokens)
        self._shapes = {(m.name, m.d_in, m.d_out) for m in self.table.modules}

    @classmethod
    def load(cls, config: CandidateConfig) -> FrozenLM:
        """Raises CandidateError naming the candidate and the way out."""
        from haps_search.candidates.sources import load_lm

        assert config.source.type != "table", "a model of a table is a TableCandidate"
        lm = load_lm(config.name, config.source, config.dtype, config.device, config.trust_remote_code)
        return cls(config, lm)

    @property
    def room(self) -> int:
        return self._budget.tokens

    def respond(self, requests: Sequence[Request]) -> list[Response]:
        # The episodes of a question ask the same, and a template takes longer than a small model's forward pass.
        asked = dict.fromkeys(request.messages for request in requests)
        rendered = {m: render(self._lm.tokenizer, self._config.chat, m, self._config.name) for m in asked}
        prompts = [self._checked(request, rendered[request.messages]) for request in requests]
        lengths = [len(p) + r.sampling.max_new_tokens for p, r in zip(prompts, requests, strict=True)]
        found: dict[int, Response] = {}
        for rows in self._budget.batches(lengths, self._config.batch_rows):
            with exact(self._lm.model.dtype):
                found.update(self._fitting(rows, requests, prompts))
        return [found[i] for i in range(len(requests))]

    def _fitting(
        self, rows: list[int], requests: Sequence[Request], prompts: Sequence[list[int]], cleared: bool = False
    ) -> dict[int, Response]:
        """Answer these rows; where memory runs out, in halves. One row is tried again when caches are `cleared`."""
        tokens = len(rows) * max(len(prompts[i]) + requests[i].sampling.max_new_tokens for i in rows)
        try:
            answers = self._respond([requests[i] for i in rows], [prompts[i] for i in rows])
            if self._lm.device.type == "cuda":  # elsewhere a process is killed before anyone could halve
                self._budget.fitted(tokens)
            return dict(zip(rows, answers, strict=True))
        except torch.OutOfMemoryError:
            if len(rows) == 1 and cleared:
                raise
        # Past the except block, so that the failed attempt's tensors are not held by its traceback.
        self._decoder.clear()
        torch.cuda.empty_cache()
        if len(rows) == 1:
            return self._fitting(rows, requests, prompts, cleared=True)
        self._budget.failed(tokens)
        _log.warning(
            "candidate %s: out of memory with %d rows; trying halves, at most %d tokens at once from now on",
            self._config.name, len(rows), self.room,
        )  # fmt: skip
        half = len(rows) // 2
        return self._fitting(rows[:half], requests, prompts) | self._fitting(rows[half:], requests, prompts)

    def _checked(self, request: Request, prompt: list[int]) -> list[int]:
        """The prompt, if request and model go together."""
        name = self._config.name
        if request.adapter is not None:
            for target in request.adapter.layout.targets:
                if (target.name, target.d_in, target.d_out) not in self._shapes:
                    raise CandidateError(
                        f"candidate {name}: an adapter for {target.name} ({target.d_in} -> {target.d_out}), "
                        "which this model does not have: it was generated for another candidate"
                    )
        limit = getattr(self._lm.model.config, "max_position_embeddings", None)
        needed = len(prompt) + request.sampling.max_new_tokens
        if limit is not None and needed > limit:
            raise CandidateError(
                f"candidate {name}: a prompt of {len(prompt)} tokens and {request.sampling.max_new_tokens} new ones "
                f"exceed its {limit} positions: shorten the context (task.max_context_chars) or max_new_tokens"
            )
        return prompt

    def _respond(self, requests: list[Request], prompts: list[list[int]]) -> list[Response]:
        adapters = [r.adapter for r in requests]
        learning = [r.adapter if r.gradient or r.kl else None for r in requests]
        lowest = first_patched(learning)
        kept = None if lowest is None or self._decoder.layers is None else Kept(lowest)
        generated = generate(self._decoder, prompts, [r.sampling for r in requests], adapters, kept)
        responses = [self._response(generated, row, len(prompt)) for row, prompt in enumerate(prompts)]
        if lowest is None:
            return responses
        samplings, kl = [r.sampling for r in requests], any(r.kl for r in requests)
        found = row_gradients(self._decoder, generated, samplings, learning, kl, kept)
        return [_with_gradients(*row, found, i) for i, row in enumerate(zip(requests, responses, strict=True))]

    def _response(self, generated: Generated, row: int, prompt_tokens: int) -> Response:
        ids = generated.token_ids(row)
        spoken = ids[:-1] if ids and ids[-1] in self._decoder.stop_ids else ids
        text = str(self._lm.tokenizer.decode(list(spoken), skip_special_tokens=True))
        likelihood, known = float(generated.log_likelihood[row]), generated.known[row]
        return Response(text, ids, likelihood, prompt_tokens, len(ids), prompt_known=known)


def _with_gradients(request: Request, response: Response, found: RowGradients, row: int) -> Response:
    return replace(
        response,
        gradient=found.log_likelihood[row] if request.gradient else None,
        kl=found.kl[row] if request.kl else None,
        kl_gradient=found.kl_gradient[row] if request.kl else None,
    )


def _replayed(config: CandidateConfig, lm: LoadedLM) -> nn.ModuleList | None:
    """The layers of which the last are replayed with gradients; None where the whole model is."""
    if not config.suffix_replay:
        return None
    if on_several_devices(lm.model):
        _log.warning(
            "candidate %s: its layers lie on several devices: gradients replay the whole model, and it decodes eagerly",
            config.name,
        )
        return None
    return decoder_layers(lm.model)


def _plans(config: CandidateConfig, lm: LoadedLM) -> FixedPlans | None:
    on_one = lm.device.type == "cuda" and not on_several_devices(lm.model)
    if config.decode == "eager" or (config.decode == "auto" and not on_one):
        return None
    plans = fixed_plans(lm.model)
    if plans is None:
        _log.warning(
            "candidate %s: %s has no static decoding; it decodes eagerly", config.name, type(lm.model).__name__
        )
    return plans


def _tokens_with(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids of all tokens whose own text contains one of `texts`."""
    if not texts:
        return []
    spoken = tokenizer.batch_decode([[i] for i in range(len(tokenizer))])
    return [i for i, piece in enumerate(spoken) if any(text in piece for text in texts)]


class TokenBudget:
    """Tokens per forward pass, padding and the tokens yet to be written included.

    It doubles when a pass filled more than half of it, and is halved where memory ran out; what did not fit once
    is not tried again.
    """

    def __init__(self, start: int) -> None:
        self.tokens = start
        self._failed = math.inf

    def fitted(self, tokens: int) -> None:
        if 2 * tokens > self.tokens:
            self.tokens = max(self.tokens, int(min(2 * self.tokens, 0.9 * self._failed)))

    def failed(self, tokens: int) -> None:
        self._failed = min(self._failed, tokens)
        self.tokens = max(1, min(self.tokens, tokens // 2))

    def batches(self, lengths: Sequence[int], rows: int) -> Iterator[list[int]]:
        """Places of `lengths`, in batches of at most `rows` that fit the budget of that moment; one always goes.

        Those of like length share a batch, so that little is padded.
        """
        order = sorted(range(len(lengths)), key=lambda i: lengths[i])
        while order:
            count = 1
            while count < min(rows, len(order)) and (count + 1) * lengths[order[count]] <= self.tokens:
                count += 1
            yield order[:count]
            del order[:count]
