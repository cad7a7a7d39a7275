"""Any causal LM of `transformers` as a candidate."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from haps_search.candidates.chat import render
from haps_search.candidates.exact import exact
from haps_search.candidates.generate import Decoder, Generated, generate
from haps_search.candidates.gradient import RowGradients, row_gradients
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
    """A frozen LLM that speaks under per-request deltas. Implements `Candidate`."""

    def __init__(self, config: CandidateConfig, lm: LoadedLM) -> None:
        self._config, self._lm = config, lm
        self.table = module_table(config.name, lm.model)
        stops = (*lm.stop_ids, *_tokens_with(config.stop, lm.tokenizer))
        pad = lm.tokenizer.pad_token_id
        self._decoder = Decoder(lm.model, decoder_layers(lm.model) if config.suffix_replay else None, stops, pad)
        self._shapes = {(m.name, m.d_in, m.d_out) for m in self.table.modules}

    @classmethod
    def load(cls, config: CandidateConfig) -> FrozenLM:
        """Raises CandidateError naming the candidate and the way out."""
        from haps_search.candidates.sources import load_lm

        lm = load_lm(config.name, config.source, config.dtype, config.device, config.trust_remote_code)
        return cls(config, lm)

    def respond(self, requests: Sequence[Request]) -> list[Response]:
        prompts = [self._prompt(request) for request in requests]
        found: dict[int, Response] = {}
        for rows in self._batches(prompts):
            with exact(self._lm.model.dtype):
                found.update(self._fitting(rows, requests, prompts))
        return [found[i] for i in range(len(requests))]

    def _fitting(
        self, rows: list[int], requests: Sequence[Request], prompts: Sequence[list[int]]
    ) -> dict[int, Response]:
        """Answer these rows; where memory runs out, in halves."""
        try:
            answers = self._respond([requests[i] for i in rows], [prompts[i] for i in rows])
            return dict(zip(rows, answers, strict=True))
        except torch.OutOfMemoryError:
            if len(rows) == 1:
                raise
        # Past the except block, so that the failed attempt's tensors are not held by its traceback.
        _log.warning("candidate %s: out of memory with %d rows, trying halves", self._config.name, len(rows))
        torch.cuda.empty_cache()
        half = len(rows) // 2
        return self._fitting(rows[:half], requests, prompts) | self._fitting(rows[half:], requests, prompts)

    def _prompt(self, request: Request) -> list[int]:
        name = self._config.name
        if request.delta is not None:
            for target in request.delta.layout.targets:
                if (target.name, target.d_in, target.d_out) not in self._shapes:
                    raise CandidateError(
                        f"candidate {name}: a delta for {target.name} ({target.d_in} -> {target.d_out}), "
                        "which this model does not have: it was generated for another candidate"
                    )
        prompt = render(self._lm.tokenizer, self._config.chat, request.messages, name)
        limit = getattr(self._lm.model.config, "max_position_embeddings", None)
        needed = len(prompt) + request.sampling.max_new_tokens
        if limit is not None and needed > limit:
            raise CandidateError(
                f"candidate {name}: a prompt of {len(prompt)} tokens and {request.sampling.max_new_tokens} new ones "
                f"exceed its {limit} positions: shorten the context (task.max_context_chars) or max_new_tokens"
            )
        return prompt

    def _batches(self, prompts: Sequence[Sequence[int]]) -> Iterator[list[int]]:
        # Prompts of like length share a batch, so that little is padded.
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        for start in range(0, len(order), self._config.batch_rows):
            yield order[start : start + self._config.batch_rows]

    def _respond(self, requests: list[Request], prompts: list[list[int]]) -> list[Response]:
        deltas = [r.delta for r in requests]
        learning = [r.delta if r.gradient or r.kl else None for r in requests]
        lowest = first_patched(learning)
        kept = None if lowest is None or self._decoder.layers is None else Kept(lowest)
        generated = generate(self._decoder, prompts, [r.sampling for r in requests], deltas, kept)
        responses = [self._response(generated, row, len(prompt)) for row, prompt in enumerate(prompts)]
        if lowest is None:
            return responses
        samplings, kl = [r.sampling for r in requests], any(r.kl for r in requests)
        found = row_gradients(self._decoder, generated, samplings, learning, kl, kept)
        return [_with_gradients(*row, found, i) for i, row in enumerate(zip(requests, responses, strict=True))]

    def _response(self, generated: Generated, row: int, tokens_read: int) -> Response:
        ids = generated.token_ids(row)
        spoken = ids[:-1] if ids and ids[-1] in self._decoder.stop_ids else ids
        text = str(self._lm.tokenizer.decode(list(spoken), skip_special_tokens=True))
        return Response(text, ids, float(generated.log_likelihood[row]), tokens_read, len(ids))


def _with_gradients(request: Request, response: Response, found: RowGradients, row: int) -> Response:
    return replace(
        response,
        gradient=found.log_likelihood[row] if request.gradient else None,
        kl=found.kl[row] if request.kl else None,
        kl_gradient=found.kl_gradient[row] if request.kl else None,
    )


def _tokens_with(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids of all tokens whose own text contains one of `texts`."""
    if not texts:
        return []
    spoken = tokenizer.batch_decode([[i] for i in range(len(tokenizer))])
    return [i for i, piece in enumerate(spoken) if any(text in piece for text in texts)]
