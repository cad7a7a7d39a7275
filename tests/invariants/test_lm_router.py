"""The `lm` high level is the likelihood of each JSON, computed from one reading; unshared backbones stay apart."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from experiments import tiny_experiment
from instruct import END_TURN, SHAPES, build_instruct, chat_tokenizer
from made import NumberTask, question, table
from torch import Tensor

from haps_search.candidates.exact import exact
from haps_search.engines.assembly import build_learner
from haps_search.errors import CheckpointError
from haps_search.learning.update import Learner
from haps_search.routing.lm import LmBackbone
from haps_search.routing.router import Router
from haps_search.types import Rollouts

NAMES = ("a", "b.2", "cc")
ROLES = ("role0", "role1")
QUESTIONS = [question("p", "2?"), question("q", "What is the capital of everything?"), question("r", "why so")]
INSTRUCTION = 'Reply with one JSON object that names a candidate for each role: {"role0": "...", "role1": "..."}'
LEGEND = "Candidates by id: A = a, B = b.2, C = cc\nReply with one JSON object that gives a candidate's id for "
PER_ROLE = 'Reply with one JSON object that names a candidate for one role: {"role": "..."}'
NAMED, CODED = {"type": "lm", "ids": "names"}, {"type": "lm"}
TUNINGS = [{"type": "full"}, {"type": "lora", "rank": 2, "targets": ["q_proj", "v_proj"]}]
Build = Callable[..., Learner]


@pytest.fixture(scope="module")
def instruct_lms(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("instruct")
    folders = {name: build_instruct(root / name, name) for name in SHAPES}
    return {**folders, "bare": build_instruct(root / "bare", "llama", template=None)}


@pytest.fixture
def build(tiny_lms: dict[str, Path], instruct_lms: dict[str, Path]) -> Build:
    def built(lm: str = "llama", roles: int = 2, names: Sequence[str] = NAMES, **changes: Any) -> Learner:
        source = {"type": "path", "path": str(tiny_lms["llama"])}
        candidates = [{"name": n, "source": source, "dtype": "float64", "device": "cpu"} for n in names]
        described: dict[str, Any] = {
            "routing__high_level": NAMED,
            "routing__backbone__source": {"type": "path", "path": str(instruct_lms[lm])},
            **changes,
        }
        experiment = tiny_experiment(tiny_lms, candidates=candidates, **described)
        return build_learner(experiment, NumberTask(roles), {n: table(n) for n in names})

    return built


def prompt_ids(router: Router, text: str, instruction: str = INSTRUCTION) -> list[int]:
    """Written by hand, apart from the code under test."""
    tokenizer = chat_tokenizer()
    return list(tokenizer(f"<|turn|>user\n{text}\n{instruction}<|end|>\n<|turn|>assistant\n")["input_ids"])


def likelihood(router: Router, prompt: Sequence[int], said: str, end: str = END_TURN) -> Tensor:
    """log p(said, end | prompt) by one forward of the whole, without cache, mask and padding."""
    assert isinstance(router.backbone, LmBackbone)
    tokens = chat_tokenizer()(said + end)["input_ids"]
    ids = torch.tensor([[*prompt, *tokens]])
    with exact(torch.float64):
        log_p = router.backbone.model(input_ids=ids, use_cache=False).logits.log_softmax(-1)
    return log_p[0, len(prompt) - 1 : -1].gather(-1, torch.tensor(tokens).unsqueeze(-1)).sum()


def joint(router: Router, text: str, temperature: float = 1.0) -> Tensor:
    """(K^R,) log-probabilities by brute force."""
    prompt = prompt_ids(router, text)
    said = [json.dumps(dict(zip(ROLES, z, strict=True))) for z in product(NAMES, repeat=2)]
    return (torch.stack([likelihood(router, prompt, s) for s in said]) / temperature).log_softmax(-1)


def read_all(learner: Learner) -> Tensor:
    return learner.router.read(QUESTIONS).distribution.log_p_all()


def assert_close(found: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("lm", SHAPES)
def test_probabilities_are_the_likelihoods_of_each_json(build: Build, lm: str) -> None:
    learner = build(lm)
    with torch.no_grad():
        found = read_all(learner)
        assert_close(found, torch.stack([joint(learner.router, q.text) for q in QUESTIONS]))
    assert_close(found.exp().sum(-1), torch.ones(3, dtype=torch.float64))
    assert (found[0] - found[1]).abs().max() > 0.01


def test_the_temperature_flattens_the_choice(build: Build) -> None:
    learner = build(routing__high_level={**NAMED, "temperature": 5.0})
    with torch.no_grad():
        assert_close(read_all(learner)[0], joint(learner.router, QUESTIONS[0].text, 5.0))


@pytest.mark.parametrize("lm", SHAPES)
def test_beyond_the_limit_each_role_is_scored_by_itself(build: Build, lm: str) -> None:
    learner = build(lm, routing__high_level={**NAMED, "max_joint": 8})
    router = learner.router
    with torch.no_grad():
        found = router.read(QUESTIONS).distribution
        for q, asked in enumerate(QUESTIONS):
            prompt = prompt_ids(router, asked.text, PER_ROLE)
            scores = [[likelihood(router, prompt, json.dumps({r: n})) for n in NAMES] for r in ROLES]
            first, second = torch.tensor(scores, dtype=torch.float64).log_softmax(-1)
            assert_close(found.marginals()[q], torch.stack([first, second]).exp())
            assert_close(found.log_p_all()[q], (first[:, None] + second[None]).flatten())
    assert_close(found.log_p_all().exp().sum(-1), torch.ones(3, dtype=torch.float64))


def written(learner: Learner, text: str, asked: str, said: str) -> Tensor:
    """log p of what the assistant writes after a prompt, without an end."""
    return likelihood(learner.router, prompt_ids(learner.router, text, LEGEND + asked), said, end="")


def by_ids(learner: Learner, texts: Sequence[str], asked: str, said: Sequence[str]) -> Tensor:
    """(n, C) by brute force: log-probabilities of C texts, less the log of their mean over prompts without content."""
    scores = [torch.stack([written(learner, text, asked, each) for each in said]) for text in texts]
    empty = [torch.stack([written(learner, text, asked, each) for each in said]) for text in ("N/A", "[MASK]", "")]
    prior = torch.stack(empty).softmax(-1).mean(0).log()
    return (torch.stack(scores) - prior).log_softmax(-1)


@pytest.mark.parametrize("lm", SHAPES)
def test_ids_of_one_token_are_scored_and_the_prior_is_taken_off(build: Build, lm: str) -> None:
    learner = build(lm, routing__high_level=CODED)
    said = [f'{{"role0": "{one}", "role1": "{other}' for one, other in product("ABC", repeat=2)]
    with torch.no_grad():
        found = read_all(learner)
        asked = 'each role: {"role0": "...", "role1": "..."}'
        assert_close(found, by_ids(learner, [q.text for q in QUESTIONS], asked, said))
    assert (found[0] - found[1]).abs().max() > 1e-4


@pytest.mark.parametrize("max_joint", [64, 2])
def test_of_one_role_an_id_is_the_next_token(build: Build, max_joint: int) -> None:
    learner = build(roles=1, routing__high_level={**CODED, "max_joint": max_joint})
    said = [f'{{"role0": "{one}' for one in "ABC"]
    asked = 'each role: {"role0": "..."}' if max_joint == 64 else 'one role: {"role": "..."}'
    with torch.no_grad():
        assert_close(read_all(learner), by_ids(learner, [q.text for q in QUESTIONS], asked, said))
        assert learner.router.backbone.get_buffer("_tokens").shape == (3, 1)


def test_the_gradient_of_an_id_is_that_of_brute_force(build: Build) -> None:
    router = (learner := build(roles=1, routing__high_level=CODED)).router
    weights = torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64)
    learned = [p for p in router.backbone.parameters() if p.requires_grad]
    found = torch.autograd.grad((read_all(learner)[0] * weights).sum(), learned)
    said, asked = [f'{{"role0": "{one}' for one in "ABC"], 'each role: {"role0": "..."}'
    scores = torch.stack([written(learner, QUESTIONS[0].text, asked, each) for each in said])
    prior = learner.snapshot().fitted["prior"]
    wanted = torch.autograd.grad(((scores - prior).log_softmax(-1) * weights).sum(), learned)
    assert max(float(g.norm()) for g in wanted) > 1e-4
    for f, w in zip(found, wanted, strict=True):
        assert_close(f, w)


def test_beyond_the_limit_ids_are_scored_role_by_role(build: Build) -> None:
    learner = build(routing__high_level={**CODED, "max_joint": 8})
    texts, asked = [q.text for q in QUESTIONS], 'one role: {"role": "..."}'
    with torch.no_grad():
        first, second = (by_ids(learner, texts, asked, [f'{{"{role}": "{one}' for one in "ABC"]) for role in ROLES)
        assert_close(learner.router.read(QUESTIONS).distribution.marginals(), torch.stack([first, second], 1).exp())


def test_a_router_starts_on_neither_name_in_either_order(build: Build) -> None:
    """By names the shorter one had p > 0.999: log-probabilities are summed over its tokens."""
    names, many = ("short", "a-name-that-is-much-longer"), [question(str(i), f"{i}?") for i in range(40)]

    def highest(high: dict[str, Any], ordered: Sequence[str]) -> float:
        with torch.no_grad():
            read = build(roles=1, names=ordered, routing__high_level=high).router.read(many)
            return float(read.distribution.log_p_all().exp().mean(0).max())

    for ordered in (names, names[::-1]):
        assert highest(NAMED, ordered) > 0.999
        assert highest(CODED, ordered) < 0.65


def test_the_prior_is_taken_once_and_kept_with_the_checkpoint(build: Build) -> None:
    """A router that has learnt would answer otherwise to nothing, and a resumed one must decide as before."""
    learner, fresh = build(routing__high_level=CODED), build(routing__high_level=CODED, run__seed=1)
    at_start = learner.snapshot().fitted["prior"].tolist()
    for _ in range(3):
        learner.update(QUESTIONS, _paying(learner, ("b.2", "a")))
    assert learner.snapshot().fitted["prior"].tolist() == at_start
    fresh.router.high.prior = fresh.router.high.prior + torch.arange(9)  # as if its LM answered otherwise to nothing
    fresh.restore(learner.snapshot())
    with torch.no_grad():
        assert torch.equal(read_all(fresh), read_all(learner))


def test_a_checkpoint_from_before_ids_is_refused_with_the_way_out(build: Build) -> None:
    with pytest.raises(CheckpointError, match=r"got nothing, needs prior.*routing\.high_level\.ids: names"):
        build(routing__high_level=CODED).restore(build(routing__high_level=NAMED).snapshot())


def test_an_lm_without_chat_template_reads_plain_text(build: Build) -> None:
    router = build("bare", roles=1).router
    tokenizer, asked = (
        chat_tokenizer(),
        'Reply with one JSON object that names a candidate for each role: {"role0": "..."}',
    )
    with torch.no_grad():
        found = router.read(QUESTIONS[:1]).distribution.log_p_all()[0]
        prompt = tokenizer(f"2?\n{asked}\n")["input_ids"]
        scores = [likelihood(router, prompt, json.dumps({"role0": n}), end="<eos>") for n in NAMES]
    assert_close(found, torch.stack(scores).log_softmax(-1))


@pytest.mark.parametrize("lm", SHAPES)
def test_the_pooled_state_is_that_of_a_plain_forward(build: Build, lm: str) -> None:
    router = build(lm).router
    with torch.no_grad(), exact(torch.float64):
        found = router.read(QUESTIONS).pooled
        for q, asked in enumerate(QUESTIONS):
            ids = torch.tensor([prompt_ids(router, asked.text)])
            states = router.backbone.model.base_model(input_ids=ids, use_cache=False).last_hidden_state
            assert_close(found[q], states[0].mean(0))
            assert_close(router.backbone([asked.text])[0], found[q])


@pytest.mark.parametrize("lm", SHAPES)
def test_a_question_is_read_as_alone_and_in_any_chunks(build: Build, lm: str) -> None:
    router, chunked = build(lm).router, build(lm, routing__high_level={**NAMED, "batch_rows": 2}).router
    with torch.no_grad():
        together, apart = router.read(QUESTIONS), chunked.read(QUESTIONS)
        assert_close(apart.pooled, together.pooled)
        assert_close(apart.distribution.log_p_all(), together.distribution.log_p_all())
        for q, asked in enumerate(QUESTIONS):
            alone = router.read([asked])
            assert_close(alone.pooled[0], together.pooled[q])
            assert_close(alone.distribution.log_p_all()[0], together.distribution.log_p_all()[q])


@pytest.mark.parametrize(("lm", "tuning"), [*zip(SHAPES, TUNINGS * 2, strict=False), ("llama", TUNINGS[1])])
def test_the_gradient_through_the_cache_is_that_of_brute_force(build: Build, lm: str, tuning: dict[str, Any]) -> None:
    high = {**NAMED, "batch_rows": 4}
    router = build(lm, routing__backbone__tuning=tuning, routing__high_level=high).router
    _stir(router)
    weights = torch.randn(2, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    learned = [p for p in router.backbone.parameters() if p.requires_grad]
    reading = router.read(QUESTIONS[:2])
    found = torch.autograd.grad((reading.distribution.log_p_all() * weights).sum() + reading.pooled.sum(), learned)

    wanted_loss = torch.zeros((), dtype=torch.float64)
    for q, asked in enumerate(QUESTIONS[:2]):
        wanted_loss = wanted_loss + (joint(router, asked.text) * weights[q]).sum()
        ids = torch.tensor([prompt_ids(router, asked.text)])
        with exact(torch.float64):
            states = router.backbone.model.base_model(input_ids=ids, use_cache=False).last_hidden_state
        wanted_loss = wanted_loss + states[0].mean(0).sum()
    wanted = torch.autograd.grad(wanted_loss, learned)
    assert max(float(g.norm()) for g in wanted) > 1e-2
    for f, w in zip(found, wanted, strict=True):
        assert_close(f, w)


def _stir(router: Router) -> None:
    """A fresh LoRA's B is zero, and half its gradient with it."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in router.backbone.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3, generator=generator)


