"""What the samplers suggest after a fixed journal of the embedded study, compared with what was written down.

`tpe, stopped trials complete` and `random` were recorded with the code before samplers had their options named.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from recorded import NUMBERS, embedded, journal, recorded
from sweeps import a_study, a_trial

from haps_search.errors import ConfigError
from haps_search.sweep import suggestions
from haps_search.sweep.suggestions import check_sampler, suggestion

RECORDED = recorded()


@pytest.mark.parametrize("name", list(RECORDED))
def test_the_same_journal_gives_the_suggestion_that_was_recorded(name: str) -> None:
    study = embedded(sampler=RECORDED[name]["sampler"])
    for number, expected in zip(NUMBERS, RECORDED[name]["next"], strict=True):
        found = suggestion(study, journal(), number)
        assert found == {k: pytest.approx(v, rel=1e-6) if isinstance(v, float) else v for k, v in expected.items()}


def test_how_a_stopped_trial_is_told_decides_what_comes_next() -> None:
    assert RECORDED["tpe"]["next"] != RECORDED["tpe, stopped trials complete"]["next"]


RATES = {name: {"type": "float", "low": 0.0, "high": 1.0} for name in ("learning.entropy_bonus", "learning.kl_weight")}
ONE, TWO = RATES


def valley(parameters: dict[str, Any]) -> float:
    """Best at (0.2, 0.7)."""
    return -((parameters[ONE] - 0.2) ** 2) - (parameters[TWO] - 0.7) ** 2


def test_cmaes_learns_although_it_is_built_anew_each_time() -> None:
    """It keeps its mean in Optuna's trials, which a journal does not have: rebuilt carelessly it would draw from its
    first generation for ever."""
    study = a_study(RATES, sampler={"type": "cmaes", "population": 6})
    trials = []
    for number in range(36):
        parameters = suggestion(study, trials, number)
        assert parameters is not None
        trials.append(a_trial(number, valley(parameters), parameters=parameters))
    late, early = trials[-6:], trials[:6]
    mean = {name: sum(valley(dict(t.parameters)) for t in part) / 6 for name, part in (("l", late), ("e", early))}
    assert mean["l"] > mean["e"] / 4


def test_cmaes_learns_nothing_of_trials_that_run() -> None:
    study = embedded(sampler={"type": "cmaes"})
    trials = journal()
    running = [*trials[:-1], replace(trials[-1], reports=())]
    assert suggestion(study, running, 12) == suggestion(study, trials, 12)


def test_a_sampler_without_its_library_is_refused_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suggestions, "find_spec", lambda name: None)
    check_sampler(a_study(RATES))
    with pytest.raises(ConfigError, match=r"pip install 'haps-search\[cmaes\]'"):
        check_sampler(a_study(RATES, sampler={"type": "cmaes"}))
