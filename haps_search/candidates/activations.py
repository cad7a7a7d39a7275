"""What was computed below the first patched layer while a completion was sampled, kept until it is scored.

No adapter reaches what is kept, so it belongs to prompt and tokens alone, whoever drew them. Gone or never there, it
is computed again from the token ids (`prefill.recomputed`): slower, the same numbers.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from haps_search.candidates.row_attention import packed_now

Ids = tuple[int, ...]
_PLAIN = (DynamicLayer, DynamicSlidingWindowLayer)


@dataclass(frozen=True, slots=True)
class Activations:
    """Of one completion of T tokens: the states that enter layer `first` at the S positions of its `prompt` (S, H),
    and at its own but the last, which predicts nothing: `text` (T - 1, H).

    With `past`, `first` is the last layer: its keys and values (heads, S - 1, d) stand in for all positions of the
    prompt but the last, so `prompt` is (1, H). They serve adapters that patch nothing which feeds them. With `attended`
    (T, d), what enters the output projection of the last layer's attention at the positions that predict the tokens,
    `prompt` is (1, H) as well: they serve adapters that patch nothing before it there.
    """

    first: int
    prompt: Tensor
    text: Tensor
    past: tuple[Tensor, Tensor] | None = None
    attended: Tensor | None = None

    @property
    def prompt_tokens(self) -> int:
        return len(self.prompt) + (0 if self.past is None else self.past[0].shape[-2])

    @property
    def tensors(self) -> dict[str, Tensor]:
        """All of it by name; `Activations.of` makes it whole again."""
        keys, values = self.past if self.past is not None else (None, None)
        held = {"prompt": self.prompt, "text": self.text, "keys": keys, "values": values, "attended": self.attended}
        return {name: tensor for name, tensor in held.items() if tensor is not None}

    @classmethod
    def of(cls, first: int, tensors: Mapping[str, Tensor]) -> Activations:
        past = (tensors["keys"], tensors["values"]) if "keys" in tensors else None
        return cls(first, tensors["prompt"], tensors["text"], past, tensors.get("attended"))

    def to(self, device: torch.device) -> Activations:
        return Activations.of(self.first, {name: tensor.to(device) for name, tensor in self.tensors.items()})


@dataclass(frozen=True, slots=True)
class _Reading:
    """States (u, S, H) of the distinct prompts that were read together, and the last layer's keys and values
    (u, heads, S, d) where these may stand in for them."""

    states: Tensor
    past: tuple[Tensor, Tensor] | None = None

    def of(self, owner: int, tail: bool, length: int) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        """Of one prompt of so many tokens."""
        if not tail or self.past is None:
            return self.states[owner, -length:].clone(), None
        keys, values = (t[owner, :, t.shape[-2] - length : -1].clone() for t in self.past)
        return self.states[owner, -1:].clone(), (keys, values)


@dataclass
class Kept:
    """What texts leave behind while they are sampled: the states that enter layer `first`, of prompts that are read
    (`reads`, `add`, `prefilled`) and of tokens that are fed (`writes`, `add`), in any order of rows.

    `last` are the states that were added last, as they came: of all rows of the pass, whether named or not.
    """

    first: int
    steps: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    last: Tensor = field(default_factory=lambda: torch.empty(0))
    _readings: list[_Reading] = field(default_factory=list)
    _places: dict[int, tuple[int, int]] = field(default_factory=dict)
    _reading: Sequence[int] = ()
    _rows: Tensor | None = None

    @property
    def prompt(self) -> Tensor | None:
        """States (u, S, H) of the prompts that were read first."""
        return self._readings[0].states if self._readings else None

    def reads(self, rows: Sequence[int]) -> None:
        """What is added next are the prompts of these rows."""
        self._reading, self._rows = rows, None

    def writes(self, rows: Tensor) -> None:
        """What is added from now on are states (m, t, H) of tokens of these rows, and of whatever fills a batch up."""
        self._rows = rows

    def add(self, states: Tensor) -> None:
        self.last = states
        if self._rows is None:
            self._readings.append(_Reading(states))
        else:
            self.steps.append((self._rows, states[: len(self._rows)]))

    def prefilled(self, owners: Sequence[int], cache: Any) -> None:
        """The prompts are read: `owners` says which of them is each row's; `cache` has what all layers made of them,
        None where not all have read them."""
        self._places |= {
            row: (len(self._readings) - 1, owner) for row, owner in zip(self._reading, owners, strict=True)
        }
        if cache is not None and self.first == len(cache.layers) - 1 and all(map(plain, cache.layers)):
            last = cache.layers[-1]
            if within_window(last, last.get_seq_length()):
                self._readings[-1] = _Reading(self._readings[-1].states, (last.keys, last.values))

    def activations(
        self, rows: Sequence[int], prompts: Sequence[Ids], completions: Sequence[Ids], tails: Sequence[bool]
    ) -> list[Activations]:
        """Of these rows, of which prompt and completion are given; `tails` says for whom the last layer's keys and
        values can stand in."""
        texts = self._texts()
        parts: dict[tuple[int, int, bool], tuple[Tensor, tuple[Tensor, Tensor] | None]] = {}
        found = []
        for row, prompt, completion, tail in zip(rows, prompts, completions, tails, strict=True):
            reading, owner = self._places[row]
            key = reading, owner, tail
            if key not in parts:
                parts[key] = self._readings[reading].of(owner, tail, len(prompt))
            states, past = parts[key]
            said = texts[row][: len(completion) - 1].clone() if row in texts else states[:0].clone()
            found.append(Activations(self.first, states, said, past))
        return found

    def _texts(self) -> dict[int, Tensor]:
        """By row (t, H), one token after the other."""
        if not self.steps:
            return {}
        owners = torch.cat([rows.repeat_interleave(states.shape[1]) for rows, states in self.steps])
        order = owners.argsort(stable=True)
        states = torch.cat([states.flatten(0, 1) for _, states in self.steps])[order]
        rows, counts = owners[order].unique_consecutive(return_counts=True)
        return dict(zip(rows.tolist(), states.split(counts.tolist()), strict=True))


def plain(layer: Any) -> bool:
    """Whether a layer of a cache holds keys and values and nothing else."""
    return type(layer) in _PLAIN


def within_window(layer: Any, tokens: int) -> bool:
    """Whether none of so many tokens has been dropped: a sliding window that has moved on cannot be rolled back."""
    window = getattr(layer, "sliding_window", None)
    return window is None or tokens < window


@contextmanager
def keeping(layers: nn.ModuleList, kept: Kept) -> Iterator[None]:
    """While open, what enters layer `kept.first` is added to `kept`."""

    def keep(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        states = args[0] if args else kwargs["hidden_states"]
        packing = packed_now()
        kept.add(states if packing is None else packing.padded(states))

    with layers[kept.first].register_forward_pre_hook(keep, with_kwargs=True):
        yield


@dataclass(frozen=True, slots=True)
class _Held:
    """A prompt's own part, and the texts of its completions."""

    prompt: Tensor
    past: tuple[Tensor, Tensor] | None
    texts: dict[Ids, Tensor] = field(default_factory=dict)

    @property
    def size(self) -> int:
        return _bytes(self.prompt, *(self.past or ()), *self.texts.values())


