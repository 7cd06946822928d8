"""Context distillation: a model learns to answer without a context as it did with one (Askell et al. 2021; Snell, Klein
and Zhong 2022).

    L = mean over answers of mean over tokens of D(p(y_t | context, y_<t), q(y_t | prompt, y_<t))

(arXiv 2112.00861, 2209.15189.) Roles: student (trained), the start model with its context (frozen). On given
completions, as a rule samples of that teacher: ``sdft`` has the same teacher and mean on the student's own.
"""

from __future__ import annotations

from typing import Any

from redistill.core import Loss, Method, Progress, Snapshot
from redistill.language.contexts import context_scores
from redistill.language.tokens import laid_out
from redistill.losses.divergences import Divergence, ForwardKL, reduce
from redistill.models.transformers import CausalLm


class ContextDistillation(Method):
    """The student without the context imitates itself, as it began, with it."""

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
