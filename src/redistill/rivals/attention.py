"""Attention transfer: a student looks where a frozen teacher looks (Zagoruyko and Komodakis 2017).

    L = hard_weight CE + sum over stages of weight mean |Q_S / |Q_S| - Q_T / |Q_T||^2,
    Q = sum over channels of |F|^power        (arXiv 1612.03928)

Roles: student (trained), teacher (frozen); nothing trains beside the student.
"""

from __future__ import annotations

from torch import Tensor, nn

from redistill.core import UserError
from redistill.core.types import NonNegative, Positive
from redistill.losses.features import attention_transfer, check_tokens
from redistill.supervised.features import FeatureMatch, Shape


class Attention(FeatureMatch):
    """weight times the mean square of the difference of both attention maps."""

    def __init__(
        self,
        weight: NonNegative = 1000.0,
        power: Positive = 2.0,  # of the activations that a map sums
    ) -> None:
        self.weight, self.power = weight, power

    def adapter(self, student: Shape, teacher: Shape) -> nn.Module:
        """None; refuses vectors, maps against tokens, and tokens of unequal number."""
        if len(student) != len(teacher) or len(student) == 1:
            raise UserError(
                f"attention needs two maps or two sequences, not features of shape {tuple(student)} and "
                f"{tuple(teacher)}; name other layers", place="layers",
            )  # fmt: skip
        check_tokens(student, teacher)
        return nn.Identity()

    def __call__(self, student: Tensor, teacher: Tensor) -> Tensor:
        return self.weight * attention_transfer(student, teacher, self.power)