def test_a_long_question_is_cut_to_what_the_lm_can_read_and_counted(build: Build) -> None:
    learner = build(routing__backbone__max_tokens=100_000)
    backbone, long = learner.router.backbone, question("s", "x" * 200 + "0123456789" * 20)
    ids = backbone._framing.rows([long.text])[0]
    longest = len(json.dumps(dict.fromkeys(ROLES, "b.2"))) + 1
    assert len(ids) == 400 - longest
    assert chat_tokenizer().decode(ids).endswith(f"89\n{INSTRUCTION}{END_TURN}\n<|turn|>assistant\n")
    assert learner.router.truncated([*QUESTIONS, long]) == 1
    assert len(learner.route([long, QUESTIONS[0]], 2, seed=0).assignments) == 2


def test_a_route_reports_what_the_update_computes_again(build: Build) -> None:
    learner = build()
    routes = learner.route(QUESTIONS, 6, seed=3)
    again = learner.router.read(QUESTIONS).distribution
    assert_close(torch.tensor(routes.log_probabilities, dtype=torch.float64), again.log_probability(routes.assignments))
    for row, marginals in zip(again.log_p_all().exp(), routes.marginals, strict=True):
        whole = row.view(3, 3)
        assert_close(torch.tensor(marginals, dtype=torch.float64), torch.stack([whole.sum(1), whole.sum(0)]))


