"""Temperatures by which logits are divided before a softmax."""

from __future__ import annotations

import math

from torch import Tensor

from redistill.core import Progress, Slot, UserError


class Temperature(Slot):
    """The temperature of this moment: a number, or a tensor that broadcasts against logits [B, C]."""

    def __call__(self, student: Tensor, teacher: Tensor, now: Progress) -> Tensor | float:
        """From both logits [B, C] (a learned temperature may look at them)."""
        raise NotImplementedError


class Constant(Temperature):
    """One temperature throughout."""

    def __init__(self, tau: float = 1.0) -> None:
        self.tau = _positive(tau)

    def __call__(self, student: Tensor, teacher: Tensor, now: Progress) -> float:
        return self.tau


class Cosine(Temperature):
    """From ``start`` to ``end`` along half a cosine over the run."""

    def __init__(self, start: float = 2.5, end: float = 2.0) -> None:
        self.start, self.end = _positive(start), _positive(end)

    def __call__(self, student: Tensor, teacher: Tensor, now: Progress) -> float:
        return self.end + 0.5 * (self.start - self.end) * (1 + math.cos(math.pi * now.fraction))


def _positive(tau: float) -> float:
    if not tau > 0:
        raise UserError(f"tau={tau}; give a number above 0", place="temperature")
    return tau
