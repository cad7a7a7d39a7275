"""Who sits where, what it needs, and what is refused. Models are config.json files; no weights are read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import plans
import pytest
import torch
from endpoints import endpoint
from experiments import tiny_experiment

from haps_search.candidates.sources import meta_lm
from haps_search.config.candidates import PathSource
from haps_search.config.engines import ClusterProfile, Resources
from haps_search.config.load import parse_nodes
from haps_search.engines.assembly import build_learner
from haps_search.engines.placement.memory import cache_bytes, router_need, weight_bytes
from haps_search.engines.placement.needs import LIGHT_BYTES, PROCESS_BYTES, Need
from haps_search.engines.placement.placement import Plan, needs_of, plan
from haps_search.engines.placement.seating import crews
from haps_search.errors import ConfigError
from haps_search.lora.spec import module_table
from haps_search.tasks.build import build_task
from haps_search.verbs.plan import start_lines

PROFILES = {f.stem for f in (Path(__file__).resolve().parents[2] / "clusters" / "profiles").glob("*.yaml")}
PUBLISHED = {
    "llama-3.1-8b": 8_030_261_248,
    "llama-3.2-1b": 1_235_814_400,
    "llama-3.3-70b": 70_553_706_496,
    "qwen2.5-7b": 7_615_616_512,
    "smollm2-135m": 134_515_008,
}
"""Weights as the models' own pages count them; tied ones once."""


def a_plan(name: str, profile: Mapping[str, Any] | None = None, **changes: Any) -> Plan:
    return plans.made(plans.a_study(name, **changes), plans.a_profile(name, **(profile or {})))


def places(made: Plan) -> dict[str, tuple[int, tuple[int, ...]]]:
    return {row.seat.who: (row.seat.node, row.seat.gpus) for row in made.rows}


@pytest.mark.parametrize("name", sorted(PROFILES))
def test_the_plan_of_a_shipped_profile_is_as_it_was_read(name: str) -> None:
    """`python tests/plans.py` writes them again."""
    expected = (plans.ASSETS / "plans" / f"{name}.txt").read_text()
    assert plans.rendered(plans.a_study(name), plans.a_profile(name)) == expected


@pytest.mark.parametrize(("shape", "count"), PUBLISHED.items())
def test_weights_are_counted_as_published(shape: str, count: int) -> None:
    model = meta_lm("a", PathSource(path=plans.source(shape)["path"]), "bfloat16", False)
    assert all(p.is_meta for p in model.parameters())
    assert weight_bytes(model) == 2 * count


def test_llama_8b_keeps_128_kib_a_token() -> None:
    """32 layers x 2 x 8 heads x 128 numbers x 2 bytes."""
    model = meta_lm("a", PathSource(path=plans.source("llama-3.1-8b")["path"]), "bfloat16", False)
    assert cache_bytes(model) == 131_072


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "mistral"])
def test_a_cache_takes_what_the_formula_says(tiny_lms: dict[str, Path], architecture: str) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_lms[architecture])
    cache = model(input_ids=torch.ones(3, 5, dtype=torch.long), use_cache=True).past_key_values
    held = sum(t.numel() * t.element_size() for layer in cache.layers for t in (layer.keys, layer.values))
    assert held == 3 * 5 * cache_bytes(model)


@pytest.mark.parametrize(
    ("tuning", "share"), [({"type": "full"}, True), ({"type": "full"}, False), ({"type": "lora"}, True)]
)
def test_a_router_needs_what_a_built_one_holds(tiny_lms: dict[str, Path], tuning: dict[str, str], share: bool) -> None:
    experiment = tiny_experiment(
        tiny_lms,
        routing__backbone__tuning=tuning,
        routing__backbone__dtype="float32",
        routing__share_backbone=share,
    )
    on_meta = {
        c.name: module_table(c.name, meta_lm(c.name, c.source, c.dtype, False))  # type: ignore[arg-type]
        for c in experiment.candidates
    }
    need = router_need(experiment, on_meta, 64)
    router = build_learner(experiment, build_task(experiment.task), on_meta).router
    head = weight_bytes(router.high)
    held = weight_bytes(router) - head
    learned = weight_bytes(router, learned_only=True) - head
    assert (need.weights, need.optimiser) == (held, 3 * learned)
    assert learned < held or tuning["type"] == "full"


