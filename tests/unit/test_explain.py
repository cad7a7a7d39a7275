"""`haps explain`: every key that a study or a profile has is found, and says what may stand there."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from haps_search.cli.main import app
from haps_search.config.engines import ClusterProfile
from haps_search.config.schema import paths
from haps_search.config.sweep import Study
from haps_search.errors import ConfigError
from haps_search.verbs.explain import explain


def test_every_key_is_found_and_has_a_kind() -> None:
    everything = [path for root in (Study, ClusterProfile) for path in paths((root,))]
    assert len(everything) > 250
    for path in everything:
        assert all(found.kind for found in explain(path)), path


def test_a_key_says_what_it_means_in_each_variant_that_has_it() -> None:
    (weight,) = explain("learning.kl_weight")
    assert (weight.path, weight.kind, weight.default) == ("experiment.learning.kl_weight", "float", "0.0")
    assert "KL(adapted || frozen candidate)" in weight.text
    assert {found.variant for found in explain("sweep.sampler.startup_trials")} == {"tpe", "gp", "cmaes"}
    assert [name for name, _ in explain("sweep.scheduler")[0].below] == ["type: asha", "type: none"]
    assert explain("candidates.0.activation_gb") == explain("candidates.activation_gb")
    assert explain("task.limit.train") == [*explain("task.limit")], "a fixed key of a mapping is its mapping's"


def test_the_command_line_shows_it_and_answers_a_typo() -> None:
    shown = CliRunner().invoke(app, ["explain", "learning.kl_weight"]).output
    assert "takes    float" in shown
    assert "default  0.0" in shown
    with pytest.raises(ConfigError, match=r"did you mean learning\.kl_weight\?"):
        explain("learning.kl_wieght")
