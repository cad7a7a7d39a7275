"""haps serve RUN: the router and its candidates behind an OpenAI-compatible address."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from haps_search.cli.options import Fallback, MinConfidence, RunPath, Runs
from haps_search.errors import ConfigError

if TYPE_CHECKING:
    from haps_search.cli.display import Terminal
    from haps_search.config.run import Experiment


def serve(
    run: RunPath,
    host: Annotated[str, typer.Option(help="Where to listen; elsewhere than on loopback HAPS_API_KEY is demanded.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any.")] = 8000,
    profile: Annotated[
        str, typer.Option(help="A cluster profile, in clusters/profiles/ or a path: who gets what, and how many.")
    ] = "local-cpu",
    here: Annotated[bool, typer.Option("--here", help="Without Ray: everything in this process, on one core.")] = False,
    plan: Annotated[bool, typer.Option("--plan", help="Say who would sit where, and start nothing.")] = False,
    min_confidence: MinConfidence = None,
    fallback: Fallback = None,
    cost_weight: Annotated[
        float | None, typer.Option(min=0.0, help="What cost weighs where a request does not say it.")
    ] = None,
    candidates: Annotated[
        Path | None, typer.Option(help="YAML with `candidates` of the same names, to answer for models of a table.")
    ] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Tokens that a request may have written.")] = 1024,
    max_prompt: Annotated[int, typer.Option(min=1, help="Characters of a request's messages.")] = 100_000,
    timeout: Annotated[float, typer.Option(min=0.0, help="Seconds until an answer has to be whole.")] = 120.0,
    open_requests: Annotated[int, typer.Option(min=1, help="At a time; beyond them it is 429.")] = 256,
    grace: Annotated[float, typer.Option(min=0.0, help="Seconds for the last answers when it is ended.")] = 60.0,
    runs: Runs = Path("runs"),
) -> None:
    """Serve a run to clients of OpenAI's protocol, and a page for people. Ctrl-C answers what is open, and ends it."""
    from haps_search.cli.display import Terminal
    from haps_search.serving import server
    from haps_search.serving.limits import Limits

    served = server.served_run(
        run, runs, candidates=candidates, min_confidence=min_confidence, fallback=fallback, cost_weight=cost_weight
    )
    limits = Limits(prompt_characters=max_prompt, new_tokens=max_tokens, seconds=timeout, open_requests=open_requests)
    with Terminal() as terminal:
        if plan:
            _show_plan(terminal, served.answering, None if here else profile)
            return
        where = server.Listening(host, port, limits, grace)
        server.serve(served, profile=None if here else profile, listening=where, report=terminal)


def _show_plan(terminal: Terminal, experiment: Experiment, profile: str | None) -> None:
    """Raises ConfigError where it cannot run, with the numbers."""
    from haps_search.cli.plan_table import plan_table
    from haps_search.config.load import load_profile
    from haps_search.verbs.plan_serving import here, plan_serving

    if profile is None:
        terminal.say(here(experiment))
        return
    described = load_profile(profile)
    found = plan_serving(experiment, described)
    terminal.show(plan_table(found))
    for line in found.remarks:
        terminal.say(line)
    for name, most in described.serving.most_replicas.items():
        least, target = described.workers_of(name), described.serving.target_requests
        terminal.say(f"{name}: {least} to {most} replicas, another one above {target:g} requests each")
    if found.problems:
        raise ConfigError(found.problems, f"does not fit profile {described.name}")