def test_crews_are_one_per_shape_and_replicas_stand_apart() -> None:
    study = plans.a_study("one-node-4-gpus")
    profile = plans.a_profile(
        "one-node-4-gpus",
        candidates={"small": {"cpus": 8, "gpus": 2}},
        replicas={"llama": 3, "qwen": 2},
    )
    large, rest = crews(study.experiment.candidates, profile)
    assert (large.resources.gpus, [c.name for c in large.seats], large.spread) == (2, ["small"], False)
    assert [c.name for c in rest.seats] == ["llama", "qwen", "llama", "qwen", "llama"]
    assert rest.spread


def test_replicas_sit_on_different_nodes() -> None:
    made = a_plan("two-nodes-8-gpus", {"replicas": {"llama": 2, "qwen": 2}})
    found = places(made)
    for name in ("llama", "qwen"):
        assert {found[f"{name} ({i} of 2)"][0] for i in (1, 2)} == {1, 2}


def test_without_replicas_the_other_node_stays_whole() -> None:
    found = places(a_plan("two-nodes-8-gpus", {"replicas": {}}))
    assert {node for node, _ in found.values()} == {1}


def test_nobody_shares_a_gpu_beyond_its_whole() -> None:
    used: dict[tuple[int, int], float] = {}
    for row in a_plan("fractional-gpus", {"router": {"cpus": 1, "gpus": 0.5}}).rows:
        for gpu in row.seat.gpus:
            used[row.seat.node, gpu] = used.get((row.seat.node, gpu), 0.0) + row.seat.resources.gpus
    assert sorted(used.values()) == [1.0, 1.0]


def test_weights_that_cannot_fit_are_refused_with_both_numbers() -> None:
    made = a_plan("70b-several-gpus", {"candidate": {"cpus": 8, "gpus": 1}}, balanced=[])
    (problem,) = made.problems
    assert "llama-70b needs 144.5 GB at least (weights 141.1" in problem
    assert "its 1 GPUs have 80.0" in problem
    assert "device: balanced" in problem


def test_several_gpus_without_balanced_are_refused() -> None:
    problems = a_plan("70b-several-gpus", balanced=[]).problems
    assert any("llama-70b is given 4 GPUs and `device: auto` uses one: say `balanced`" in p for p in problems)


def test_balanced_without_a_gpu_is_refused() -> None:
    problems = a_plan("local-cpu", balanced=["a"]).problems
    assert problems == ("candidate a wants `device: balanced` and is given no GPU: say `auto`, or give one",)


def test_a_node_that_is_too_small_is_refused_with_what_is_left() -> None:
    (problem,) = a_plan("three-gpus", pool={"a": "llama-3.1-8b", "b": "qwen2.5-7b", "c": "llama-3.2-1b"}).problems
    assert problem.startswith("router 1 needs 1 GPUs and 2 CPUs on one node, and the node with most left has 0 GPUs")


def test_what_sits_on_cpus_is_held_to_the_memory_of_its_node() -> None:
    nodes = parse_nodes(["cpus=16,memory_gb=12", "count=2,cpus=16,gpus=1,gpu_memory_gb=40"])
    (problem,) = a_plan("cpu-router", {"nodes": nodes}).problems
    assert problem.startswith("node 1: what sits on its CPUs needs 16.1 GB at least, it has 12")


def test_a_large_batch_is_a_remark_and_no_refusal() -> None:
    nodes = parse_nodes(["count=3,cpus=16,gpus=1,gpu_memory_gb=20"])
    made = a_plan("three-gpus", {"nodes": nodes, "router": {"cpus": 1, "gpus": 0}}, backbone="smollm2-135m")
    assert made.problems == ()
    # 20 - 1 - 16.06 - 1 kept = 1.94 GB, of which 0.47 hold logits; 1,152 tokens x (128 + 8) KiB = 0.16 GB a row
    assert "llama: about 9 of 14 rows of a batch fit; larger batches are halved" in made.remarks


def test_a_profile_that_names_others_candidates_says_so() -> None:
    made = a_plan("local-cpu", {"replicas": {"zebra": 2}})
    assert made.remarks == ("profile local-cpu names zebra, which this study has not",)


