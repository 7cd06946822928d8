"""RKD: the rows of a batch lie to each other in a student as in a frozen teacher (Park, Kim, Lu and Cho 2019).

    L = hard_weight CE + distance RKD-D(f_S, f_T) + angle RKD-A(f_S, f_T)        (arXiv 1904.05068)

RKD-D compares the distances of all pairs of rows, divided by their mean, RKD-A the angles of all triples, both by
Huber's loss; f are pooled features, of any width. Roles: student (trained), teacher (frozen).
"""

from __future__ import annotations

from torch import Tensor

from redistill.core.types import NonNegative
from redistill.losses.relations import angle_relation, distance_relation
from redistill.supervised.features import FeatureMatch
from redistill.supervised.layers import pooled


class Relational(FeatureMatch):
    """distance RKD-D + angle RKD-A among the rows' pooled features."""

    def __init__(self, distance: NonNegative = 25.0, angle: NonNegative = 50.0) -> None:
        self.distance, self.angle = distance, angle

    def __call__(self, student: Tensor, teacher: Tensor) -> Tensor:
        s, t = pooled(student), pooled(teacher)
        return self.distance * distance_relation(s, t) + self.angle * angle_relation(s, t)
