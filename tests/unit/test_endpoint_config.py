"""What a study may say of endpoints, and what is refused before anything is started."""

from __future__ import annotations

from typing import Any

import pytest
from endpoints import configured, endpoint
from sweeps import a_study

from haps_search.config.engines import ClusterProfile, Resources
from haps_search.config.sweep import Study
from haps_search.engines.placement.seating import endpoint_misfits
from haps_search.errors import ConfigError
from haps_search.verbs.explain import explain
from haps_search.verbs.validate import validate

OWN = {"name": "adder", "source": {"type": "zoo", "name": "adder"}}
NONE = {"low_level": {"type": "none"}}


def study(*candidates: dict[str, Any], **experiment: Any) -> Study:
    return a_study(experiment={"candidates": list(candidates), **experiment})


def test_a_pool_of_endpoints_has_no_low_level() -> None:
    with pytest.raises(ConfigError, match=r"routing.low_level: got generated, but all candidates are endpoints"):
        study(endpoint("http://x/v1"))
    study(endpoint("http://x/v1"), routing=NONE)


def test_endpoints_beside_candidates_of_ones_own_leave_these_their_adapters() -> None:
    mixed = study(endpoint("http://x/v1"), OWN)
    assert mixed.experiment.routing.low_level.type == "generated"


@pytest.mark.parametrize(
    ("experiment", "said"),
    [
        ({"learning": {"signal": "references"}}, "learning.signal: got references, but far is an endpoint"),
        ({"run": {"sampling": {"top_k": 5}}}, "run.sampling.top_k: got 5, which far, an endpoint, cannot be asked for"),
    ],
)
def test_what_no_endpoint_can_do_is_refused_in_mixed_pools_too(experiment: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        study(endpoint("http://x/v1"), OWN, **experiment)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"base_url": "x/v1"}, "base_url: needs an address that begins with http"),
        ({"base_url": "http://user:sk-sentinel@x/v1"}, "base_url: it holds a user, password or key"),
        ({"base_url": "http://x/v1?api_key=sk-sentinel"}, "base_url: it holds a user, password or key"),
        ({"api_key_env": "sk-sentinel"}, "api_key_env: needs the NAME of a variable"),
        ({"api_key": "sk-sentinel"}, "api_key: unknown key; did you mean api_key_env"),
        ({"extra_body": {"n": 2}}, "extra_body: got n, which haps_search decides itself"),
        ({"extra_body": {"max_tokens": 4096}}, "extra_body: got max_tokens, which haps_search decides itself"),
    ],
)
def test_no_secret_gets_into_a_study_nor_out_of_its_errors(changes: dict[str, Any], said: str) -> None:
    one = endpoint("http://x/v1")
    one["source"] |= changes
    with pytest.raises(ConfigError, match=said) as raised:
        study({"source": one["source"], "name": "far"}, routing=NONE)
    assert "sk-sentinel" not in str(raised.value)
    assert len(raised.value.problems) == 1


@pytest.mark.parametrize("key", ["dtype", "device", "trust_remote_code", "batch_rows", "activation_gb"])
def test_what_says_how_weights_are_held_is_no_endpoints(key: str) -> None:
    value: Any = {"dtype": "bfloat16", "device": "cpu", "trust_remote_code": True}.get(key, 4)
    with pytest.raises(ConfigError, match=f"{key}: an endpoint holds its model itself"):
        study({**endpoint("http://x/v1"), key: value}, routing=NONE)


def test_validate_says_where_questions_go_for_what_and_whether_the_key_is_here(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("FAR_KEY", raising=False)
    one = study(endpoint("http://x/v1", api_key_env="FAR_KEY", price={"read": 0.5, "written": 2}), routing=NONE)
    line = "far: stub at http://x/v1; 0.5 read, 2 written per million tokens; key in FAR_KEY"
    assert f"{line}, which is not set here" in str(validate(one))
    monkeypatch.setenv("FAR_KEY", "sk-sentinel")
    assert f"{line}\n" in f"{validate(one)}\n"
    assert "sk-sentinel" not in str(validate(one))


def test_explain_knows_the_keys() -> None:
    (found,) = explain("candidates.source.api_key_env")
    assert found.variant == "endpoint"
    assert "variable of the environment" in found.text


def test_twenty_workers_share_a_cpu_unless_the_profile_says_otherwise() -> None:
    profile = ClusterProfile(name="p", candidates={"named": Resources(cpus=2.0)}).with_endpoints(["far", "named"])
    assert 20 * profile.resources_of("far").cpus == pytest.approx(1.0)
    assert profile.resources_of("far").gpus == 0
    assert profile.resources_of("named").cpus == 2.0
    assert profile.resources_of("other") == profile.candidate


@pytest.mark.parametrize(
    ("profile", "source", "said"),
    [
        ({"candidates": {"far": {"gpus": 1}}}, {}, "is an endpoint and is given a GPU"),
        ({"replicas": {"far": 3}}, {"concurrency": 2}, "has 3 workers"),
        ({"leases": {"deadline_s": 60.0}}, {"timeout_s": 60.0}, "an answer may take 60 s"),
    ],
)
def test_a_profile_that_does_not_go_with_an_endpoint(profile: Any, source: Any, said: str) -> None:
    candidate, plain = configured("http://x/v1", **source), ClusterProfile(name="p").with_endpoints(["far"])
    assert endpoint_misfits([candidate], plain) == []
    described = ClusterProfile.model_validate({"name": "p", **profile}).with_endpoints(["far"])
    (problem,) = endpoint_misfits([candidate], described)
    assert said in problem
