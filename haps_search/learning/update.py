"""One optimiser step of the router: the forward is recomputed, and gradients from afar are carried on."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from haps_search.config.learning import LearningConfig, ScheduleConfig
from haps_search.errors import CheckpointError, Diverged, StaleUpdate
from haps_search.learning.outcome_loss import outcome_loss
from haps_search.routing.router import Reading, Router
from haps_search.seeds import derive_seed
from haps_search.types import Outcomes, Question, Rollouts, Routes, Signal, Snapshot, Taught, UpdateReport


class Learner:
    """A router with its optimiser and version. It keeps no graph between calls.

    With `staleness` 1 it also keeps the weights before the last update, for signals that were routed by them.
    """

    def __init__(self, router: Router, config: LearningConfig, steps: int, staleness: int = 0) -> None:
        self.router, self._config, self._steps, self._staleness = router, config, steps, staleness
        self._before: dict[str, Tensor] = {}
        self.version = 0
        rates = {"high": config.learning_rate.high, "low": config.learning_rate.low}
        groups = [
            {"params": params, "lr": rates[level], "base_lr": rates[level]}
            for level, params in router.levels().items()
            if params
        ]
        self._optimiser = torch.optim.AdamW(groups, weight_decay=config.weight_decay) if groups else None

    def route(self, questions: Sequence[Question], episodes: int, seed: int, everyone: bool = False) -> Routes:
        """Draw `episodes` assignments per question, under the dropout that learning from them will have; 0 takes the
        likeliest, without any. `everyone`: with the adapters of every candidate."""
        noise = dropout_noise(self.version) if episodes else None
        return self.router.route(questions, episodes, seed, self.version, noise, everyone)

    def update(self, questions: Sequence[Question], signal: Signal) -> UpdateReport:
        """Take one step along d loss / d weights, where

        loss = -mean(advantage * log p(z)) - entropy_bonus * mean H(z) + <adapter, its returned gradient>

        for rollouts. Known outcomes teach the high level and the shared backbone alone:

        loss = learning.outcome_loss - entropy_bonus * mean H(z),

        and what is taught the low level and its reading: the last term of rollouts alone.

        A signal of the version before is allowed for by `staleness`: its gradient is taken at the weights that made
        it, and applied to the present ones.

        Raises:
            StaleUpdate: the signal was made with another version of the router.
            Diverged: a loss or gradient that is not finite; the weights are left as they were.
        """
        age = self._age(signal)
        metrics: dict[str, float] = {"routing_prompts_cut": float(self.router.truncated(questions))}
        if self._optimiser is not None:
            self._optimiser.zero_grad(set_to_none=True)
            with self._weights_of(age), torch.enable_grad():
                drops = not isinstance(signal, Rollouts) or self._config.route == "sampled"
                reading = self.router.read(questions, dropout_noise(signal.version) if drops else None)
                tensors, gradients = self._roots(reading, signal, metrics)
                if tensors:
                    torch.autograd.backward(tensors, gradients)
            metrics |= self._take_step(self._optimiser)
        if self._staleness:
            metrics["staleness"] = float(age)
        self.version += 1
        return UpdateReport(self.version, metrics)

    def _age(self, signal: Signal) -> int:
        age = self.version - signal.version
        if age != 0 and not (age == 1 == self._staleness and (self._before or self._optimiser is None)):
            raise StaleUpdate(f"an update for router version {signal.version} reached version {self.version}")
        return age

    @contextmanager
    def _weights_of(self, age: int) -> Iterator[None]:
        """While open, the router has the weights of that many updates ago; gradients go to the same parameters."""
        if not age:
            yield
            return
        learned = {name: p for name, p in self.router.named_parameters() if name in self._before}
        present = {name: p.data for name, p in learned.items()}
        try:
            for name, p in learned.items():
                p.data = self._before[name]
            yield
        finally:
            for name, p in learned.items():
                p.data = present[name]

    def _roots(
        self, reading: Reading, signal: Signal, metrics: dict[str, float]
    ) -> tuple[list[Tensor], list[Tensor | None]]:
        tensors: list[Tensor] = []
        gradients: list[Tensor | None] = []
        if self.router.high.learns and not isinstance(signal, Taught):
            tensors.append(self._high_level_loss(reading, signal, metrics))
            gradients.append(None)
        if isinstance(signal, Outcomes):
            return tensors, gradients
        by_name: dict[str, list[int]] = {}
        keys = {*signal.adapter_gradients, *((q, name) for q, name, _ in signal.further_gradients)}
        for q, name in sorted(keys):
            by_name.setdefault(name, []).append(q)
        for name, rows in by_name.items():
            learnt = [one for part in self.router.parts(reading, name, rows) for one in part.learnt]
            for place, (values, shares) in enumerate(learnt):
                given = [_given(signal, q, name, place) for q in rows]
                tensors.append(values)
                gradients.append((_sum(given) if shares else torch.stack(_whole(given))).to(values))
        return tensors, gradients

    def _high_level_loss(self, reading: Reading, signal: Rollouts | Outcomes, metrics: dict[str, float]) -> Tensor:
        if isinstance(signal, Outcomes):
            loss, name = self._outcome_loss(reading, signal), "outcome_loss"
        else:
            loss, name = self._architecture_loss(reading, signal), "architecture_loss"
        metrics[name] = float(loss.detach())
        return loss - self._config.entropy_bonus * reading.distribution.entropy().mean()

    def _architecture_loss(self, reading: Reading, signal: Rollouts) -> Tensor:
        log_p = reading.distribution.log_probability(signal.assignments)
        advantages = torch.tensor(signal.architecture_advantages, dtype=log_p.dtype, device=log_p.device)
        return -(advantages * log_p).mean()

    def _outcome_loss(self, reading: Reading, signal: Outcomes) -> Tensor:
        log_p = reading.distribution.log_p_all()
        rewards = torch.tensor(signal.rewards, dtype=log_p.dtype, device=log_p.device)
        return outcome_loss(self._config.outcome_loss, log_p, rewards)

    def _take_step(self, optimiser: torch.optim.Optimizer) -> dict[str, float]:
        factor = learning_rate_factor(self._config.schedule, self.version, self._steps)
        params = [p for group in optimiser.param_groups for p in group["params"]]
        clip = self._config.gradient_clip
        norm = float(torch.nn.utils.clip_grad_norm_(params, math.inf if clip is None else clip))
        if not math.isfinite(norm):
            raise Diverged(
                f"gradient norm {norm} at step {self.version}: lower learning.learning_rate or "
                "routing.lora.scaling, or set routing.low_level.max_relative_norm"
            )
        for group in optimiser.param_groups:
            group["lr"] = group["base_lr"] * factor
        if self._staleness:
            self._before = {name: p.clone() for name, p in self.router.learned().items()}
        optimiser.step()
        return {"gradient_norm": norm, "learning_rate_factor": factor}

    def snapshot(self) -> Snapshot:
        """Learned weights, optimiser moments and version: all that the next step depends on."""
        tensors = {f"router.{k}": v.cpu().clone() for k, v in self.router.learned().items()}
        for key, value in self._moments().items():
            tensors[key] = value.cpu().clone()
        return Snapshot(tensors, {"version": self.version}, self.router.fitted())

    def restore(self, snapshot: Snapshot) -> None:
        """Raises CheckpointError where the tensors are not this router's."""
        learned = self.router.learned()
        found = {k.removeprefix("router."): v for k, v in snapshot.tensors.items() if k.startswith("router.")}
        differing = sorted(set(learned) ^ set(found)) or [k for k in found if found[k].shape != learned[k].shape]
        if differing:
            raise CheckpointError(f"the checkpoint belongs to another router: {', '.join(differing[:5])} differ")
        with torch.no_grad():
            for name, parameter in learned.items():
                parameter.copy_(found[name])
        self._refit(snapshot.fitted)
        self.version, self._before = int(snapshot.state["version"]), {}
        self._load_moments(snapshot.tensors)

    def _refit(self, fitted: Mapping[str, Tensor]) -> None:
        try:
            self.router.refit(fitted)
        except ValueError as error:
            raise CheckpointError(f"the checkpoint reads other features than this router: {error}") from error

    def _moments(self) -> dict[str, Tensor]:
        if self._optimiser is None:
            return {}
        states: Mapping[int, Mapping[str, Any]] = self._optimiser.state_dict()["state"]
        return {
            f"optimiser.{index}.{key}": torch.as_tensor(value)
            for index, state in states.items()
            for key, value in state.items()
        }

    def _load_moments(self, tensors: Mapping[str, Tensor]) -> None:
        if self._optimiser is None:
            return
        states: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            if name.startswith("optimiser."):
                _, index, key = name.split(".", 2)
                states.setdefault(int(index), {})[key] = tensor.clone()
        self._optimiser.load_state_dict({**self._optimiser.state_dict(), "state": states})


