"""A study for every shipped profile, over models of which only config.json is there, and its plan as text.

`python tests/plans.py` writes the texts in tests/assets/plans again; read the difference before you keep it.
"""

from __future__ import annotations

from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any

from rich.console import Console

from haps_search.cli.display import Terminal
from haps_search.cli.plan_table import show_plan
from haps_search.config.engines import ClusterProfile
from haps_search.config.load import load_profile, parse_nodes, parse_study
from haps_search.config.run import Experiment
from haps_search.config.sweep import Study
from haps_search.engines.placement.needs import Needs
from haps_search.engines.placement.placement import Plan, needs_of, plan
from haps_search.verbs.plan import Planned

ASSETS = Path(__file__).resolve().parent / "assets"
PROMPT_TOKENS = 1024
STUDIES: dict[str, dict[str, Any]] = {
    "local-cpu": {"pool": {"a": "smollm2-135m", "b": "smollm2-135m"}, "trials": 2},
    "gpu-per-candidate": {
        "pool": {"llama": "llama-3.1-8b", "qwen": "qwen2.5-7b"},
        "trials": 4,
        "nodes": ["count=3,cpus=16,gpus=1,gpu_memory_gb=24,memory_gb=64"],
    },
    "three-gpus": {"pool": {"llama": "llama-3.1-8b", "qwen": "qwen2.5-7b"}, "backbone": "llama-3.2-1b", "trials": 1},
    "one-node-4-gpus": {
        "pool": {"llama": "llama-3.1-8b", "qwen": "qwen2.5-7b", "small": "llama-3.2-1b"},
        "backbone": "llama-3.2-1b",
        "trials": 4,
    },
    "two-nodes-8-gpus": {
        "pool": {"llama": "llama-3.1-8b", "qwen": "qwen2.5-7b"},
        "backbone": "llama-3.2-1b",
        "trials": 3,
        "profile": {"replicas": {"llama": 3, "qwen": 2}},
    },
    "70b-several-gpus": {
        "pool": {"llama-70b": "llama-3.3-70b", "llama-8b": "llama-3.1-8b"},
        "balanced": ["llama-70b"],
        "backbone": "llama-3.2-1b",
        "trials": 2,
        # Plain LoRA, all of whose numbers travel: what a large candidate's adapters weigh.
        "routing": {
            "low_level": {"type": "static"},
            "lora": {"rank": 16, "targets": ["q_proj", "k_proj", "v_proj", "o_proj"], "layers": "all"},
        },
        "profile": {"candidates": {"llama-8b": {"cpus": 4, "gpus": 1, "threads": 4}}},
    },
    "thousand-workers": {
        "pool": {f"small-{i}": "llama-3.2-1b" if i % 2 else "smollm2-135m" for i in range(10)},
        "trials": 100,
        "profile": {"replicas": {f"small-{i}": 100 for i in range(10)}},
        "routing": {"lora": {"rank": 8, "targets": ["o_proj"]}},
    },
    "fractional-gpus": {"pool": {f"small-{i}": "smollm2-135m" for i in range(1, 7)}, "trials": 2},
    "cpu-router": {"pool": {"llama": "llama-3.1-8b", "qwen": "qwen2.5-7b"}, "trials": 4, "router_device": "cpu"},
}


def source(shape: str) -> dict[str, str]:
    return {"type": "path", "path": str(ASSETS / "shapes" / shape)}


def a_study(name: str, **changes: Any) -> Study:
    """The study of `STUDIES` for a profile, or one like it."""
    wanted = STUDIES[name] | changes
    candidates = [
        {
            "name": each, "source": source(shape), "dtype": "bfloat16", "batch_rows": 16,
            "device": "balanced" if each in wanted.get("balanced", ()) else "auto",
        }
        for each, shape in wanted["pool"].items()
    ]  # fmt: skip
    backbone = {
        "source": source(wanted.get("backbone", "smollm2-135m")),
        "device": wanted.get("router_device", "auto"),
        "tuning": wanted.get("tuning", {"type": "full"}),
    }
    run = {"questions_per_step": 8, "sampling": {"max_new_tokens": 128}}
    described = {
        "name": "planned",
        "experiment": {
            "task": {"type": "skills"},
            "candidates": candidates,
            "routing": {"backbone": backbone, **wanted.get("routing", {})},
            "run": run,
        },
        "sweep": {"concurrency": wanted["trials"]},
    }
    return parse_study(described)


def a_profile(name: str, **changes: Any) -> ClusterProfile:
    """A shipped profile with what its study changes."""
    wanted = STUDIES[name].get("profile", {}) | changes
    if nodes := STUDIES[name].get("nodes"):
        wanted = {"nodes": parse_nodes(nodes), **wanted}
    return ClusterProfile.model_validate(load_profile(name).model_dump() | wanted)


def made(study: Study, profile: ClusterProfile) -> Plan:
    return plan(study.experiment, study.sweep.concurrency, profile, _needs(study.experiment.model_dump_json()))


@cache
def _needs(experiment: str) -> Needs:
    return needs_of(Experiment.model_validate_json(experiment), PROMPT_TOKENS)


def rendered(study: Study, profile: ClusterProfile) -> str:
    out = StringIO()
    console = Console(file=out, width=200, color_system=None)
    show_plan(Terminal(console), Planned(study, profile, made(study, profile), PROMPT_TOKENS))
    return "".join(line.rstrip() + "\n" for line in out.getvalue().splitlines())


if __name__ == "__main__":
    for profile_name in STUDIES:
        text = rendered(a_study(profile_name), a_profile(profile_name))
        (ASSETS / "plans" / f"{profile_name}.txt").write_text(text)
