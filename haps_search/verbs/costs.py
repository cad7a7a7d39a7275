"""What each row of the final table that learnt has cost: its search, and a step of its best trial."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

from haps_search.candidates.chat import render, text_ids
from haps_search.candidates.sources import tokenizer_of
from haps_search.config.candidates import EndpointSource, TableSource
from haps_search.config.engines import RayEngineConfig
from haps_search.config.load import load_profile
from haps_search.config.routing import BackboneConfig, FixedHighLevel
from haps_search.config.run import Experiment
from haps_search.config.sweep import Study
from haps_search.errors import CandidateError, ConfigError, DataError
from haps_search.evaluation.comparison import Cost
from haps_search.evaluation.flops import Flops, Shape, Tokens, reference_flops, step_flops
from haps_search.learning.lessons import Lessons
from haps_search.learning.references import messages_of
from haps_search.records.run_folder import RunFolder
from haps_search.routing.prompt import RoutingPrompt
from haps_search.search.stages import Stage, stages_of
from haps_search.sweep.events import TrialRecord
from haps_search.sweep.layout import trial_folder
from haps_search.sweep.opponents import Search, spent
from haps_search.sweep.settings import experiment_of
from haps_search.tasks.build import build_task
from haps_search.tasks.held_out import learnt
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
    """Of a mean step of all stages; None where nothing was sampled or taught, or a shape cannot be had."""
    if experiment.task.type == "replay":
        return None
    total, stages = Flops(0.0, 0.0), stages_of(experiment)
    try:
        shapes = {c.name: Shape.of(c) for c in experiment.candidates}
        for stage in stages:
            found = _of_stage(stage, shapes, trial)
            if found is None:
                return None
            share = stage.experiment.run.steps / experiment.total_steps
            total += Flops(found.forward * share, found.backward * share)
    except (CandidateError, DataError):  # a model or a table of completions that is not on this machine
        return None
    return total


def _of_stage(stage: Stage, shapes: Mapping[str, Shape], trial: TrialRecord) -> Flops | None:
    """At the mean lengths that its steps had, or that its lessons have."""
    experiment, run = stage.experiment, stage.experiment.run
    routing = run.questions_per_step * _routing_tokens(experiment)
    if experiment.learning.signal == "references":
        taught = _taught_tokens(experiment, routing)
        return reference_flops(experiment, shapes, taught) if taught else None
    own = [m for _, m in trial.reports if m.get("stage", 0) == stage.number]
    reported = [m for m in own if "prompt_tokens" in m and "completion_tokens" in m]
    if not reported:
        return None
    tokens = Tokens(
        fmean(m["prompt_tokens"] for m in reported),
        fmean(m["completion_tokens"] for m in reported),
        routing,
        run.questions_per_step * run.episodes_per_question * len(build_task(experiment.task).roles),
    )
    return step_flops(experiment, shapes, tokens)


def _taught_tokens(experiment: Experiment, routing: float) -> dict[str, Tokens]:
    """Per candidate that is taught anything, what the lessons of a step have on average."""
    task, config = build_task(experiment.task), experiment.learning.references
    asked = learnt(task, experiment)[:PROMPTS]
    lessons = Lessons(config)
    found: dict[str, Tokens] = {}
    for candidate in experiment.candidates:
        high = experiment.routing.high_level
        if config.of == "routed" and isinstance(high, FixedHighLevel) and candidate.name not in high.assignment:
            continue
        assert not isinstance(candidate.source, TableSource | EndpointSource), "they learn nothing"
        tokenizer = tokenizer_of(candidate.name, candidate.source, candidate.trust_remote_code)
        prompts: list[int] = []
        texts: list[int] = []
        for question in asked:
            prompt = render(tokenizer, candidate.chat, messages_of(task, question), candidate.name)
            said = [text for text, _ in lessons.of(question, candidate.name)]
            prompts += [len(prompt)] * len(said)
            texts += [len(text_ids(tokenizer, candidate.chat, prompt, text, ())) for text in said]
        share = experiment.run.questions_per_step / len(asked)
        if texts:
            found[candidate.name] = Tokens(sum(prompts) * share, sum(texts) * share, routing, len(texts) * share)
    return found


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
