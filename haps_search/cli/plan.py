"""haps plan FILE: who would sit where on a cluster, and whether it fits."""

from __future__ import annotations

from typing import Annotated

import typer

from haps_search.cli.options import File, Set


def plan(
    file: File,
    profile: Annotated[
        str | None, typer.Option(help="A name in clusters/profiles/ or a path; default: the file's.")
    ] = None,
    nodes: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SPEC",
            help="Machines instead of the profile's, the head's first; once per kind: "
            "count=2,cpus=64,gpus=8, gpu_memory_gb=80, memory_gb=512",
        ),
    ] = None,
    prompt_tokens: Annotated[int, typer.Option(min=1, help="Length of a prompt to count caches with.")] = 1024,
    set_: Set = None,
) -> None:
    """Print every process with its node, GPU and memory; nothing is started and no weights are read."""
    from haps_search.config.load import load_study

    study = load_study(file, set_ or ())

    from haps_search.cli.display import Terminal
    from haps_search.cli.plan_table import show_plan
    from haps_search.verbs import plan as verb

    with Terminal() as terminal:
        show_plan(terminal, verb.plan(study, profile, nodes or (), prompt_tokens))