def test_a_frozen_lm_routes_but_does_not_learn(build: Build) -> None:
    learner = build(routing__backbone__tuning={"type": "frozen"}, routing__low_level={"type": "none"})
    before = learner.route(QUESTIONS, 2, seed=1)
    assert not learner.router.high.learns
    assert learner.router.learned() == {}
    learner.update(QUESTIONS, _paying(learner, before.assignments[0][0]))
    after = learner.route(QUESTIONS, 2, seed=1)
    assert after.log_probabilities == before.log_probabilities


WIDE_LORA = {"type": "lora", "rank": 8, "alpha": 32, "targets": ["q_proj", "v_proj", "o_proj", "down_proj"]}


@pytest.mark.parametrize(("tuning", "max_joint"), [(TUNINGS[0], 1), (WIDE_LORA, 64)])
def test_the_assignment_that_pays_becomes_likelier(build: Build, tuning: dict[str, Any], max_joint: int) -> None:
    learner = build(
        routing__backbone__tuning=tuning,
        routing__high_level={**NAMED, "max_joint": max_joint, "temperature": 2.0},
        learning__learning_rate={"high": 0.02, "low": 0.001},
        learning__entropy_bonus=0.0,
        learning__schedule={"type": "constant"},
    )
    best = ("b.2", "a")
    before = _probability(learner, best)
    for _ in range(6):
        learner.update(QUESTIONS, _paying(learner, best))
    assert before < 0.02
    assert _probability(learner, best) > 5 * before


