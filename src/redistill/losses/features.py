"""How far a student's feature is from a teacher's: one number [B] a row. Teachers carry no gradient.

Features are maps [B, C, H, W], tokens [B, T, D] or vectors [B, D]. Where widths differ an adapter comes before
(``redistill.supervised.features``).
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, normalize

from redistill.core.errors import UserError
from redistill.losses.precision import in_float32


@in_float32
def hint(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over all entries of a row of (F_S - F_T)^2 (FitNets, Romero et al. 2015, equation 3)."""
    student, teacher = same_size(student, teacher)
    return (student - teacher).square().flatten(1).mean(1)


@in_float32
def attention(feature: Tensor, power: float = 2.0) -> Tensor:
    """Where a map or a sequence is active: mean over channels of |F|^power, as a vector [B, places] of length 1."""
    if feature.ndim not in (3, 4):
        raise UserError(
            f"attention needs maps [B, C, H, W] or tokens [B, T, D], not {feature.ndim} axes", place="layers"
        )
    strength = feature.abs().pow(power).mean(1 if feature.ndim == 4 else 2)  # [B, H, W] or [B, T]
    return normalize(strength.flatten(1), dim=1)


@in_float32
def attention_transfer(student: Tensor, teacher: Tensor, power: float = 2.0) -> Tensor:
    """Mean over the places of (g(F_S) - g(F_T))^2, g = :func:`attention` (Zagoruyko and Komodakis 2017, equation 2).

    Channels may differ in number; the larger map is averaged down to the smaller.
    """
    student, teacher = same_size(student, teacher)
    return (attention(student, power) - attention(teacher, power)).square().mean(1)


def same_size(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Both maps at the smaller height and width; anything but two maps stays as it is. Refuses two sequences of
    unequal length."""
    check_tokens(a.shape[1:], b.shape[1:])
    if a.ndim != 4 or b.ndim != 4:
        return a, b
    size = min(a.shape[2], b.shape[2]), min(a.shape[3], b.shape[3])
    return _averaged(a, size), _averaged(b, size)


def check_tokens(student: Sequence[int], teacher: Sequence[int]) -> None:
    """Refuse two sequences (shapes [T, D] of a row) of unequal length: which token answers which is unknown."""
    if len(student) == len(teacher) == 2 and student[0] != teacher[0]:
        raise UserError(f"{student[0]} tokens of the student, {teacher[0]} of the teacher; name other layers",
                        place="layers")  # fmt: skip


def _averaged(feature: Tensor, size: tuple[int, int]) -> Tensor:
    return feature if tuple(feature.shape[2:]) == size else adaptive_avg_pool2d(feature, size)
