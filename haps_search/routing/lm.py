"""An instruct LM as the backbone: one reading of the prompt gives pooled states and a score per choice."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from haps_search.candidates.exact import exact
from haps_search.candidates.prompts import pad_left, positions
from haps_search.candidates.sources import LoadedLM, load_lm
from haps_search.config.routing import BackboneConfig, FrozenTuning, LmHighLevel
from haps_search.routing.backbone import Backbone, pooled, spans, tuned
from haps_search.routing.choices import Spoken, by_id, choices, continuations
from haps_search.routing.framing import Framed, Framing, asking, end_token

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True)
class _Prompts:
    """Prompts that were read: mask (n, S), log-probabilities of the next token (n, V), the cache."""

    mask: Tensor
    next_log_p: Tensor
    cache: Any


class LmBackbone(nn.Module):
    """Texts to pooled states (n, H), as `Backbone`, and to scores (n, C) of C choices.

    score(c) = sum over tokens t of choice c of log p(t | prompt, tokens before t).
    """

    def __init__(
        self,
        model: PreTrainedModel,
        framing: Framing,
        spoken: Spoken,
        learns: bool,
        batch_rows: int,
    ) -> None:
        """`framing` ends with the lead of `spoken`."""
        super().__init__()
        # Dropout stays off: the update's forward must be the route's (design section 3a).
        self.model = model.eval()
        self.width = int(self.model.config.get_text_config().hidden_size)
        self.learns, self.joint = learns, spoken.joint
        self._framing, self._batch_rows = framing, batch_rows
        longest = max(map(len, spoken.ids))
        padded = [[*row, *[framing.pad_id] * (longest - len(row))] for row in spoken.ids]
        self.register_buffer("_tokens", torch.tensor(padded, device=self.device), persistent=False)
        lengths = torch.tensor([len(row) for row in spoken.ids], device=self.device)
        self.register_buffer("_there", torch.arange(longest, device=self.device) < lengths[:, None], persistent=False)

    @classmethod
    def load(
        cls,
        config: BackboneConfig,
        high: LmHighLevel,
        roles: Sequence[str],
        names: Sequence[str],
        stem: str | None = None,
    ) -> Self:
        """The low level reads of a prompt what follows `stem`; None for all of it, template and instruction too.

        Raises CandidateError for a model that does not load, ConfigError for one that cannot say the choices.
        """
        loaded = load_lm("router backbone", config.source, config.dtype, config.device, config.trust_remote_code)
        spoken = _spoken(loaded, high, roles, names)
        readable = getattr(loaded.model.config.get_text_config(), "max_position_embeddings", None)
        room = config.max_tokens if readable is None else min(config.max_tokens, readable - max(map(len, spoken.ids)))
        framing = asking(loaded.tokenizer, spoken.instruction, room, spoken.lead, stem)
        tuned(loaded.model, config)
        return cls(loaded.model, framing, spoken, not isinstance(config.tuning, FrozenTuning), high.batch_rows)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def head_dtype(self) -> torch.dtype:
        """What scores and heads compute in: float32, or float64 where the backbone does."""
        return torch.promote_types(torch.float32, next(self.model.parameters()).dtype)

    def truncated(self, texts: Sequence[str]) -> int:
        """How many texts are cut so that template, instruction and answer fit beside them."""
        return self._framing.truncated(texts)

    def forward(self, texts: Sequence[str]) -> Tensor:
        """Pooled states (n, H) alone: nothing is scored."""
        with self._gradient():
            return torch.cat([self._read(rows)[0] for rows in self._blocks(texts)])

    def read(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Pooled states (n, H) for the low level, scores (n, C) for the high level, from one reading."""
        states, scores = [], []
        with self._gradient():
            for rows in self._blocks(texts):
                state, prompts = self._read(rows)
                states.append(state)
                scores.append(self._scores(prompts))
        return torch.cat(states), torch.cat(scores)

    def apart(self) -> Backbone:
        """A copy of the layers below the head, with weights of its own, equal at this moment."""
        return Backbone(copy.deepcopy(self.model.base_model), self._framing, self.width, self.learns)

    def _gradient(self) -> torch.set_grad_enabled:
        return torch.set_grad_enabled(torch.is_grad_enabled() and self.learns)

    def _blocks(self, texts: Sequence[str]) -> list[list[Framed]]:
        rows = self._framing.framed(texts)
        return [rows[at : at + self._batch_rows] for at in range(0, len(rows), self._batch_rows)]

    def _read(self, framed: Sequence[Framed]) -> tuple[Tensor, _Prompts]:
        # Left padding: choices then follow their prompt at once, which sliding windows count on.
        ids, mask = pad_left([each.ids for each in framed], self._framing.pad_id, self.device)
        kept: list[Tensor] = []

        def keep(module: nn.Module, args: Any, output: Any) -> None:
            kept.append(output.last_hidden_state)

        with exact(self.head_dtype), self.model.base_model.register_forward_hook(keep):
            out = self.model(
                input_ids=ids, attention_mask=mask, position_ids=positions(mask), use_cache=True, logits_to_keep=1
            )
        next_log_p = torch.log_softmax(out.logits[:, -1].to(self.head_dtype), -1)
        state = pooled(kept[0], spans(framed, kept[0], left=True), self.head_dtype)
        return state, _Prompts(mask, next_log_p, out.past_key_values)

    def _scores(self, prompts: _Prompts) -> Tensor:
        """(n, C): every prompt with every choice, `batch_rows` pairs at a time; of one token each, all at once."""
        tokens = self.get_buffer("_tokens")
        n, count = len(prompts.mask), len(tokens)
        if tokens.shape[1] == 1:
            return prompts.next_log_p[:, tokens[:, 0]]
        pairs = torch.cartesian_prod(
            torch.arange(n, device=self.device), torch.arange(count, device=self.device)
        ).split(self._batch_rows)  # fmt: skip
        if torch.is_grad_enabled():
            # What a chunk keeps for its gradient is its logits' size; recomputing a few tokens is cheap beside it.
            found = [
                checkpoint(self._continued, prompts, pair, use_reentrant=False, preserve_rng_state=False)
                for pair in pairs
            ]
        else:
            found = [self._continued(prompts, pair) for pair in pairs]
        return torch.cat(found).view(n, count)

    def _continued(self, prompts: _Prompts, pairs: Tensor) -> Tensor:
        """(m,) scores of the pairs (m, 2) of prompt and choice."""
        which, choice = pairs.unbind(1)
        tokens, there = self.get_buffer("_tokens")[choice], self.get_buffer("_there")[choice]
        mask = torch.cat([prompts.mask[which], there[:, :-1]], 1)
        with exact(self.head_dtype):
            out = self.model(
                input_ids=tokens[:, :-1],
                attention_mask=mask,
                position_ids=positions(mask)[:, prompts.mask.shape[1] :],
                past_key_values=_rows_of(prompts.cache, which),
                use_cache=True,
            )
        log_p = torch.log_softmax(out.logits.to(self.head_dtype), -1).gather(-1, tokens[:, 1:, None]).squeeze(-1)
        return prompts.next_log_p[which, tokens[:, 0]] + torch.where(there[:, 1:], log_p, 0.0).sum(1)


def _spoken(loaded: LoadedLM, high: LmHighLevel, roles: Sequence[str], names: Sequence[str]) -> Spoken:
    if high.ids == "single_token":
        return by_id(loaded.tokenizer, roles, names, high.max_joint)
    asked = choices(roles, names, high.max_joint)
    end = end_token(loaded.tokenizer, loaded.stop_ids)
    return Spoken((), continuations(loaded.tokenizer, asked.texts, end), asked.instruction, asked.joint)


def _rows_of(cache: Any, rows: Tensor) -> Any:
    """A cache of these rows that grows apart from the one it is taken from."""
    chosen = copy.copy(cache)
    chosen.layers = [copy.copy(layer) for layer in cache.layers]
    chosen.batch_select_indices(rows)
    return chosen
