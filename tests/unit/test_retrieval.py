"""Searching a question's own passages, by words and by a sentence encoder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from haps_search.config.hotpotqa import EncoderRetrieval, TfidfRetrieval
from haps_search.errors import ConfigError
from haps_search.tasks import retrieval
from haps_search.tasks.passages import Passage, Passages, Score
from haps_search.tasks.retrieval import Retriever

PASSAGES = (
    Passage("Kaal", "The Kaal district lies on the river Dane. It is a quiet place."),
    Passage("Dane", "The Dane is a river. The Dane flows north to the sea."),
    Passage("Ida Corvin", "A surveyor who mapped the Velm Range."),
    Passage("Tomas Beld", "A writer who kept bees."),
)


def titles(found: Passages) -> list[str]:
    return [passage.title for passage in found]


def test_rare_words_decide_and_passages_without_a_shared_word_are_not_found() -> None:
    retriever = Retriever(TfidfRetrieval())
    assert titles(retriever.search(PASSAGES, "Which river is the Dane?", 3)) == ["Dane", "Kaal"]
    assert titles(retriever.search(PASSAGES, "Which river is the Dane?", 1)) == ["Dane"]
    assert titles(retriever.search(PASSAGES, "CORVIN", 3)) == ["Ida Corvin"]
    assert retriever.search(PASSAGES, "the of a", 3) == ()


def test_equal_scores_keep_the_order_of_the_context() -> None:
    twins = (Passage("z", "owl"), Passage("b", "owl"), Passage("c", "cat"))
    assert titles(Retriever(TfidfRetrieval()).search(twins, "owl", 2)) == ["z", "b"]


@pytest.mark.parametrize("passages", [(), (Passage("", "..."), Passage("the", "of a"))])
def test_passages_without_words_find_nothing(passages: Passages) -> None:
    assert Retriever(TfidfRetrieval()).search(passages, "owl", 2) == ()


def test_a_repeated_query_is_not_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[Passages] = []
    asked: list[str] = []

    def counting(passages: Passages) -> Score:
        built.append(passages)

        def score(query: str) -> Sequence[float]:
            asked.append(query)
            return [1.0] * len(passages)

        return score

    monkeypatch.setattr(retrieval, "tfidf_index", counting)
    retriever = Retriever(TfidfRetrieval())
    for query in ("owl", "cat", "owl"):
        retriever.search(PASSAGES, query, 1)
    retriever.search(PASSAGES[:2], "owl", 1)
    assert built == [PASSAGES, PASSAGES[:2]]
    assert asked == ["owl", "cat", "owl"]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BERT over characters, saved as a folder."""
    from transformers import BertConfig, BertModel

    from haps_search.candidates.zoo.recipes import build_tokenizer

    folder = tmp_path_factory.mktemp("encoder")
    tokenizer = build_tokenizer()
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=64, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = BertModel(config, add_pooling_layer=False)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def by_encoder(folder: Path | str, pooling: str = "mean") -> Retriever:
    described = {"source": {"type": "path", "path": str(folder)}, "device": "cpu", "pooling": pooling}
    return Retriever(EncoderRetrieval.model_validate(described))


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_the_encoder_ranks_by_the_cosine_of_pooled_states(encoder: Path, pooling: str) -> None:
    """Against embeddings made one text at a time, without padding or truncation code of ours."""
    from transformers import AutoTokenizer, BertModel

    model = BertModel.from_pretrained(encoder, add_pooling_layer=False).eval()
    tokenizer = AutoTokenizer.from_pretrained(encoder)

    def embedded(text: str) -> torch.Tensor:
        with torch.no_grad():
            states = model(input_ids=torch.tensor([tokenizer(text)["input_ids"][:64]])).last_hidden_state[0]
        return states.mean(0) if pooling == "mean" else states[0]

    query = "who mapped the Velm Range?"
    wanted = [float(torch.cosine_similarity(embedded(p.whole), embedded(query), dim=0)) for p in PASSAGES]
    retriever = by_encoder(encoder, pooling)
    scores = retriever._scores(PASSAGES)(query)
    assert scores == pytest.approx(wanted, abs=1e-5)
    assert len(set(scores)) == len(scores)
    best = max(range(len(PASSAGES)), key=lambda i: wanted[i])
    assert retriever.search(PASSAGES, query, 1) == (PASSAGES[best],)
    assert len(retriever.search(PASSAGES, query, 9)) == len(PASSAGES)


def test_without_passages_the_encoder_finds_nothing(encoder: Path) -> None:
    assert by_encoder(encoder).search((), "owl", 2) == ()


def test_an_encoder_that_cannot_be_had_is_a_configuration_error(encoder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"task\.retrieval\.source: .*nowhere.*save_pretrained.*tfidf"):
        by_encoder(tmp_path / "nowhere").load()
    described = {"source": {"type": "path", "path": str(encoder)}, "device": "gpu9"}
    with pytest.raises(ConfigError, match=r"task\.retrieval\.device: got `gpu9`"):
        Retriever(EncoderRetrieval.model_validate(described)).load()


def test_an_incomplete_encoder_is_refused_and_not_filled_at_random(encoder: Path, tmp_path: Path) -> None:
    import shutil

    from safetensors.torch import load_file, save_file

    broken = tmp_path / "broken"
    shutil.copytree(encoder, broken)
    weights = load_file(broken / "model.safetensors")
    gone = next(name for name in weights if "layer.1" in name)
    save_file({n: w for n, w in weights.items() if n != gone}, broken / "model.safetensors", {"format": "pt"})
    with pytest.raises(ConfigError, match=rf"lacks 1 weights \({gone}\)"):
        by_encoder(broken).load()
