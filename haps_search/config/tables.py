"""How an outcome table of the user's is laid out, and what to do with what it lacks."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from haps_search.config.base import Config


class AutoLayout(Config):
    """Recognised by the names of its columns: any other layout but `wide`, which needs its columns named."""

    type: Literal["auto"] = "auto"


class LlmrouterLayout(Config):
    """LLMRouter's rows: id, task, split, query, ground_truth and `scores`, a mapping from model to score."""

    type: Literal["llmrouter"] = "llmrouter"
    prices: str | None = None
    """JSON: model to `input_price` and `output_price` per million tokens. null: `prices.json` beside the table, where
    there is one. The table has no token counts, so a model's cost is the mean of its two prices, per million tokens."""


class RouterbenchLayout(Config):
    """RouterBench's rows: id, task, split, query, `scores` and `cost`, each a mapping from model to number."""

    type: Literal["routerbench"] = "routerbench"


class WideLayout(Config):
    """One row per question, one column per model."""

    type: Literal["wide"] = "wide"
    id: str | None = "id"
    """null: questions are named by their line or row."""
    text: str = "text"
    task: str | None = None
    split: str | None = None
    scores: dict[str, str] = Field(min_length=1)
    """Model to the column of its scores."""
    costs: dict[str, str] = {}
    """Model to the column of its costs, where there are any."""

    @field_validator("costs")
    @classmethod
    def _of_known_models(cls, costs: dict[str, str], info: object) -> dict[str, str]:
        known = getattr(info, "data", {}).get("scores", {})
        unknown = sorted(set(costs) - set(known))
        if known and unknown:
            raise ValueError(f"got a cost for {', '.join(unknown)}, which `scores` does not name")
        return costs


class LongLayout(Config):
    """One row per question and model."""

    type: Literal["long"] = "long"
    id: str = "id"
    text: str = "text"
    task: str | None = None
    split: str | None = None
    model: str = "model"
    score: str = "score"
    cost: str | None = None


class CollectedLayout(Config):
    """What `haps collect` wrote."""

    type: Literal["collected"] = "collected"


Layout = Annotated[
    AutoLayout | LlmrouterLayout | RouterbenchLayout | WideLayout | LongLayout | CollectedLayout,
    Field(discriminator="type"),
]


class TableConfig(Config):
    """A file of outcomes: JSONL, CSV, TSV or Parquet, by its ending."""

    file: str
    """Relative to the working directory or absolute."""
    layout: Layout = AutoLayout()
    score_range: tuple[float, float] = (0.0, 1.0)
    """The worst and the best score there can be; rewards are scores rescaled to [0, 1]."""
    missing: Literal["error", "keep", "drop"] = "error"
    """A question without a score of some model: refuse the table, keep the gap, or drop the question; counted."""
    duplicate_ids: Literal["error", "first", "mean"] = "error"
    """An id that comes again (in a long table: with the same model): refuse the table, keep the first row, or take
    the rows as several samples of the same cells; counted."""

    @field_validator("score_range")
    @classmethod
    def _ordered(cls, value: tuple[float, float]) -> tuple[float, float]:
        if value[0] >= value[1]:
            raise ValueError(f"score_range: got {list(value)}, needs the worst score first and a better one after it")
        return value
