"""FitNets: a student's middle layer imitates one of a frozen teacher through an adapter (Romero et al. 2015).

    L = hard_weight CE + weight mean |r(F_S) - F_T|^2        (arXiv 1412.6550)

Roles: student and the adapter r (trained), teacher (frozen). The adapter is not exported.

Differs from the paper: the hint is a term beside the labels, not a stage of training before them (``hard_weight=0``
alone is that stage).
"""

from __future__ import annotations

from torch import Tensor, nn

from redistill.core.types import NonNegative
from redistill.losses.features import check_tokens, hint
from redistill.supervised.features import FeatureMatch, Shape
from redistill.supervised.layers import pooled, width


class Hint(FeatureMatch):
    """weight times the mean square of r(F_S) - F_T, r a 1x1 convolution with batch norm and ReLU.

    A map against a vector is averaged first; vectors and tokens, equally many, have a linear r.
    """

    def __init__(
        self,
        weight: NonNegative = 100.0,
        relu: bool = True,  # false for a teacher's maps that can be negative
    ) -> None:
        self.weight, self.relu = weight, relu

    def adapter(self, student: Shape, teacher: Shape) -> nn.Module:
        if len(student) == len(teacher) == 3:
            r = [nn.Conv2d(student[0], teacher[0], 1, bias=False), nn.BatchNorm2d(teacher[0])]
            return nn.Sequential(*r, nn.ReLU()) if self.relu else nn.Sequential(*r)
        check_tokens(student, teacher)
        linear = nn.Linear(width(student), width(teacher))
        return linear if len(student) == len(teacher) else nn.Sequential(_Pooled(), linear)

    def __call__(self, student: Tensor, teacher: Tensor) -> Tensor:
        return self.weight * hint(student, teacher if student.ndim == teacher.ndim else pooled(teacher))


class _Pooled(nn.Module):
    def forward(self, feature: Tensor) -> Tensor:
        return pooled(feature)
