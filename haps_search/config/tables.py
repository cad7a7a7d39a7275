"""How an outcome table of the user's is laid out, and what to do with what it lacks."""

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from haps_search.config.base import Config


class AutoLayout(Config):
    """Recognised by the names of its columns; where it is not, the answer is a description that may be right."""

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


class NestedLayout(Config):
    """One row per question, with a mapping from model to score in it, and perhaps one to cost. Columns may be dotted
    paths, here and in the two layouts below."""

    type: Literal["nested"] = "nested"
    id: str | None = "id"
    """null: questions are named by their line or row."""
    text: str = "query"
    task: str | None = None
    split: str | None = None
    scores: str = "scores"
    costs: str | None = None
    reference: str | None = None


class WideLayout(Config):
    """One row per question, one column per model."""

    type: Literal["wide"] = "wide"
    id: str | None = "id"
    """null: questions are named by their line or row."""
    text: str = "text"
    listed: bool = False
    """The column of texts has lists as Python writes them, `['...']`, as RouterBench's CSV does: their items are the
    text, with blank lines between them."""
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
    id: str | None = "id"
    """null: rows of the same task and text are of one question."""
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
    AutoLayout | LlmrouterLayout | RouterbenchLayout | NestedLayout | WideLayout | LongLayout | CollectedLayout,
    Field(discriminator="type"),
]


class TablePart(Config):
    """One of several files that are a table together."""

    file: str
    task: str | None = None
    """The task of its questions, where no column says it."""
    split: str | None = None
    """Their split, where no column says it."""
    correct_above: float | None = None
    """As in the table, for this file alone."""


class TableConfig(Config):
    """Outcomes in one file or several: JSON, JSONL, CSV, TSV or Parquet, by the ending."""

    file: str = ""
    """Relative to the working directory or absolute."""
    parts: tuple[TablePart, ...] = ()
    """Instead of `file`, where tasks or splits have files of their own."""
    layout: Layout = AutoLayout()
    score_range: tuple[float, float] = (0.0, 1.0)
    """The worst and the best score there can be; rewards are scores rescaled to [0, 1]."""
    correct_above: float | None = None
    """Scores above it count as the best and others as the worst. RouterDC's multiple choice has the probability of the
    right option where it was chosen and 0 elsewhere, and is judged by `correct_above: 0`."""
    currency: str = ""
    """The sign that costs are written with, such as `$`; thousands may then have commas."""
    missing: Literal["error", "keep", "drop"] = "error"
    """A question without a score of some model: refuse the table, keep the gap, or drop the question; counted."""
    duplicate_ids: Literal["error", "first", "mean"] = "error"
    """An id that comes again (in a long table: with the same model): refuse the table, keep the first row, or take
    the rows as several samples of the same cells; counted."""

    @property
    def files(self) -> tuple[TablePart, ...]:
        """The table's files, one at least."""
        return self.parts or (TablePart(file=self.file),)

    @property
    def name(self) -> str:
        """What the table is called in messages."""
        more = f" and {len(self.parts) - 1} more" if len(self.parts) > 1 else ""
        return f"{self.files[0].file}{more}"

    @model_validator(mode="after")
    def _one_file_or_parts(self) -> Self:
        if bool(self.file) == bool(self.parts):
            got = "both" if self.file else "neither"
            raise ValueError(f"file: got {got} of `file` and `parts`, needs the table's file or its parts")
        return self

    @field_validator("score_range")
    @classmethod
    def _ordered(cls, value: tuple[float, float]) -> tuple[float, float]:
        return _in_order(value)


def _in_order(value: tuple[float, float]) -> tuple[float, float]:
    if value[0] >= value[1]:
        raise ValueError(f"score_range: got {list(value)}, needs the worst score first and a better one after it")
    return value


ESTIMATE = "estimate"


class LoggedColumns(Config):
    """What the columns of a log are called."""

    action: str = "action"
    """What was chosen."""
    reward: str = "reward"
    """What the choice earned, in `score_range`."""
    propensity: str = "propensity"
    """The probability with which it was chosen; `estimate` where nobody noted it: it is then fitted to the questions'
    features, and what follows is as good as that fit."""

    @property
    def estimated(self) -> bool:
        return self.propensity == ESTIMATE


class LogConfig(Config):
    """A log with one outcome per question, as production has it: JSON, JSONL, CSV, TSV or Parquet, by the ending."""

    file: str
    """Relative to the working directory or absolute."""
    text: str = "text"
    task: str | None = None
    logged: LoggedColumns = LoggedColumns()
    score_range: tuple[float, float] = (0.0, 1.0)
    """The worst and the best reward there can be; they are rescaled to [0, 1]."""
    floor: float = Field(default=0.02, gt=0, lt=1)
    """Estimated propensities below it are raised to it, and counted."""

    @field_validator("score_range")
    @classmethod
    def _ordered(cls, value: tuple[float, float]) -> tuple[float, float]:
        return _in_order(value)
