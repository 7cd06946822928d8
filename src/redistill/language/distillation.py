"""Plain distillation of a language model on given texts: the teacher's next-token scores beside the tokens."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from redistill.core import Loss, Method, Progress, UserError
from redistill.core.method import Batch
from redistill.language.tokens import log_prob_of
from redistill.losses.divergences import ForwardKL, reduce


class TokenDistillation(Method):
    """A student predicts the next token as the text says and as a frozen teacher does (Hinton, Vinyals and Dean 2015).

        L = mean over texts of mean over tokens [ -(1 - soft_weight) log q(y) + soft_weight T^2 KL(p(T) || q(T)) ]

    Networks map ids and mask [B, T] to scores [B, T, V]. ``mask`` holds the tokens that count; the first one of a text
    is not predicted. ``teacher`` may be None: the rows then hold its ``teacher_logits`` [T - 1, V], or with
    ``soft_weight=0`` nobody teaches.
    """

    def __init__(
        self, student: nn.Module, teacher: nn.Module | None = None, *, soft_weight: float = 1.0,
        temperature: float = 1.0,
    ) -> None:  # fmt: skip
        super().__init__()
        if not 0 <= soft_weight <= 1:
            raise UserError(f"soft_weight={soft_weight}; give a number from 0 to 1", place="soft_weight")
        self.student, self.teacher, self.soft_weight = student, teacher, soft_weight
        self.divergence = ForwardKL(temperature=temperature, t_squared=True)
        stored = teacher is None and soft_weight > 0
        self.needs = ("ids", "mask", "teacher_logits") if stored else ("ids", "mask")  # type: ignore[misc]

    def prepare(self, batch: Batch, now: Progress) -> Batch:
        """Add the teacher's scores [B, T - 1, V]."""
        if self.teacher is None or not self.soft_weight:
            return batch
        return {**batch, "teacher_logits": self.teacher(batch["ids"], batch["mask"])[:, :-1]}

    def loss(self, turn: str, batch: Batch, now: Progress) -> Loss:
        """``hard``: the tokens of the text; ``soft``: the teacher. Terms of weight 0 are left out."""
        z, active = self.student(batch["ids"], batch["mask"])[:, :-1], batch["mask"][:, 1:]
        terms: dict[str, Tensor] = {}
        if self.soft_weight < 1:
            hard = reduce(-log_prob_of(z, batch["ids"][:, 1:]), active, how="sequence_mean")
            terms["hard"] = (1 - self.soft_weight) * hard
        if self.soft_weight:
            soft = self.divergence(z, batch["teacher_logits"], active)
            terms["soft"] = self.soft_weight * reduce(soft, active, how="sequence_mean")
        return Loss(terms)

    def check(self, batch: Batch) -> None:
        """Also refuse texts in which no token is predicted."""
        super().check(batch)
        if bool((torch.as_tensor(batch["mask"])[:, 1:].sum(1) == 0).any()):
            raise UserError("a text has fewer than two tokens; leave it out", place="data")
