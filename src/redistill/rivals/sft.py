"""Supervised fine-tuning: cross-entropy on given completions. On demonstrations nobody teaches; on a teacher's samples
it is sequence-level distillation (Kim and Rush 2016, arXiv 1606.07947).

    L = mean over tokens of -log q(y_t | prompt, y_<t)

Roles: student (trained).
"""

from __future__ import annotations

from typing import Any

from redistill.core import Loss, Method, Progress
from redistill.language.contexts import completion_scores
from redistill.language.tokens import log_prob_of
from redistill.losses.divergences import reduce
from redistill.models.transformers import CausalLm


class SupervisedFineTuning(Method):
    """The student learns the completions as they are given."""

    needs = ("prompt", "prompt_mask", "completion", "completion_mask")

    def __init__(self, student: CausalLm) -> None:
        super().__init__()
        self.student = student

    def loss(self, turn: str, batch: dict[str, Any], now: Progress) -> Loss:
        active = batch["completion_mask"]
        scores = completion_scores(self.student, batch["prompt"], batch["prompt_mask"], batch["completion"], active)
        logp = log_prob_of(scores, batch["completion"][active.bool()])  # [N]
        return Loss({"cross_entropy": -reduce(logp)}, weight=active.sum())
