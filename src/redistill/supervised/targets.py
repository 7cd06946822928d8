"""Soft targets: the label and what a teacher said about the row, put together. Rivals differ by one line each."""

from __future__ import annotations

import math

from torch import Tensor, nn

from redistill.core import Progress, Slot, UserError


def one_hot(label: Tensor, like: Tensor) -> Tensor:
    """Labels [B] as probabilities [B, C] of the shape and type of ``like``."""
    return nn.functional.one_hot(label, like.shape[1]).to(like)


def mix(label: Tensor, teacher: Tensor, weight: Tensor | float) -> Tensor:
    """(1 - weight) onehot(label) + weight teacher: [B], [B, C] -> [B, C]; the rows sum to 1 for any weight."""
    return (1 - weight) * one_hot(label, teacher) + weight * teacher


class TargetRectifier(Slot):
    """Makes the target [B, C] of a classifier from labels [B] and a teacher's probabilities [B, C]. No gradient."""

    def __call__(self, label: Tensor, teacher: Tensor, now: Progress) -> Tensor:
        raise NotImplementedError


class OneHot(TargetRectifier):
    """The label alone: plain cross-entropy."""

    def __call__(self, label: Tensor, teacher: Tensor, now: Progress) -> Tensor:
        return mix(label, teacher, 0.0)


class LabelSmoothing(TargetRectifier):
    """The label and the uniform distribution: the teacher knows nothing (Szegedy et al. 2016)."""

    def __init__(self, smoothing: float = 0.1) -> None:
        self.smoothing = _share(smoothing, "smoothing")

    def __call__(self, label: Tensor, teacher: Tensor, now: Progress) -> Tensor:
        uniform = teacher.new_full(teacher.shape, 1 / teacher.shape[-1])
        return mix(label, uniform, self.smoothing)


class Fixed(TargetRectifier):
    """The label and the teacher with a constant weight."""

    def __init__(self, alpha: float = 0.8) -> None:
        self.alpha = _share(alpha, "alpha")

    def __call__(self, label: Tensor, teacher: Tensor, now: Progress) -> Tensor:
        return mix(label, teacher, self.alpha)


class Imitation(TargetRectifier):
    """The label and the teacher with any real weight ``xi``: above 1 the label counts against the student (Das and
    Sanghavi 2023). Targets may be negative; :func:`soft_cross_entropy` stays convex. Keep a weight decay above 0."""

    def __init__(self, xi: float = 1.0) -> None:
        if not math.isfinite(xi):
            raise UserError(f"xi={xi}; give a finite number", place="rectifier")
        self.xi = xi

    def __call__(self, label: Tensor, teacher: Tensor, now: Progress) -> Tensor:
        return mix(label, teacher, self.xi)


class Progressive(TargetRectifier):
    """The teacher's weight grows linearly with the epochs, up to ``alpha`` in the last one (Kim et al. 2021)."""

    def __init__(self, alpha: float = 0.8) -> None:
        self.alpha = _share(alpha, "alpha")

    def __call__(self, label: Tensor, teacher: Tensor, now: Progress) -> Tensor:
        return mix(label, teacher, self.alpha * (now.epoch + 1) / now.epochs)


def _share(value: float, name: str) -> float:
    if not 0 <= value <= 1:
        raise UserError(f"{name}={value}; give a number from 0 to 1", place="rectifier")
    return value
