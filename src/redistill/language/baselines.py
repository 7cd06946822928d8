"""What on-policy self-distillation is measured against: learning from completions that somebody else wrote."""

from __future__ import annotations

from typing import Any

from redistill.core import Loss, Method, Progress, Snapshot
from redistill.language.contexts import completion_scores, context_scores
from redistill.language.tokens import laid_out, log_prob_of
from redistill.losses.divergences import Divergence, ForwardKL, reduce
from redistill.models.transformers import CausalLm


class SupervisedFineTuning(Method):
    """Cross-entropy on given completions: demonstrations, or samples of a teacher."""

    needs = ("prompt", "prompt_mask", "completion", "completion_mask")

    def __init__(self, student: CausalLm) -> None:
        super().__init__()
        self.student = student

    def loss(self, turn: str, batch: dict[str, Any], now: Progress) -> Loss:
        active = batch["completion_mask"]
        scores = completion_scores(self.student, batch["prompt"], batch["prompt_mask"], batch["completion"], active)
        logp = log_prob_of(scores, batch["completion"][active.bool()])  # [N]
        return Loss({"cross_entropy": -reduce(logp)}, weight=active.sum())


class OfflineContextDistillation(Method):
    """Divergence from the frozen start model with its context, on given completions (samples of that teacher): same
    teacher and same mean over answers as on-policy self-distillation, other samples.
    """

    needs = ("prompt", "prompt_mask", "context", "context_mask", "completion", "completion_mask")

    def __init__(self, student: CausalLm, *, divergence: Divergence | None = None) -> None:
        super().__init__()
        self.student = student
        self.teacher = Snapshot(student)
        self.divergence = divergence or ForwardKL()

    def loss(self, turn: str, batch: dict[str, Any], now: Progress) -> Loss:
        active = batch["completion_mask"]
        student, teacher = context_scores(self.student, self.teacher, batch, active)
        values = laid_out(self.divergence(student, teacher), active)  # [B, T]
        return Loss({"divergence": reduce(values, active, how="sequence_mean")}, weight=active.any(1).sum())
