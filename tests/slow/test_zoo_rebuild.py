"""Training the zoo again from seeds gives models with the same skills."""

from pathlib import Path

import pytest
import torch
from rich.console import Console

from haps_search.candidates.zoo import ZOO
from haps_search.candidates.zoo.exam import load, measure, measurement_questions
from haps_search.candidates.zoo.pretrain import rebuild
from haps_search.candidates.zoo.recipes import RECIPES


@pytest.mark.slow
@pytest.mark.parametrize("name", ZOO)
def test_rebuilding_gives_the_same_skills(name: str, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    rebuild((name,), tmp_path, seed=0, console=Console(quiet=True))
    measured = measure(*load(tmp_path / name), measurement_questions())
    skills = dict(measured.skills)
    assert skills.pop(RECIPES[name].skill) >= 0.95
    assert max(skills.values()) <= 0.10
    assert all(0.4 <= share <= 0.6 for share in measured.marked.values())
    assert abs(measured.marked["x"] - measured.marked["y"]) <= 0.05