def test_where_nodes_are_not_known_nothing_is_compared_and_nothing_refused() -> None:
    profile = plans.a_profile("gpu-per-candidate", nodes=())
    study = plans.a_study("gpu-per-candidate", pool={"big": "llama-3.3-70b"})
    made = plans.made(study, profile)
    assert (made.problems, made.machines) == ((), ())
    assert "nodes not declared" in plans.rendered(study, profile)
    assert start_lines(study, profile)[0].endswith("nodes not declared, so not compared")


def test_a_sweep_begins_with_two_lines_or_a_refusal() -> None:
    lines = start_lines(plans.a_study("one-node-4-gpus"), plans.a_profile("one-node-4-gpus"))
    assert lines[0].startswith("placement   3 candidate workers of up to 20.8 GB, 2 routers of up to 51.2 GB; 1 node")
    assert lines[1] == "2 of 4 trials run at a time; there is no room for more routers"
    with pytest.raises(ConfigError, match="does not fit profile three-gpus: router 1 needs"):
        start_lines(plans.a_study("three-gpus", pool=dict.fromkeys("abc", "qwen2.5-7b")), plans.a_profile("three-gpus"))


def test_a_model_that_cannot_be_read_does_not_keep_a_sweep_from_its_workers(tmp_path: Path) -> None:
    """The head need not have the models; the workers say for themselves what they cannot load."""
    study = plans.a_study("local-cpu")
    gone = study.experiment.candidates[0].model_copy(update={"source": PathSource(path=str(tmp_path / "none"))})
    experiment = study.experiment.model_copy(update={"candidates": (gone,)})
    (line,) = start_lines(study.model_copy(update={"experiment": experiment}), plans.a_profile("local-cpu"))
    assert line.startswith("placement is not checked: ")


GENERATED = {"low_level": {"type": "generated", "hidden": [8]}}
EVERYWHERE = {"rank": 16, "targets": ["q_proj", "k_proj", "v_proj", "o_proj"], "layers": "all"}
"""Of Llama-3.1-8B per layer 16 x (2 x (4096 + 4096) + 2 x (4096 + 1024)) numbers, and 32 layers."""
NUMBERS = 32 * 16 * (2 * (4096 + 4096) + 2 * (4096 + 1024))


def travelling(low: str, **profile: Any) -> Plan:
    routing = {"low_level": {"type": low}, "lora": EVERYWHERE}
    return a_plan(
        "three-gpus", {"router": {"cpus": 1, "gpus": 0}, **profile}, pool={"a": "llama-3.1-8b"}, routing=routing
    )


def test_a_worker_has_the_adapters_and_gradients_of_a_lease() -> None:
    (worker,) = (row for row in travelling("static").rows if row.seat.who == "a")
    assert worker.need.adapters == worker.need.least_adapters == 2 * 4 * NUMBERS, "one for all questions"
    (worker,) = (row for row in travelling("static", leases={"gb": 0.01}).rows if row.seat.who == "a")
    assert worker.need.adapters == 2 * 4 * NUMBERS, "a single ticket may have more"


def test_a_router_has_those_of_its_step_and_its_node_s_object_store_too() -> None:
    made = travelling("static")
    (router,) = (row for row in made.rows if not row.need.halves)
    assert router.need.adapters == 2 * 4 * NUMBERS
    stored = {each.node: each.bytes for each in made.beside if each.who == "object store"}
    seats = {row.seat.who: row.seat.node for row in made.rows}
    assert sum(stored.values()) == 2 * 2 * 4 * NUMBERS
    assert set(stored) == set(seats.values())


def test_generated_adapters_are_one_per_question_as_many_as_a_lease_may_have() -> None:
    small = {"rank": 8, "targets": ["o_proj"], "layers": {"last": 4}}
    size = 4 * 4 * 8 * (4096 + 4096)
    for leases, wanted in (({}, 8), ({"rows": 3}, 3), ({"gb": 5 * 2 * size / 1e9}, 5)):
        made = a_plan(
            "three-gpus", {"leases": leases}, pool={"a": "llama-3.1-8b"}, routing={**GENERATED, "lora": small}
        )
        (worker,) = (row for row in made.rows if row.seat.who == "a")
        assert worker.need.adapters == pytest.approx(wanted * 2 * size, abs=2)
        assert worker.need.least_adapters == 2 * size


