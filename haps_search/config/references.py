"""What a router is compared with on an outcome table, and the grid in which each reference is tuned."""

from itertools import product
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from haps_search.config.base import Config


class ReferenceConfig(Config):
    """A reference and its grid: every field but `type` lists the values to try."""

    type: str

    def points(self) -> tuple[dict[str, Any], ...]:
        """All settings of the grid, in the order of the file; one empty setting where there is nothing to tune."""
        names = [name for name in type(self).model_fields if name != "type"]
        return tuple(dict(zip(names, values, strict=True)) for values in product(*(getattr(self, n) for n in names)))


def _grid(*values: Any) -> Any:
    return Field(default=values, min_length=1)


class RandomReference(ReferenceConfig):
    """Every assignment equally often, as an expectation."""

    type: Literal["random"] = "random"


class BestSingleReference(ReferenceConfig):
    """The one assignment that earned most in training."""

    type: Literal["best_single"] = "best_single"


class CheapestReference(ReferenceConfig):
    """The one assignment that cost least in training; needs costs."""

    type: Literal["cheapest"] = "cheapest"


class BestPerTaskReference(ReferenceConfig):
    """Per task the assignment that earned most on it in training: all that the task's name can tell."""

    type: Literal["best_per_task"] = "best_per_task"


class KnnReference(ReferenceConfig):
    """The mean reward of the nearest training questions, by cosine."""

    type: Literal["knn"] = "knn"
    neighbours: tuple[PositiveInt, ...] = _grid(10, 20, 40, 80, 160)


class RidgeReference(ReferenceConfig):
    """Rewards linear in the features, L2-regularised."""

    type: Literal["ridge"] = "ridge"
    alpha: tuple[PositiveFloat, ...] = _grid(0.1, 1.0, 10.0, 100.0)


class MlpReference(ReferenceConfig):
    """One hidden layer."""

    type: Literal["mlp"] = "mlp"
    hidden: tuple[PositiveInt, ...] = _grid(64)
    alpha: tuple[NonNegativeFloat, ...] = _grid(0.1, 1.0)
    epochs: tuple[PositiveInt, ...] = _grid(20, 40)


class MatrixFactorisationReference(ReferenceConfig):
    """RouteLLM's bilinear score of a question and an assignment."""

    type: Literal["matrix_factorisation"] = "matrix_factorisation"
    dimensions: tuple[PositiveInt, ...] = _grid(32)
    weight_decay: tuple[NonNegativeFloat, ...] = _grid(0.1, 1.0)
    steps: tuple[PositiveInt, ...] = _grid(100)


class GbdtReference(ReferenceConfig):
    """Gradient-boosted trees per assignment, on the first principal components of the features."""

    type: Literal["gbdt"] = "gbdt"
    components: tuple[PositiveInt, ...] = _grid(32)
    leaves: tuple[Annotated[int, Field(ge=2)], ...] = _grid(4, 8)
    iterations: tuple[PositiveInt, ...] = _grid(60)


class PerQueryOracleReference(ReferenceConfig):
    """Per question the assignment that earned most on it. It reads the answers: no router can reach it."""

    type: Literal["per_query_oracle"] = "per_query_oracle"


Reference = Annotated[
    RandomReference
    | BestSingleReference
    | CheapestReference
    | BestPerTaskReference
    | KnnReference
    | RidgeReference
    | MlpReference
    | MatrixFactorisationReference
    | GbdtReference
    | PerQueryOracleReference,
    Field(discriminator="type"),
]


class ReferencesConfig(Config):
    """The references of a comparison."""

    folds: int = Field(default=5, ge=2)
    """Each reference's settings are chosen by so many validation folds inside the training questions."""
    compared: tuple[Reference, ...] | None = Field(default=None, min_length=1)
    """null: all of them with their default grids, `cheapest` where costs are known."""

    def chosen(self, with_costs: bool) -> tuple[Reference, ...]:
        """What is compared, in the order it is read."""
        if self.compared is not None:
            return self.compared
        cheapest: tuple[Reference, ...] = (CheapestReference(),) if with_costs else ()
        return (
            RandomReference(), *cheapest, BestSingleReference(), BestPerTaskReference(), KnnReference(),
            RidgeReference(), MlpReference(), MatrixFactorisationReference(), GbdtReference(),
            PerQueryOracleReference(),
        )  # fmt: skip
