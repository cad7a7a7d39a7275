"""Operations of a step, counted on shapes that can be counted by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
from made import module, table
from sweeps import a_study, a_trial

from haps_search.config.candidates import CandidateConfig, ZooSource
from haps_search.config.run import Experiment
from haps_search.evaluation.flops import Flops, Shape, Tokens, reference_flops, step_flops
from haps_search.sweep.space import apply
from haps_search.tasks.build import build_task
from haps_search.verbs.costs import PROMPTS, _flops, _routing_tokens, _taught_tokens

ORDER = ("q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj")
TABLE = table("adder", *(module(layer, 4, 4, kind) for layer in range(2) for kind in ORDER))
SHAPE = Shape(TABLE, attention=0, head=40)
TOKENS = Tokens(prompts=80, completions=16, routing=10, count=8)
FROZEN = {"backbone": {"source": {"type": "zoo", "name": "adder"}, "tuning": {"type": "frozen"}}}


def experiment(**routing: object) -> Experiment:
    base = a_study(experiment={"run": {"questions_per_step": 2, "episodes_per_question": 4}}).experiment
    low = {"routing.low_level": {"type": "none"}, "routing.backbone.tuning": {"type": "frozen"}}
    return apply(base, {**low, **{f"routing.{k.replace('__', '.')}": v for k, v in routing.items()}})


def candidate(of: Experiment) -> tuple[float, float]:
    """Without what the router does."""
    own = step_flops(of, {"a": SHAPE}, TOKENS)
    router = step_flops(of, {"a": SHAPE}, replace(TOKENS, prompts=0, completions=0))
    return own.forward - router.forward, own.backward - router.backward


def test_a_router_without_adapters_only_samples() -> None:
    read = 80 / 4 + 16
    assert candidate(experiment()) == (read * 2 * 12 * 16 + 2 * 40 * 16, 0.0)


def test_an_adapter_behind_attention_is_scored_on_completions_through_one_layer() -> None:
    last = experiment(low_level={"type": "static"}, lora={"rank": 1, "targets": ["o_proj"]})
    forward, backward = candidate(last)
    sampled, _ = candidate(experiment())
    read, size = 80 / 4 + 16, 8
    assert forward - sampled == 16 * 2 * 6 * 16 + 2 * 40 * 16 + 2 * size * (16 + read)
    assert backward == 16 * 2 * 2 * 16 + 2 * 40 * 16 + 4 * size * 16  # through up_proj and down_proj alone


def test_plain_lora_is_scored_with_prompts_through_all_layers() -> None:
    plain = experiment(low_level={"type": "static"}, lora={"rank": 1, "targets": "all-linear", "layers": "all"})
    forward, backward = candidate(plain)
    sampled, _ = candidate(experiment())
    scored, read, size = 96, 80 / 4 + 16, 12 * 8
    assert forward - sampled == scored * 2 * 12 * 16 + 2 * 40 * 16 + 2 * size * (scored + read)
    assert backward == scored * 2 * 11 * 16 + 2 * 40 * 16 + 4 * size * scored


def test_attention_costs_scores_and_values_and_each_two_gradients() -> None:
    plain = experiment(low_level={"type": "static"}, lora={"rank": 1, "targets": ["q_proj"], "layers": "all"})
    without, seeing = (step_flops(plain, {"a": replace(SHAPE, attention=width)}, TOKENS) for width in (0, 5))
    context, scored, read = (80 + 8) / 8, 96, 80 / 4 + 16
    assert seeing.forward - without.forward == pytest.approx((scored + read) * 4 * 2 * context * 5)
    assert seeing.backward - without.backward == pytest.approx(scored * 8 * 2 * context * 5)


def test_candidates_share_the_tokens() -> None:
    of = experiment(low_level={"type": "static"}, lora={"rank": 1, "targets": ["o_proj"]})
    one, two = (step_flops(of, dict.fromkeys(names, SHAPE), TOKENS) for names in ("a", "ab"))
    assert one == two


def test_a_backbone_that_learns_costs_backward_what_its_tuning_says() -> None:
    found = {}
    for tuning in ("frozen", "lora", "full"):
        of = experiment(backbone__tuning={"type": tuning})
        found[tuning] = step_flops(of, {"a": SHAPE}, TOKENS)
    weights = sum(m.d_in * m.d_out for m in zoo().table.modules)
    assert found["frozen"].backward == 0
    assert found["lora"].backward == 2 * weights * 10
    assert found["full"].backward == 4 * weights * 10
    assert len({each.forward for each in found.values()}) == 1


def test_a_generator_is_the_mlp_of_each_candidate() -> None:
    level = {"type": "generated", "hidden": [8]}
    made = experiment(low_level=level, lora={"rank": 1, "targets": ["o_proj"]})
    static = experiment(low_level={"type": "static"}, lora={"rank": 1, "targets": ["o_proj"]})
    numbers = 64 * 8 + 8 * 8
    one, other = (step_flops(of, {"a": SHAPE}, TOKENS) for of in (made, static))
    assert one.forward - other.forward == 2 * 2 * numbers * 2
    assert one.backward - other.backward == 4 * numbers * 2


def test_layers_that_share_have_one_generator_for_each_kind() -> None:
    level, lora = {"type": "generated", "hidden": [8]}, {"rank": 1, "targets": ["o_proj", "up_proj"], "layers": "all"}
    apart, shared = (experiment(low_level={**level, "sharing": how}, lora=lora) for how in ("per_layer", "shared"))
    one, other = (step_flops(of, {"a": SHAPE}, TOKENS) for of in (apart, shared))
    fewer = 8 * 2 * 8  # hidden units, by the numbers of the second layer's two targets
    assert one.forward - other.forward == 2 * 2 * fewer * 2
    assert one.backward - other.backward == 4 * fewer * 2


def test_a_router_that_reads_nothing_costs_nothing() -> None:
    constant = {"type": "fixed", "assignment": ["adder"]}
    level = {"low_level": {"type": "static"}, "backbone__tuning": {"type": "full"}}
    silent, reads = experiment(high_level=constant, **level), experiment(**level)
    alone = replace(TOKENS, prompts=0, completions=0)
    assert step_flops(silent, {"a": SHAPE}, alone) == Flops(0.0, 0.0)
    assert step_flops(reads, {"a": SHAPE}, alone).forward > 0
    generated = experiment(high_level=constant, low_level={"type": "generated"}, backbone__tuning={"type": "full"})
    assert step_flops(generated, {"a": SHAPE}, alone).forward > 0


def test_a_shortlist_makes_the_head_smaller_and_a_constant_attention_the_layer() -> None:
    low = {"low_level": {"type": "static"}, "lora": {"rank": 1, "targets": ["o_proj"]}}
    base = apply(experiment(**low), {"learning.signal": "references"})
    listed = apply(base, {"learning.references.shortlist": 3})
    mlp = [
        replace(m, name=m.name.replace("self_attn", "mlp")) if m.name.endswith(("up_proj", "down_proj")) else m
        for m in TABLE.modules
    ]
    shape, taught = Shape(table("adder", *mlp), 5, 40, 640), {"a": Tokens(80, 16, 0, 4)}
    whole, short = (reference_flops(of, {"a": shape}, taught) for of in (base, listed))
    assert whole.forward - short.forward == 2 * 40 * 16 * (1 - 16 * 4 / 640)
    assert whole.backward - short.backward == 2 * 40 * 16 * (1 - 16 * 4 / 640)
    size, run = 8, 3 * 16  # o_proj, up_proj and down_proj, and nothing of the prompts
    assert whole.forward == 16 * (2 * run + 2 * 40 + 2 * size)
    assert whole.backward == 16 * (2 * 2 * 16 + 2 * 40 + 4 * size - 2 * 4)
    stored = step_flops(base, {"a": shape}, replace(taught["a"], routing=0))
    assert whole.forward < stored.forward


def test_a_trial_of_stages_costs_what_its_lessons_and_its_episodes_do() -> None:
    stages = [{"learning.signal": "references", "run.steps": 30}, {"run.steps": 10}]
    base = apply(
        experiment(low_level={"type": "static"}),
        {"candidates": [{"name": "a", "source": {"type": "zoo", "name": "adder"}}]},
    )
    of = apply(base, {"stages": stages})
    reports = ((40, {"stage": 2.0, "prompt_tokens": 80.0, "completion_tokens": 16.0}),)
    found = _flops(of, a_trial(0, 0.5, reports=reports))
    taught, played = of.played()
    lessons, asked = _taught_tokens(taught, 7.0), build_task(of.task).questions("train")[:PROMPTS]
    assert lessons["a"].count == 2
    # A token per character, and the one that ends the turn.
    assert lessons["a"].completions == pytest.approx(2 * sum(len(q.reference) + 1 for q in asked) / PROMPTS)
    routing = 2 * _routing_tokens(of)
    first = reference_flops(taught, {"a": zoo()}, {"a": replace(lessons["a"], routing=routing)})
    second = step_flops(played, {"a": zoo()}, replace(TOKENS, routing=routing))
    assert found is not None
    assert found.forward == pytest.approx(0.75 * first.forward + 0.25 * second.forward)
    assert found.backward == pytest.approx(0.75 * first.backward + 0.25 * second.backward)
    assert _flops(of, a_trial(0, 0.5)) is None


def zoo() -> Shape:
    return Shape.of(CandidateConfig(name="adder", source=ZooSource(name="adder")))


def test_a_shape_is_read_from_a_models_configuration() -> None:
    shape = zoo()
    assert (shape.table.layers, shape.attention, shape.head) == (3, 64, 258 * 64)
    assert sum(m.d_in * m.d_out for m in shape.table.modules) == 3 * (4 * 64 * 64 + 3 * 64 * 192)
