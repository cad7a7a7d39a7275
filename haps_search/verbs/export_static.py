"""What a run's questions share, for servers that know nothing of it: static adapters and banks as PEFT folders for
`vllm serve`, or weights with the adapter merged in."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from haps_search.config.candidates import CandidateConfig, EndpointSource, TableSource
from haps_search.config.run import Experiment
from haps_search.errors import ConfigError
from haps_search.records.jsonl import read_records
from haps_search.records.sealed import replace_text
from haps_search.types import Adapter, Question
from haps_search.version import __version__

if TYPE_CHECKING:
    from haps_search.engines.local import LoadedRun

Form = Literal["peft", "merged", "vllm"]
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""Values of `vllm serve --max-lora-rank`."""
TABLE = "adapters.json"


class Run(Protocol):
    """What is taken of `loaded_run.Run`."""

    @property
    def name(self) -> str: ...
    @property
    def folder(self) -> Path: ...
    @property
    def experiment(self) -> Experiment: ...
    @property
    def loaded(self) -> LoadedRun: ...


@dataclass(frozen=True)
class Shared:
    """An adapter that no question decides: a candidate's static one, or one of its bank."""

    candidate: CandidateConfig
    name: str
    adapter: Adapter


@dataclass(frozen=True)
class ExportedStatic:
    """The folder, what lies in it, and the commands that serve it, a line per candidate; none but for `vllm`."""

    folder: Path
    folders: tuple[Path, ...]
    commands: tuple[str, ...] = ()


def export_static(run: Run, out: str | Path, form: Form = "peft") -> ExportedStatic:
    """Write OUT/NAME/ per adapter (`peft`, `vllm`; the latter with OUT/adapters.json and the command), or per candidate
    its whole weights with the static adapter merged in (`merged`). Each has a model card.

    Raises:
        ConfigError: a run whose adapters are generated from nothing, or that has none; a bank to be merged; a rank
            beyond what vLLM takes. Nothing is written then.
    """
    folder, found = Path(out), list(shared_adapters(run))
    if form == "merged" and len({each.candidate.name for each in found}) < len(found):
        raise ConfigError("--as merged: a bank is several adapters of one LLM; use peft or vllm")
    rank = max(each.adapter.layout.rank for each in found)
    if form == "vllm" and rank > RANKS[-1]:
        raise ConfigError(f"--as vllm: rank {rank}, and vLLM takes {RANKS[-1]} at most; use merged")
    folders = []
    for each in found:
        where = _peft(each, folder / each.name)
        if form == "merged":
            where = _merged(each, where)
        replace_text(where / "README.md", model_card(run, each, form))
        folders.append(where)
    if form != "vllm":
        return ExportedStatic(folder, tuple(folders))
    rows = [
        {"adapter": each.name, "candidate": each.candidate.name, "base": _base(each.candidate)[0],
         "revision": _base(each.candidate)[1], "rank": each.adapter.layout.rank, "path": str(where.resolve())}
        for each, where in zip(found, folders, strict=True)
    ]  # fmt: skip
    replace_text(folder / TABLE, json.dumps(rows, indent=1) + "\n")
    return ExportedStatic(folder, tuple(folders), tuple(_commands(rows)))


def has_shared(experiment: Experiment) -> bool:
    """Whether there is anything that no question decides."""
    level = experiment.routing.low_level
    return level.type in ("static", "bank") or (level.type == "generated" and level.residual_of is not None)


def shared_adapters(run: Run) -> Iterator[Shared]:
    """Raises ConfigError where there are none."""
    from haps_search.lora.adapter import bounded

    level = run.experiment.routing.low_level
    if not has_shared(run.experiment):
        what = "it has no adapters" if level.type == "none" else "its adapters are generated, one for each question"
        raise ConfigError(f"routing.low_level: {level.type}: {what}; `--questions FILE` exports those of questions")
    assert level.type != "none"
    adapters = run.loaded.adapters([Question("", "any question", "")])
    for candidate in run.experiment.candidates:
        if (0, candidate.name) not in adapters:
            continue  # an endpoint
        shared = adapters[0, candidate.name].parts[-1]
        if shared.mix is None:
            yield Shared(candidate, candidate.name, Adapter(shared.layout, shared.values))
            continue
        for index, row in enumerate(shared.values):
            values = bounded(shared.layout, row, level.max_relative_norm, level.max_relative_spectral_norm)
            yield Shared(candidate, f"{candidate.name}-{index}", Adapter(shared.layout, values))


