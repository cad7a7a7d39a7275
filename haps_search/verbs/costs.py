"""What each row of the final table that learnt has cost: its search, and a step of its best trial."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from haps_search.candidates.sources import tokenizer_of
from haps_search.config.engines import RayEngineConfig
from haps_search.config.load import load_profile
from haps_search.config.routing import BackboneConfig
from haps_search.config.run import Experiment
from haps_search.config.sweep import Study
from haps_search.errors import CandidateError, ConfigError
from haps_search.evaluation.comparison import Cost
from haps_search.evaluation.flops import Flops, Shape, Tokens, step_flops
from haps_search.records.run_folder import RunFolder
from haps_search.routing.prompt import RoutingPrompt
from haps_search.sweep.events import TrialRecord
from haps_search.sweep.layout import trial_folder
from haps_search.sweep.opponents import Search, spent
from haps_search.sweep.settings import experiment_of
from haps_search.tasks.build import build_task
from haps_search.types import CandidateCard

PROMPTS = 64
"""So many routing prompts say how long they are."""


def row_cost(folder: Path, study: Study, search: Search, chosen: TrialRecord, trials: Sequence[TrialRecord]) -> Cost:
    """Of the search and the trial it found, whose checkpoint is there.

    A core-second is a second of a run times the cores it had: the profile's over `sweep.concurrency`. Runs share the
    candidates, so what one waits for another is in it.
    """
    experiment, own = experiment_of(study, chosen), search.own(trials)
    seconds, cores = spent(own), _cores(study)
    flops = _flops(experiment, chosen)
    steps = [metrics["step_seconds"] for _, metrics in chosen.reports if "step_seconds" in metrics]
    return Cost(
        search.begun(trials),
        seconds * cores / study.sweep.concurrency if seconds and cores else None,
        _parameters(folder, experiment, chosen),
        None if flops is None else flops.forward,
        None if flops is None else flops.backward,
        fmean(steps) if steps else None,
    )


def _cores(study: Study) -> float:
    """Of all machines that the profile declares; 0 where it declares none."""
    engine = study.experiment.engine
    if not isinstance(engine, RayEngineConfig):
        return 0.0
    try:
        return float(sum(kind.count * kind.cpus for kind in load_profile(engine.profile).machines()))
    except ConfigError:  # a file that is not on this machine
        return 0.0


def _parameters(folder: Path, experiment: Experiment, trial: TrialRecord) -> int | None:
    """Those that learn, of router and adapters."""
    best = RunFolder(trial_folder(folder, trial.number), experiment).best()
    if best is None:
        return None
    return sum(tensor.numel() for name, tensor in best.snapshot.tensors.items() if name.startswith("router."))


def _flops(experiment: Experiment, trial: TrialRecord) -> Flops | None:
    """At the mean lengths that its steps had; None where nothing was sampled, or a shape cannot be had."""
    reported = [m for _, m in trial.reports if "prompt_tokens" in m and "completion_tokens" in m]
    if not reported or experiment.task.type == "replay":
        return None
    task, run = build_task(experiment.task), experiment.run
    count = run.questions_per_step * run.episodes_per_question * len(task.roles)
    try:
        tokens = Tokens(
            fmean(m["prompt_tokens"] for m in reported),
            fmean(m["completion_tokens"] for m in reported),
            run.questions_per_step * _routing_tokens(experiment),
            count,
        )
        return step_flops(experiment, {c.name: Shape.of(c) for c in experiment.candidates}, tokens)
    except CandidateError:
        return None


def _routing_tokens(experiment: Experiment) -> float:
    """Mean length of a routing prompt, 0 where no LM reads it."""
    backbone, task = experiment.routing.backbone, build_task(experiment.task)
    if not isinstance(backbone, BackboneConfig):
        return 0.0
    cards = tuple(CandidateCard(c.name, c.description) for c in experiment.candidates)
    prompt = RoutingPrompt(experiment.routing.prompt, task.description, task.roles, cards)
    texts = prompt.render(task.questions("train")[:PROMPTS])
    tokenizer = tokenizer_of("router backbone", backbone.source, backbone.trust_remote_code)
    return fmean(min(len(ids), backbone.max_tokens) for ids in tokenizer(texts)["input_ids"])
