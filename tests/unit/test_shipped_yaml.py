"""Every YAML that ships is read by the code that will read it for a user."""

from pathlib import Path

import pytest
import yaml

from haps_search.config.load import load_profile, load_study
from haps_search.config.samplers import GridSampler
from haps_search.sweep.space import apply, describe, grid

ROOT = Path(__file__).resolve().parents[2]
STUDIES = sorted((ROOT / "search_spaces").rglob("*.yaml"))
PROFILES = sorted((ROOT / "clusters" / "profiles").rglob("*.yaml"))


def test_there_are_studies_and_profiles_to_read():
    assert STUDIES, "search_spaces/ holds no study"
    assert {"local-cpu", "gpu-per-candidate"} <= {p.stem for p in PROFILES}


@pytest.mark.parametrize("file", STUDIES, ids=lambda f: f.stem)
def test_a_study_is_valid_and_says_what_to_expect(file: Path):
    study = load_study(file)
    assert study.expected, f"{file.name} does not say the number to expect"
    assert len(describe(study.space)) >= len(study.space)
    assert apply(study.experiment, {}) == study.experiment
    if isinstance(study.sweep.sampler, GridSampler):
        assert all(apply(study.experiment, point) for point in grid(study.space))


@pytest.mark.parametrize("file", STUDIES, ids=lambda f: f.stem)
def test_a_study_names_a_profile_that_ships(file: Path):
    engine = load_study(file).experiment.engine
    if engine.type == "ray":
        assert load_profile(engine.profile).name == engine.profile


@pytest.mark.parametrize("file", PROFILES, ids=lambda f: f.stem)
def test_a_profile_is_valid_and_named_as_its_file(file: Path):
    profile = load_profile(file)
    assert profile.name == file.stem
    assert profile.description
    assert (profile.candidate.gpus > 0) == (file.stem != "local-cpu")


def test_no_other_yaml_hides_where_no_test_reads_it():
    shipped = {
        f
        for ext in ("yaml", "yml")
        for room in ("search_spaces", "clusters")
        for f in ROOT.joinpath(room).rglob(f"*.{ext}")
    }
    launchers = {f for f in shipped if "launchers" in f.parts}
    assert shipped - launchers == {*STUDIES, *PROFILES}
    for file in launchers:
        assert list(yaml.safe_load_all(file.read_text())), f"{file} is empty"
