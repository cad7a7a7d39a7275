"""What processes of a sweep import, each seen in a process of its own."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch

from haps_search.candidates.frozen_lm import FrozenLM
from haps_search.config.candidates import CandidateConfig
from haps_search.records.checkpoint import CheckpointStore
from haps_search.records.sealed_tensors import SealedTensors
from haps_search.types import GivenCompletion, Message, SampleRequest, Sampling, ScoreRequest

LEFT_OUT = ("torch._dynamo.symbolic_convert", "scipy", "accelerate", "torch.distributed.tensor")
LOADED = """
import json, sys
from haps_search.config.candidates import CandidateConfig
from haps_search.engines.lean_imports import import_lean

config = CandidateConfig.model_validate(json.loads(sys.argv[1]))
import_lean(config)
from test_lean_processes import scored
import torch
parameter = torch.nn.Parameter(torch.ones(3))
parameter.grad = torch.ones(3)
torch.optim.AdamW([parameter]).step()
"""
ANSWER = f"""
print(json.dumps([[name for name in {LEFT_OUT!r} if name in sys.modules], scored(config)]))
"""
COMPILED = """
from torch._dynamo.utils import counters  # a part first
compiled = torch.compile(lambda x: torch.sin(x) + 1, backend="eager")
assert torch.equal(compiled(torch.ones(2)), torch.sin(torch.ones(2)) + 1)
assert torch._dynamo is sys.modules["torch._dynamo"] is sys.modules["torch._dynamo.utils"].torch._dynamo
import torch._dynamo.utils as utils
assert utils is sys.modules["torch._dynamo.utils"] and utils.counters is counters
print("compiled")
"""


def config(**changes: object) -> CandidateConfig:
    source = {"type": "zoo", "name": "adder"}
    return CandidateConfig.model_validate({"name": "adder", "source": source, "device": "cpu", **changes})


def scored(described: CandidateConfig) -> list[object]:
    """What a candidate draws, and every likelihood, to the last bit."""
    lm, asked = FrozenLM.load(described), (Message("user", "[x] 12 + 30 ="),)
    (drawn,) = lm.sample([SampleRequest(asked, Sampling(6, seed=3))])
    found = lm.score([ScoreRequest((GivenCompletion(asked, drawn.token_ids),), every=True)])
    score = found.completions[0][0]
    assert score is not None
    return [drawn.text, list(drawn.token_ids), [p.hex() for p in score.log_probabilities]]


def printed(code: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=__file__.rpartition("/")[0], capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


def test_a_trial_s_process_imports_no_torch() -> None:
    heavy = {"torch", "transformers", "sklearn", "scipy", "mlflow", "optuna", "matplotlib"}
    assert printed(f"import sys, haps_search.engines.cluster.trial\nprint({heavy!r} & set(sys.modules))") == "set()"


def test_a_checkpoint_passes_through_a_trial_that_has_no_torch() -> None:
    tensors = {"router.w": torch.arange(6.0).reshape(2, 3), "half": torch.ones(2, dtype=torch.bfloat16)}
    sealed = SealedTensors.of(tensors)
    code = """
import pickle, sys
from pathlib import Path
from haps_search.records.checkpoint import CheckpointStore
from haps_search.types import Snapshot
tensors = pickle.loads(bytes.fromhex(sys.argv[1]))
store = CheckpointStore(Path(sys.argv[2]), {"a": 1})
store.save(3, Snapshot(tensors, {"version": 3}, tensors), {"step": 3}, best=True)
found = store.latest().snapshot
print(sorted(found.tensors), len(found.fitted), bool(found.fitted), "torch" in sys.modules)
"""
    with tempfile.TemporaryDirectory() as folder:
        assert printed(code, pickle.dumps(sealed).hex(), folder) == "['half', 'router.w'] 2 True False"
        found = CheckpointStore(Path(folder), {"a": 1}).latest()
        assert found is not None
        assert all(torch.equal(found.snapshot.tensors[name], tensor) for name, tensor in tensors.items())


def test_a_driver_imports_what_it_draws_and_learns_with_when_it_does() -> None:
    heavy = {"torch", "transformers", "sklearn", "matplotlib", "scipy.stats"}
    assert printed(f"import sys, haps_search.verbs.sweep\nprint({heavy!r} & set(sys.modules))") == "set()"


def test_a_lean_process_leaves_the_compiler_out_and_computes_the_same() -> None:
    there, answer = json.loads(printed(LOADED + ANSWER, config().model_dump_json()))
    assert there == []
    assert answer == scored(config())


@pytest.mark.slow
def test_who_compiles_gets_the_whole_compiler() -> None:
    assert printed(LOADED + COMPILED, config().model_dump_json()) == "compiled"


@pytest.mark.slow
def test_with_versions_that_were_not_tried_everything_is_imported() -> None:
    before, _, after = LOADED.partition("import_lean(config)")
    untried = "import haps_search.engines.lean_imports as lean\nlean.TRIED = {'torch': '1.0.'}\n"
    code = before + untried + "import_lean(config)" + after.partition("from test_lean")[0]
    assert printed(code + 'print("torch" in sys.modules)', config().model_dump_json()) == "False"


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{"trust_remote_code": True}, {"device": "balanced"}])
def test_other_people_s_code_and_several_devices_get_all_there_is(changes: dict[str, object]) -> None:
    described = config(**changes).model_dump_json()
    code = LOADED.partition("from test_lean")[0] + 'print("torch" in sys.modules)'
    assert printed(code, described) == "False"
