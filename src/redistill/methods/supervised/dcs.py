"""DCS: a fine-tuned copy teaches a fresh copy of the same pre-trained model; rows on which they disagree gain weight.

    L = mean_i w_i n [(1 - a) CE(y_i, p_S) + a T^2 KL(p_T(.; T) || p_S(.; T))]_i,   sum_i w_i = 1
    d_i = 1[argmax p_S(x_i) != argmax p_T(x_i)],   epsilon = sum_i w_i d_i
    beta = eta [ln((1 - epsilon) / epsilon) + ln(K - 1)],   w_i <- w_i exp(beta d_i) / Z   after each pass over the data

(Dynamic Corrective Self-Distillation, arXiv 2312.07028.) Roles: student (trained, starts from the pre-trained weights,
not from the teacher), teacher (frozen: the same model after plain fine-tuning). The teacher is made by this class
without a teacher, ``hard_weight=1, soft_weight=0, weight=equal``. The weights are a plug-in
(``redistill.supervised.weights``): uniform self-distillation (``equal``) and boosting against the labels
(``discord="label"``) are DCS with another part.

Differs from the paper: only its idea could be read (more weight where student and teacher disagree). The rule is
SAMME's with the teacher in the place of the labels, beta at most 2, w_i clamped to 10 / n before the weights are
normalised once more, and eta = 0.3, because full steps pile the weight up on few rows. Nothing is boosted in the first
epoch, when a new head disagrees at random. The student answers for a row in evaluation mode just before the step that
uses it, not in one more pass at the end of the epoch: the same number of forward passes, answers half an epoch older on
average.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from redistill.core import Loss, Progress, UserError
from redistill.core.method import Batch
from redistill.core.types import Count, NonNegative
from redistill.supervised.classifier import Distillation
from redistill.supervised.matches import Match
from redistill.supervised.targets import TargetRectifier
from redistill.supervised.temperature import Constant, Temperature
from redistill.supervised.weights import Boosting, SampleWeight


class Dcs(Distillation):
    """Self-distillation whose rows are re-weighted where the student contradicts its teacher.

    ``teacher`` may be None when the rows hold ``teacher_logits`` [C], or when ``soft_weight`` is 0. Raises
    :class:`UserError` for weights that compare with a teacher where there is none.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module | None = None,
        *,
        rows: Count,  # size of the training set
        weight: SampleWeight | None = None,  # how much each row counts; boosting, eta 0.3, if left out
        weighted: Literal["both", "hard", "soft"] = "both",  # the terms that these weights multiply
        hard_weight: NonNegative = 0.5,  # 1 - a, weight of the labels
        soft_weight: NonNegative = 0.5,  # a, weight of the teacher
        match: Match | None = None,  # kd if left out
        temperature: Temperature | None = None,  # T; constant, 2, if left out
        rectifier: TargetRectifier | None = None,  # one_hot if left out
    ) -> None:
        if hard_weight == soft_weight == 0:
            raise UserError("hard_weight and soft_weight are both 0; give one above", place="dcs")
        super().__init__(
            student, teacher, match=match, temperature=temperature or Constant(2.0), rectifier=rectifier,
            hard_weight=hard_weight, soft_weight=soft_weight, weight=weight or Boosting(eta=0.3),
            weighted=weighted, rows=rows,
        )  # fmt: skip
        self._need(getattr(self.weight, "discord", None))

    def _need(self, discord: str | None) -> None:
        """Refuse at the start what boosting would only miss after the first epoch."""
        if discord in ("teacher", "either") and not self.taught:
            raise UserError("compares with a teacher; give models.teacher, or write weight: equal", place="weight")
        if discord in ("label", "either") and "label" not in self.needs:
            self.needs += ("label",)  # type: ignore[misc]

    def loss(self, turn: str, batch: Batch, now: Progress) -> Loss:
        """``hard``, ``soft``: the weighted terms; ``contradicts`` (watched): share of rows where the student's class
        is not the teacher's; ``heaviest`` (watched): the largest weight, 1 on average."""
        loss = super().loss(turn, batch, now)
        return Loss(loss.terms, gather=loss.gather, watch={**loss.watch, **self._signs(loss.gather)})

    def _signs(self, noticed: dict[str, Tensor]) -> dict[str, Tensor]:
        if self.table is None or "teacher" not in noticed:
            return {}
        differs = noticed["student"].argmax(1) != noticed["teacher"].argmax(1)
        return {"contradicts": differs.float().mean(), "heaviest": self.table[:, 0].max()}
