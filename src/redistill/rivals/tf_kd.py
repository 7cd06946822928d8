"""TF-KD, teacher-free distillation: the teacher is a rule that is right with probability ``correct`` and knows nothing
else (Yuan et al. 2020).

    p_T = correct at y, (1 - correct) / (C - 1) elsewhere
    L = (1 - share) CE(z, y) + share KL(softmax(p_T / tau) || softmax(z))

(arXiv 1909.11723.) Roles: student (trained). Their other variant, a network of the same kind as teacher, is plain
:class:`~redistill.supervised.classifier.Distillation`.

As in the authors' code the probabilities are softened, not their logarithms, and the student is not: with tau = 20 the
target is almost uniform, and the loss that of label smoothing by ``share`` but for a constant.

Differs from the authors' code: that takes the mean over classes as well as rows, so a C-th of the KL, times a
multiplier to be tuned; here the KL is whole, and ``share`` alone weighs it.
"""

from __future__ import annotations

import torch
from torch import nn

from redistill.core import Progress, UserError
from redistill.core.method import Batch
from redistill.core.types import Positive, PositiveShare, Share, TwoOrMore
from redistill.supervised.classifier import Distillation
from redistill.supervised.temperature import Constant


class VirtualTeacher(Distillation):
    """A rule in the place of a trained teacher."""

    def __init__(
        self,
        student: nn.Module,
        *,
        classes: TwoOrMore,
        correct: PositiveShare = 0.99,  # how often the rule is right
        tau: Positive = 20.0,  # softens its answer
        share: Share = 0.1,  # of the loss that is the rule's
    ) -> None:
        super().__init__(student, None, temperature=Constant(1.0), hard_weight=1 - share, soft_weight=share)
        if correct <= 1 / classes:
            raise UserError(f"correct={correct}; give a number above 1/{classes}, at most 1", place="correct")
        self.needs = ("label",)  # type: ignore[misc]
        self.classes, self.correct, self.tau = classes, correct, tau

    def prepare(self, batch: Batch, now: Progress) -> Batch:
        """Add the rule's logits [B, C], its probabilities over tau."""
        y = batch["label"]
        p = torch.full((len(y), self.classes), (1 - self.correct) / (self.classes - 1), device=y.device)
        return {**batch, "teacher_logits": p.scatter(1, y[:, None], self.correct) / self.tau}
