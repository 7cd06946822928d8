"""Distillation on pruned data: a teacher that saw all the rows teaches a student on the few that are kept.

    L = (1 - alpha) CE(z_S, y) + alpha tau^2 KL(softmax(z_T / tau) || softmax(z_S / tau)),   rows of a fraction f

(Ben-Baruch et al. 2025, arXiv 2403.07854.) Roles: student (trained, on the kept rows,
which any score may have chosen, see ``pruning``), teacher (frozen, trained on all rows). Training
takes as many steps for every f; equal epochs would starve the small fractions.

The weight alpha is near 1/2 when everything is kept and near 1 when little is. The default is alpha = 1 - f / 2;
:func:`choose_alpha` looks at a validation set instead.

Differs from the paper: tau = 4 and the rule 1 - f / 2 are ours, the paper gives only the trend. Rows come as the data
source gives them, without augmentation unless it makes some; both networks see the same. The ridge theory is in
``pruned_ridge``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from torch import nn

from redistill.core import UserError
from redistill.core.types import Positive, PositiveShare, Share, checked
from redistill.supervised.classifier import Distillation
from redistill.supervised.matches import Kd
from redistill.supervised.temperature import Constant

ALPHAS = (0.0, 0.25, 0.5, 0.75, 0.9, 1.0)


@checked
def alpha_for(fraction: PositiveShare) -> float:
    """The weight of the teacher when ``fraction`` of the rows is kept: 1 - f / 2."""
    return 1 - fraction / 2


def choose_alpha(score: Callable[[float], float], grid: Sequence[float] = ALPHAS) -> float:
    """The weight of highest ``score(alpha)``: train with alpha, measure on validation rows that are neither pruned nor
    tested on. Of equals the lowest; one whose score is NaN is out. Raises :class:`UserError` when none is left."""
    scores = {alpha: value for alpha in grid if not math.isnan(value := score(alpha))}
    if not scores:
        raise UserError(f"no alpha of {list(grid)} has a score", place="alpha")
    return max(scores, key=scores.__getitem__)


class PrunedDataKd(Distillation):
    """A classifier on kept rows, taught by labels and a full-data teacher.

    ``teacher`` may be None when the rows hold ``teacher_logits`` [C]. With ``alpha=1`` rows need no labels, with
    ``alpha=0`` the teacher says nothing.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module | None,
        *,
        fraction: PositiveShare = 1.0,  # f, the kept share
        alpha: Share | None = None,  # the teacher's weight; 1 - f / 2 if left out
        tau: Positive = 4.0,
    ) -> None:
        weight = alpha_for(fraction) if alpha is None else alpha
        super().__init__(
            student, teacher, match=Kd(), temperature=Constant(tau), hard_weight=1 - weight, soft_weight=weight
        )
        self.alpha = weight