def _probability(learner: Learner, z: tuple[str, ...]) -> float:
    with torch.no_grad():
        return float(learner.router.read(QUESTIONS).distribution.log_probability([[z]] * 3).exp().mean())


def _paying(learner: Learner, best: tuple[str, ...]) -> Rollouts:
    """Four sampled episodes per question; the best assignment earns 1, advantages are leave-one-out."""
    drawn = tuple((*row, best) for row in learner.route(QUESTIONS, 3, seed=learner.version).assignments)
    rewards = torch.tensor([[float(z == best) for z in row] for row in drawn])
    advantages = rewards - (rewards.sum(1, keepdim=True) - rewards) / 3
    return Rollouts(learner.version, drawn, tuple(map(tuple, advantages.tolist())), {})


UNSHARED = {"routing__share_backbone": False}
HIGHS = [{"type": "head"}, NAMED, CODED]


@pytest.mark.parametrize("high", HIGHS, ids=["head", "names", "ids"])
@pytest.mark.parametrize("tuning", TUNINGS, ids=["full", "lora"])
def test_unshared_backbones_begin_as_the_shared_one(build: Build, high: dict[str, Any], tuning: dict[str, Any]) -> None:
    changes = {"routing__high_level": high, "routing__backbone__tuning": tuning}
    shared, unshared = build(**changes).router, build(**changes, **UNSHARED).router
    with torch.no_grad():
        wanted, found = shared.read(QUESTIONS), unshared.read(QUESTIONS)
    assert_close(found.pooled, wanted.pooled)
    assert_close(found.distribution.log_p_all(), wanted.distribution.log_p_all())
    everything = shared.all_adapters(QUESTIONS)
    for key, adapter in unshared.all_adapters(QUESTIONS).items():
        assert_close(adapter.values, everything[key].values)


