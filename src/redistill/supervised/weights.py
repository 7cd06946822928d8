"""How much each training row counts. The mean weight is 1, so that a learning rate keeps its meaning."""

from __future__ import annotations

from torch import Tensor

from redistill.core import Progress, Slot


class SampleWeight(Slot):
    """Weights [B] of the rows, without gradient, from both logits [B, C], labels [B] and row numbers [B]."""

    def __call__(self, student: Tensor, teacher: Tensor, label: Tensor, index: Tensor, now: Progress) -> Tensor:
        raise NotImplementedError


class Equal(SampleWeight):
    """Every row counts once."""

    def __call__(self, student: Tensor, teacher: Tensor, label: Tensor, index: Tensor, now: Progress) -> Tensor:
        return student.new_ones(len(student))