def test_what_does_not_fit_into_the_object_store_is_refused_with_both_numbers() -> None:
    nodes = parse_nodes(["count=3,cpus=16,gpus=1,gpu_memory_gb=80,memory_gb=64,object_store_gb=0.2"])
    problems = travelling("static", nodes=nodes).problems
    assert len(problems) == 1
    assert "adapters and gradients need 0.2 GB at least of its object store, which has 0.2" in problems[0]
    assert "routing.lora" in problems[0]


def test_kept_activations_are_counted_and_the_way_out_is_named() -> None:
    nodes = parse_nodes(["count=3,cpus=16,gpus=1,gpu_memory_gb=18.5"])
    assert a_plan("three-gpus", {"nodes": nodes}, pool={"a": "llama-3.1-8b"}).problems[0].startswith("a needs 18.7 GB")
    study = plans.a_study("three-gpus", pool={"a": "llama-3.1-8b"}, backbone="smollm2-135m")
    (candidate,) = study.experiment.candidates
    frugal = study.experiment.model_copy(update={"candidates": (candidate.model_copy(update={"activation_gb": 0.0}),)})
    profile = plans.a_profile("three-gpus", nodes=nodes, router={"cpus": 1, "gpus": 0})
    (problem,) = plans.made(study, profile).problems
    assert "activations and prompts kept 1.0" in problem
    assert "keep less (activation_gb and prompt_cache_gb of the candidate)" in problem
    assert plans.made(study.model_copy(update={"experiment": frugal}), profile).problems == ()


def test_of_a_thousand_workers_equal_ones_share_a_line() -> None:
    text = (plans.ASSETS / "plans" / "thousand-workers.txt").read_text()
    assert "small-0 x 100" in text
    assert len(text.splitlines()) < 30


def test_needs_add_up() -> None:
    gb = 1_000_000_000
    candidate = Need(weights=4 * gb, optimiser=0, per_row=gb, rows=8, tokens=100, halves=True)
    assert gb == PROCESS_BYTES
    assert (candidate.total, candidate.least, candidate.rows_in(9.5 * gb)) == (13 * gb, 6 * gb, 4)
    router = Need(weights=4 * gb, optimiser=12 * gb, per_row=gb, rows=8, tokens=100, halves=False)
    assert (router.total, router.least, router.tokens_in(21 * gb)) == (25 * gb, 17 * gb, 50)


@pytest.mark.parametrize("gpus", [1.5, 2.25])
def test_a_process_takes_whole_gpus_or_a_part_of_one(gpus: float) -> None:
    with pytest.raises(ValueError, match="whole GPUs or a part of one"):
        Resources(gpus=gpus)


@pytest.mark.parametrize(
    ("spec", "said"),
    [("cpus", "needs key=value pairs"), ("cpus=4,gpuz=1", "did you mean gpus"), ("gpus=1", "cpus: missing")],
)
def test_a_broken_node_is_answered_with_what_is_needed(spec: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse_nodes([spec])


def test_declared_cpus_are_a_machine_where_ray_is_started_here() -> None:
    assert [n.cpus for n in ClusterProfile(name="a", logical_cpus=3).machines()] == [3]
    assert ClusterProfile(name="a", logical_cpus=3, address="auto").machines() == ()


def test_workers_of_endpoints_take_a_share_of_a_cpu_and_hardly_any_memory(tiny_lms: dict[str, Path]) -> None:
    far = [endpoint("http://x/v1", f"far{i}", concurrency=3) for i in range(20)]
    own = tiny_experiment(tiny_lms).candidates[0].model_dump(mode="json")
    profile = ClusterProfile(name="p", candidate=Resources(cpus=1.0, gpus=1.0), router=Resources(cpus=1.0))
    machines = profile.model_copy(update={"nodes": parse_nodes(["count=1,cpus=3,gpus=1,memory_gb=64"])})
    experiment = tiny_experiment(tiny_lms, candidates=[own, *far], routing__low_level={"type": "static"})
    made = plan(experiment, 1, machines, needs_of(experiment, 64))
    assert made.problems == ()
    rows = {row.seat.who: row for row in made.rows}
    assert len(rows) == 22
    assert {row.seat.node for row in made.rows} == {1}
    needs = {rows[f"far{i}"].need.total for i in range(20)}
    assert needs == {LIGHT_BYTES}
    assert not any(rows[f"far{i}"].on_gpu for i in range(20))
    assert rows["llama"].need.adapters > 0
    assert rows["far0"].need.adapters == 0