def _given(signal: Rollouts | Taught, q: int, name: str, place: int) -> Tensor | None:
    if place == 0:
        return signal.adapter_gradients.get((q, name))
    return signal.further_gradients.get((q, name, place))


def _sum(given: Sequence[Tensor | None]) -> Tensor:
    return torch.stack([each for each in given if each is not None]).sum(0)


def _whole(given: Sequence[Tensor | None]) -> list[Tensor]:
    """Zeros for questions that have none."""
    like = next(each for each in given if each is not None)
    return [torch.zeros_like(like) if each is None else each for each in given]


def dropout_noise(version: int) -> torch.Generator:
    """Drives dropout: the same for a route and for what is learnt from it."""
    return torch.Generator().manual_seed(derive_seed("noise", version))


def learning_rate_factor(config: ScheduleConfig, step: int, steps: int) -> float:
    """The factor at step 0 .. steps-1: linear warm-up, then constant, linear or cosine to `final_fraction`."""
    if step < config.warmup_steps:
        return (step + 1) / (config.warmup_steps + 1)
    if config.type == "constant":
        return 1.0
    span = max(steps - 1 - config.warmup_steps, 1)
    done = min((step - config.warmup_steps) / span, 1.0)
    shape = 1.0 - done if config.type == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))
    return config.final_fraction + (1.0 - config.final_fraction) * shape