@pytest.mark.parametrize("high", HIGHS, ids=["head", "names", "ids"])
def test_unshared_levels_do_not_move_each_other(build: Build, high: dict[str, Any]) -> None:
    router = build(routing__high_level=high, **UNSHARED).router
    with torch.no_grad():
        for parameter in router.high.parameters():
            parameter.normal_(generator=torch.Generator().manual_seed(0))
    for loss, reached in ((_high_loss, "high"), (_low_loss, "low")):
        router.zero_grad()
        loss(router).backward()
        for level, parameters in router.levels().items():
            moved = sum(float(p.grad.norm()) for p in parameters if p.grad is not None)
            assert (moved > 0) == (level == reached), (level, reached)


@pytest.mark.parametrize("high", HIGHS, ids=["head", "names", "ids"])
def test_each_copy_learns_at_its_levels_rate(build: Build, high: dict[str, Any]) -> None:
    router = build(routing__high_level=high, **UNSHARED).router
    levels = {level: {id(p) for p in parameters} for level, parameters in router.levels().items()}
    assert {id(p) for p in router.backbone.parameters()} <= levels["high"]
    assert router.low_backbone is not None
    assert {id(p) for p in router.low_backbone.parameters()} <= levels["low"]
    assert len(router.learned()) == len(levels["high"]) + len(levels["low"])


def test_a_shared_backbone_is_moved_by_both(build: Build) -> None:
    router = build().router
    for loss in (_high_loss, _low_loss):
        router.zero_grad()
        loss(router).backward()
        assert any(p.grad is not None and float(p.grad.norm()) > 0 for p in router.backbone.parameters())


def _high_loss(router: Router) -> Tensor:
    return router.read(QUESTIONS).distribution.log_probability([[("a", "cc")]] * 3).sum()


def _low_loss(router: Router) -> Tensor:
    return router.adapter_values(router.read(QUESTIONS), "a", [0, 2]).square().sum()


@pytest.mark.parametrize("high", HIGHS, ids=["head", "names", "ids"])
def test_a_snapshot_holds_both_backbones(build: Build, high: dict[str, Any]) -> None:
    learner, other = (build(routing__high_level=high, **UNSHARED, run__seed=seed) for seed in (0, 1))
    with torch.no_grad():
        for index, parameter in enumerate(learner.router.learned().values()):
            parameter += 0.01 * (1 + index % 3)
    other.restore(learner.snapshot())
    with torch.no_grad():
        found, wanted = other.router.read(QUESTIONS), learner.router.read(QUESTIONS)
    assert_close(found.pooled, wanted.pooled)
    assert_close(found.distribution.log_p_all(), wanted.distribution.log_p_all())
