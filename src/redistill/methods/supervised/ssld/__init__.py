"""SSLD: a backbone learns a large classifier's class distributions on labelled and mined images, and no label at all.

    L = (KL(p || m) + KL(q || m)) / 2,  m = (p + q) / 2,  p = softmax(z_S), q = softmax(z_T)        (Cui et al. 2021)

Roles: teacher (frozen, evaluation mode, sees the same augmented image), student (trained). Before: the pool is cleared
of copies of validation images and the teacher keeps its k surest images of each class
(``mining``). Training runs twice: long on mined and labelled images, then short, at a hundredth of
the rate, on the labelled ones, labels unread both times.

``match=Jeffreys()`` is what the released loss computes (a sum over batch and classes, divided by both: our mean over
rows, to rounding), so the released rates carry over to it; for small differences it is four times the Jensen-Shannon
divergence of the text. Differs from the paper: copies are found by the correlation of pixels, not by SIFT.
"""

from __future__ import annotations

from torch import nn

from redistill.core import UserError
from redistill.supervised.classifier import Distillation
from redistill.supervised.matches import JensenShannon, Match
from redistill.supervised.temperature import Constant


class Ssld(Distillation):
    """Label-free distillation at temperature 1; ``match`` may be any that reads no labels."""

    def __init__(self, student: nn.Module, teacher: nn.Module | None, *, match: Match | None = None) -> None:
        match = match or JensenShannon()
        if match.needs_label:
            raise UserError(f"{type(match).__name__} reads labels, which SSLD has none of", place="match")
        super().__init__(student, teacher, match=match, temperature=Constant(1.0), hard_weight=0.0, soft_weight=1.0)