class ActivationCache:
    """Activations up to `budget` bytes, 0 for none. Completions of a prompt share its part and leave together, the
    prompt first that was not used for longest."""

    def __init__(self, budget: int) -> None:
        self.budget, self.size = budget, 0
        self._prompts: OrderedDict[Ids, dict[tuple[int, bool], _Held]] = OrderedDict()

    def put(self, prompt: Ids, tokens: Ids, kept: Activations) -> None:
        variants = self._prompts.setdefault(prompt, {})
        self._prompts.move_to_end(prompt)
        key = kept.first, kept.past is not None
        if key not in variants:
            variants[key] = _Held(kept.prompt, kept.past)
            self.size += variants[key].size
        if tokens not in variants[key].texts:
            variants[key].texts[tokens] = kept.text
            self.size += _bytes(kept.text)
        while self.size > self.budget:
            _, gone = self._prompts.popitem(last=False)
            self.size -= sum(held.size for held in gone.values())

    def get(self, prompt: Ids, tokens: Ids, first: int, tail: bool) -> Activations | None:
        """For adapters that patch nothing below layer `first`, and where `tail` nothing that feeds keys and values."""
        for (entered, has_past), held in self._prompts.get(prompt, {}).items():
            if tokens in held.texts and entered <= first and (tail or not has_past):
                self._prompts.move_to_end(prompt)
                return Activations(entered, held.prompt, held.texts[tokens], held.past)
        return None

    def drop(self, prompt: Ids, tokens: Ids) -> None:
        """Forget a completion: it was scored."""
        variants = self._prompts.get(prompt, {})
        for key, held in list(variants.items()):
            text = held.texts.pop(tokens, None)
            self.size -= 0 if text is None else _bytes(text)
            if not held.texts:
                self.size -= variants.pop(key).size
        if not variants:
            self._prompts.pop(prompt, None)

    def clear(self) -> None:
        self._prompts.clear()
        self.size = 0


def _bytes(*tensors: Tensor) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)
