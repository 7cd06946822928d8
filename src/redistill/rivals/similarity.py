"""Similarity-preserving distillation: rows that look alike to a frozen teacher look alike to its student (Tung and Mori
2019).

    L = hard_weight CE + weight mean |unit(F_S F_S^T) - unit(F_T F_T^T)|^2,    unit: each row of the table of length 1

F are the flattened features of a batch's rows (arXiv 1907.09682). Roles: student (trained), teacher (frozen).
"""

from __future__ import annotations

from torch import Tensor

from redistill.core.types import NonNegative
from redistill.losses.relations import similarity_relation
from redistill.supervised.features import FeatureMatch


class SimilarityPreserving(FeatureMatch):
    """weight times the mean square of the difference of both tables of similarities of rows."""

    def __init__(self, weight: NonNegative = 3000.0) -> None:
        self.weight = weight

    def __call__(self, student: Tensor, teacher: Tensor) -> Tensor:
        return self.weight * similarity_relation(student.flatten(1), teacher.flatten(1))
