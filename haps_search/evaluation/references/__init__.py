"""What a router must beat on an outcome table: one reference per file, a table from its type to its class."""

from __future__ import annotations

from collections.abc import Callable

from haps_search.evaluation.references.best_per_task import BestPerTask
from haps_search.evaluation.references.best_single import BestSingle
from haps_search.evaluation.references.cheapest import Cheapest
from haps_search.evaluation.references.gbdt import Gbdt
from haps_search.evaluation.references.knn import Knn
from haps_search.evaluation.references.labelled import Labelled, Reference, Unlabelled
from haps_search.evaluation.references.matrix_factorisation import MatrixFactorisation
from haps_search.evaluation.references.mlp import Mlp
from haps_search.evaluation.references.per_query_oracle import PerQueryOracle
from haps_search.evaluation.references.random import Random
from haps_search.evaluation.references.ridge import Ridge

REFERENCES: dict[str, Callable[..., Reference]] = {
    "random": Random,
    "best_single": BestSingle,
    "cheapest": Cheapest,
    "best_per_task": BestPerTask,
    "knn": Knn,
    "ridge": Ridge,
    "mlp": Mlp,
    "matrix_factorisation": MatrixFactorisation,
    "gbdt": Gbdt,
    "per_query_oracle": PerQueryOracle,
}

__all__ = ["REFERENCES", "Labelled", "Reference", "Unlabelled"]
