"""Any causal LM of `transformers` as a candidate."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING

from torch import nn

from haps_search.candidates.activation_store import ActivationStore, stored_root, weights_digest
from haps_search.candidates.activations import ActivationCache, Activations, Ids
from haps_search.candidates.batches import Batches
from haps_search.candidates.candidate import Watch
from haps_search.candidates.chat import render, text_ids
from haps_search.candidates.decoder import Decoder
from haps_search.candidates.exact import exact
from haps_search.candidates.fixed import FixedPlans, fixed_plans
from haps_search.candidates.growing_text import GrowingText
from haps_search.candidates.partial import GradientSum
from haps_search.candidates.prompt_cache import PromptCache
from haps_search.candidates.reuse import Group, collecting, groups, keep
from haps_search.candidates.sample import Drew, sample
from haps_search.candidates.score import Row, RowScores, score
from haps_search.candidates.stack import on_several_devices
from haps_search.candidates.stored import LikelyWords, read
from haps_search.candidates.suffix import decoder_layers, patched_modules
from haps_search.config.candidates import CandidateConfig, EndpointSource, TableSource
from haps_search.errors import CandidateError, TooLong
from haps_search.lora.row_adapters import on_cpu
from haps_search.lora.spec import module_table
from haps_search.types import Adapter, Message, Sampled, SampleRequest, Score, ScoreRequest, Scores

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from haps_search.candidates.sources import LoadedLM

CHANGING = "longrope", "dynamic"
"""Kinds of rotary embeddings of which a model takes others for a whole batch where one of its texts is long."""

_log = logging.getLogger(__name__)


class FrozenLM:
    """A frozen LLM that samples and scores under per-request adapters. Implements `Candidate`."""

    def __init__(self, config: CandidateConfig, lm: LoadedLM) -> None:
        self._config, self._lm = config, lm
        self.table = module_table(config.name, lm.model)
        stops = (*lm.stop_ids, *_tokens_with(config.stop, lm.tokenizer))
        pad = lm.tokenizer.pad_token_id
        layers = _replayed(config, lm)
        cache = PromptCache(int(config.prompt_cache_gb * 1e9))
        with exact(lm.model.dtype):
            self._decoder = Decoder(lm.model, layers, stops, pad, cache, _plans(config, lm))
        self._activations = ActivationCache(int(config.activation_gb * 1e9) if layers is not None else 0)
        self._likely = LikelyWords()
        # A gradient takes other memory than decoding: what one of them found out does not bound the other.
        self._sampling, self._scoring = (
            Batches(config.name, config.batch_tokens, config.batch_rows, lm.device, self._clear) for _ in range(2)
        )
        self._shapes = {(m.name, m.d_in, m.d_out) for m in self.table.modules}

    @classmethod
    def load(cls, config: CandidateConfig) -> FrozenLM:
        """Raises CandidateError naming the candidate and the way out."""
        from haps_search.candidates.sources import load_lm

        assert not isinstance(config.source, TableSource | EndpointSource), "their candidates have classes of their own"
        lm = load_lm(config.name, config.source, config.dtype, config.device, config.trust_remote_code)
        return cls(config, lm)

    @property
    def room(self) -> int:
        return self._sampling.room

    def sample(self, requests: Sequence[SampleRequest]) -> list[Sampled]:
        return self._drawn(requests, None)

    def sample_watched(self, requests: Sequence[SampleRequest], watch: Watch) -> list[Sampled]:
        """Implements `Watched`."""
        return self._drawn(requests, watch)

    def _drawn(self, requests: Sequence[SampleRequest], watch: Watch | None) -> list[Sampled]:
        prompts = self._prompts([request.messages for request in requests])
        lengths = []
        for request, prompt in zip(requests, prompts, strict=True):
            self._check(request.adapter, len(prompt), request.sampling.max_new_tokens)
            lengths.append(len(prompt) + request.sampling.max_new_tokens)

        def work(rows: list[int], together: int) -> dict[int, Sampled]:
            with exact(self._lm.model.dtype):
                drew = None if watch is None else self._telling(watch, rows)
                drawn = self._sample([requests[i] for i in rows], [prompts[i] for i in rows], together, drew)
            return dict(zip(rows, drawn, strict=True))

        found: dict[int, Sampled] = {}
        for some in self._sampling.flow(lengths, work):
            found |= some
        return [found[i] for i in range(len(requests))]

    def score(self, requests: Sequence[ScoreRequest]) -> Scores:
        places = [(i, j) for i, request in enumerate(requests) for j in request.read]
        rows = self._rows(requests, places)
        stored = self._read(requests, places, rows)
        asked = [n for n, (i, j) in enumerate(places) if not requests[i].keep or j in requests[i].asked]
        places, rows, stored = [places[n] for n in asked], [rows[n] for n in asked], [stored[n] for n in asked]
        scores: dict[tuple[int, int], Score] = {}
        total = GradientSum()
        for group in groups(self._decoder, self._activations, rows, stored):
            work = partial(self._score, rows, group)
            for picked, found in self._scoring.run(group.lengths(rows), work):
                scores |= {places[i]: score for i, score in zip(picked, found.rows, strict=True)}
                total.add([rows[i].adapter for i in picked], found.gradients)
        for (i, _), row in zip(places, rows, strict=True):
            if not requests[i].keep:
                self._activations.drop(row.prompt, row.tokens)
        completions = tuple(
            tuple(scores.get((i, j)) for j in range(len(request.completions))) for i, request in enumerate(requests)
        )
        return Scores(completions, on_cpu(total.of(request.adapter for request in requests)))

    def _rows(self, requests: Sequence[ScoreRequest], places: Sequence[tuple[int, int]]) -> list[Row]:
        given = [requests[i].completions[j] for i, j in places]
        rows = []
        for (i, _), one, prompt in zip(places, given, self._prompts([one.messages for one in given]), strict=True):
            request = requests[i]
            tokens = one.completion if isinstance(one.completion, tuple) else self._text(prompt, one.completion)
            for adapter in (request.adapter, request.reference):
                self._check(adapter, len(prompt), len(tokens))
            kl = request.kl or one.kl_weight != 0.0
            weights = one.weight, one.kl_weight
            of = request.adapter, *weights, kl, request.reference, request.match, request.shortlist
            rows.append(Row(prompt, tokens, request.distribution, *of))
        return rows

    def _read(
        self, requests: Sequence[ScoreRequest], places: Sequence[tuple[int, int]], rows: Sequence[Row]
    ) -> list[Activations | None]:
        """What is stored of those that are to be kept; None for the others."""
        staying = [n for n, (i, _) in enumerate(places) if requests[i].keep]
        found: list[Activations | None] = [None] * len(rows)
        if staying:
            some = read(self._decoder, self._store, [rows[n] for n in staying], self._scoring)
            for n, entered in zip(staying, some, strict=True):
                found[n] = entered
        return found

    @cached_property
    def _store(self) -> ActivationStore:
        disk = int(self._config.stored_disk_gb * 1e9)
        folder = stored_root() / weights_digest(self._lm.model) if disk else None
        return ActivationStore(folder, int(self._config.stored_gb * 1e9), disk)

    def _score(self, rows: Sequence[Row], group: Group, picked: list[int]) -> tuple[list[int], RowScores]:
        """Score these places of a group; returns which rows they are."""
        numbers = [group.rows[i] for i in picked]
        with exact(self._lm.model.dtype):
            activations, some = group.activations(self._decoder, rows, picked), [rows[i] for i in numbers]
            likely = None
            if group.shortlist and activations is not None:
                likely = self._likely.of(self._decoder, some, activations, group.shortlist)
            return numbers, score(self._decoder, some, activations, likely)

    def _telling(self, watch: Watch, rows: Sequence[int]) -> Drew:
        """What tells `watch` of a batch whose rows are those requests."""
        texts = [GrowingText(self._lm.tokenizer) for _ in rows]

        def drew(row: int, token: int) -> bool:
            if token not in self._decoder.stop_ids:
                texts[row].add(token)
            return watch(rows[row], texts[row].so_far)

        return drew

    def _sample(
        self, requests: list[SampleRequest], prompts: list[Ids], together: int, drew: Drew | None
    ) -> list[Sampled]:
        adapters = [request.adapter for request in requests]
        scored = [request.adapter if request.keep else None for request in requests]
        kept = collecting(self._activations, scored)
        drawn = sample(self._decoder, prompts, [r.sampling for r in requests], adapters, kept, together, drew)
        rows, lengths = drawn.rows(), map(len, prompts)
        if kept is not None:
            keep(self._decoder, self._activations, kept, scored, prompts, [ids for ids, _ in rows])
        return [self._sampled(*row) for row in zip(rows, lengths, drawn.known, strict=True)]

    def _sampled(self, row: tuple[Ids, tuple[float, ...]], prompt_tokens: int, known: bool) -> Sampled:
        ids, log_probabilities = row
        said = ids[:-1] if ids and ids[-1] in self._decoder.stop_ids else ids
        text = str(self._lm.tokenizer.decode(list(said), skip_special_tokens=True))
        return Sampled(text, ids, log_probabilities, prompt_tokens, len(ids), known)

    def _prompts(self, messages: Sequence[tuple[Message, ...]]) -> list[Ids]:
        # The episodes of a question ask the same, and a template takes longer than a small model's forward pass.
        rendered = {
            m: tuple(render(self._lm.tokenizer, self._config.chat, m, self._config.name))
            for m in dict.fromkeys(messages)
        }
        return [rendered[m] for m in messages]

    def _text(self, prompt: Ids, text: str) -> Ids:
        return tuple(text_ids(self._lm.tokenizer, self._config.chat, prompt, text, self._decoder.stop_ids))

    def _check(self, adapter: Adapter | None, prompt_tokens: int, new_tokens: int) -> None:
        """Raises CandidateError where request and model do not go together."""
        name = self._config.name
        for target in patched_modules(adapter):
            if (target.name, target.d_in, target.d_out) not in self._shapes:
                raise CandidateError(
                    f"candidate {name}: an adapter for {target.name} ({target.d_in} -> {target.d_out}), "
                    "which this model does not have: it was generated for another candidate"
                )
        limit, why = self._positions
        if limit is not None and prompt_tokens + new_tokens > limit:
            raise TooLong(
                f"candidate {name}: a prompt of {prompt_tokens} tokens and {new_tokens} new ones "
                f"exceed its {limit} positions{why}: shorten the context (task.max_context_chars) or max_new_tokens"
            )

    @cached_property
    def _positions(self) -> tuple[int | None, str]:
        """How many it has, and what is to be said of them.

        Families whose rotary frequencies change with the longest text of a batch (Phi's `longrope`, `dynamic`) are held
        to the positions below which they do not: beyond them a text would depend on who shares its batch.
        """
        config = self._lm.model.config
        most: int | None = getattr(config, "max_position_embeddings", None)
        rope = getattr(config, "rope_parameters", None) or {}
        nested = [each for each in rope.values() if isinstance(each, dict)]
        for each in nested or [rope]:
            first = each.get("original_max_position_embeddings")
            if each.get("rope_type") in CHANGING and first is not None and (most is None or first < most):
                return int(
                    first
                ), f" (of {most}: beyond them {each['rope_type']} lets texts of a batch change each other)"
        return most, ""

    def _clear(self) -> None:
        """Give back the memory that only saves time."""
        self._decoder.clear()
        self._activations.clear()
        if "_store" in self.__dict__:  # nobody else asks for the weights' digest
            self._store.clear()


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
    pieces = tokenizer.batch_decode([[i] for i in range(len(tokenizer))])
    return [i for i, piece in enumerate(pieces) if any(text in piece for text in texts)]
