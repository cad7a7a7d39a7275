"""What a study would run."""

from __future__ import annotations

import os
from dataclasses import dataclass

from haps_search.config.base import hooks
from haps_search.config.candidates import EndpointSource
from haps_search.config.run import Experiment
from haps_search.config.sweep import Study
from haps_search.search.stages import in_words
from haps_search.sweep.opponents import LABELS
from haps_search.sweep.progress import planned_trials
from haps_search.sweep.space import describe


@dataclass(frozen=True)
class Validated:
    """A study that can run, in words: (label, text) pairs in reading order."""

    name: str
    facts: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        lines = [f"  {label:<11} {text}".rstrip() for label, text in self.facts]
        return "\n".join([f"{self.name}: valid", *lines])


def validate(study: Study) -> Validated:
    """What the study would do, and whose code it would run; nothing is started."""
    experiment, sweep = study.experiment, study.sweep
    trials = planned_trials(study) if study.arms else sweep.trials
    facts = [
        *([("about", study.description.strip())] if study.description else []),
        ("task", experiment.task.type),
        ("candidates", ", ".join(f"{c.name} ({c.source.type})" for c in experiment.candidates)),
        *in_words(experiment),
        (
            "sweep",
            f"{trials} trials, {sweep.concurrency} at a time, {sweep.sampler.type} sampler, "
            f"scheduler {sweep.scheduler.type}, {', '.join(f'{o.mode} {o.metric}' for o in sweep.objectives)}",
        ),
    ]
    for name, arm in study.arms.items():
        listed = ", ".join(f"{path}={value}" for path, value in arm.items()) or "as the file stands"
        facts.append(("arm", f"{name}: {listed}"))
    if study.arms:
        facts.append(("seeds", f"{len(study.arms)} arms x seeds {', '.join(map(str, sweep.seeds))}"))
    facts += [("endpoint", line) for line in _endpoints(experiment)]
    facts += [("space", line) for line in describe(study.space)]
    facts += [("opponent", line) for line in _opponents(study)]
    facts += [("runs code", f"{where}: {code}") for where, code in _code(study)]
    if study.expected:
        facts.append(("expected", study.expected.strip()))
    return Validated(study.name, tuple(facts))


def _endpoints(experiment: Experiment) -> list[str]:
    """Where questions are sent, what for, and whether the key is here; a study may be sent to where it is."""
    found = []
    for candidate in experiment.candidates:
        source, price = candidate.source, candidate.price
        if not isinstance(source, EndpointSource):
            continue
        priced = price.read or price.written
        paid = f"{price.read:g} read, {price.written:g} written per million tokens" if priced else "no price"
        key = "no key"
        if source.api_key_env is not None:
            key = (
                f"key in {source.api_key_env}{'' if os.environ.get(source.api_key_env) else ', which is not set here'}"
            )
        found.append(f"{candidate.name}: {source.model} at {source.base_url}; {paid}; {key}")
    return found


def _opponents(study: Study) -> list[str]:
    """Those that learn, with how many trials, and the space they search where the study says it."""
    if study.arms or not study.sweep.comparison or study.experiment.task.type == "replay":
        return []
    matched = "core-seconds of the search" if study.sweep.opponents.match == "core_seconds" else None
    found = []
    for name, opponent in study.sweep.opponents.learning.items():
        much = matched if matched and opponent.trials is None else f"{opponent.trials or study.sweep.trials} trials"
        space = "; ".join(describe(opponent.space)) if opponent.space is not None else "its learning rates"
        found.append(f"{LABELS[name]}: {much}, {space}")
    return found


def _code(study: Study) -> list[tuple[str, str]]:
    """The user's Python that a study names, where it stands; that of arms and choices too."""
    found = list(hooks(study.experiment.model_dump(mode="json"), "experiment"))
    for name, arm in study.arms.items():
        for path, value in arm.items():
            found += [(f"arms.{name}: {where}", code) for where, code in hooks(value, path)]
    for path, distribution in study.space.items():
        found += [(f"space: {where}", code) for where, code in hooks(getattr(distribution, "values", ()), path)]
    return list(dict.fromkeys(found))