def model_card(run: Run, shared: Shared, form: Form) -> str:
    """The hub's front matter, and what is known of the adapter; the licence is the base model's, which says it."""
    base, revision = _base(shared.candidate)
    layout, step = shared.adapter.layout, run.loaded.step
    modules = ", ".join(sorted({target.name.rpartition(".")[2] for target in layout.targets}))
    level = run.experiment.routing.low_level.type
    relation = "finetune" if form == "merged" else "adapter"
    front = [
        "---",
        f"base_model: {base}",
        f"base_model_relation: {relation}",
        f"library_name: {'transformers' if form == 'merged' else 'peft'}",
        "pipeline_tag: text-generation",
        "license: other",
        "license_name: as-the-base-model",
        "tags: [haps_search, lora]",
        "---",
    ]
    what = "merged into the weights of" if form == "merged" else "for"
    facts = [
        f"# {shared.name}",
        f"A LoRA of rank {layout.rank} {what} `{base}`" + (f" at revision `{revision}`." if revision else "."),
        "",
        "| | |",
        "|---|---|",
        f"| task | {run.experiment.task.type} |",
        f"| modules | {len(layout.targets)}: {modules} |",
        f"| numbers | {layout.size:,} |",
        f"| trained | {step} steps, seed {run.experiment.run.seed}, low level {level} |",
        *(f"| {name} | {value:.4f} |" for name, value in _validated(run.folder, step)),
        f"| made by | haps_search {__version__}, run {run.name} |",
        "",
        *(
            ["What the run generates for a question on top of this adapter is not in it.", ""]
            if level == "generated"
            else []
        ),
        "Validation is of the whole run, router and all candidates, on questions that chose its best step.",
    ]
    return "\n".join([*front, *facts]) + "\n"


def _validated(folder: Path, step: int) -> list[tuple[str, float]]:
    file = folder / "metrics.jsonl"
    records = read_records(file) if file.exists() else []
    metrics = next((record.metrics for record in records if record.step == step), {})
    return [(name, value) for name, value in sorted(metrics.items()) if name.startswith("validation_")]


def _base(candidate: CandidateConfig) -> tuple[str, str | None]:
    from haps_search.candidates.sources import model_name

    assert not isinstance(candidate.source, TableSource | EndpointSource), "they take no adapter"
    return model_name(candidate.name, candidate.source), getattr(candidate.source, "revision", None)


def _peft(shared: Shared, folder: Path) -> Path:
    from haps_search.lora.peft import export_adapter

    return export_adapter(shared.adapter, folder, *_base(shared.candidate))


def _merged(shared: Shared, adapter: Path) -> Path:
    """In the weights' own dtype; the adapter's folder becomes that of the merged weights."""
    from peft import PeftModel

    from haps_search.candidates.sources import load_lm

    candidate = shared.candidate
    assert not isinstance(candidate.source, TableSource | EndpointSource)
    lm = load_lm(candidate.name, candidate.source, candidate.dtype, "cpu", candidate.trust_remote_code)
    merged: Any = PeftModel.from_pretrained(lm.model, adapter).merge_and_unload()
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        (adapter / file).unlink()
    merged.save_pretrained(adapter)
    lm.tokenizer.save_pretrained(adapter)
    return adapter


def _commands(rows: list[dict[str, Any]]) -> Iterator[str]:
    for base, revision in dict.fromkeys((row["base"], row["revision"]) for row in rows):
        own = [row for row in rows if (row["base"], row["revision"]) == (base, revision)]
        rank = max(row["rank"] for row in own)
        allowed = next(each for each in RANKS if each >= rank)
        modules = " ".join(shlex.quote(f"{row['adapter']}={row['path']}") for row in own)
        loras = f"--enable-lora --max-lora-rank {allowed} --max-loras {len(own)} --lora-modules {modules}"
        at = f" --revision {shlex.quote(revision)}" if revision else ""
        yield f"vllm serve {shlex.quote(base)}{at} {loras}"
