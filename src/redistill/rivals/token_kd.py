"""Token by token: a student predicts the next token as the text says and as a frozen teacher does (Hinton, Vinyals and
Dean 2015; word-level distillation of Kim and Rush 2016, arXiv 1606.07947).

    L = mean over tokens of (1 - soft_weight) (-log q(y)) + soft_weight T^2 KL(p(T) || q(T)) + z_loss (logsumexp z)^2

Roles: student (trained), teacher (frozen; or its stored answers, or nobody). The teacher's whole distribution is used.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from redistill.core import Loss, Method, Progress, UserError
from redistill.core.method import Batch
from redistill.core.types import NonNegative, Positive, Share
from redistill.language.tokens import log_prob_of
from redistill.losses.divergences import ForwardKL, reduce


class TokenDistillation(Method):
    """Networks map ids [B, T], and the mask where rows have one, to scores [B, T, V].

    ``mask`` [T] holds the tokens that are read (without it all are), ``loss_mask`` [T] those of them that count, where
    rows have one; every text counts alike. The first token of a text is not predicted. ``teacher`` may be None: the
    rows then hold its ``teacher_logits`` [T - 1, V], or with ``soft_weight=0`` nobody teaches.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module | None = None,
        *,
        soft_weight: Share = 1.0,  # the teacher's; the rest goes to the text
        temperature: Positive = 1.0,
        z_loss: NonNegative = 0.0,  # weight of the squared log-partition
    ) -> None:
        super().__init__()
        self.student, self.teacher, self.soft_weight, self.z_loss = student, teacher, soft_weight, z_loss
        self.divergence = ForwardKL(temperature=temperature, t_squared=True)
        stored = teacher is None and soft_weight > 0
        self.needs = ("ids", "teacher_logits") if stored else ("ids",)  # type: ignore[misc]

    def prepare(self, batch: Batch, now: Progress) -> Batch:
        """Add the teacher's scores [B, T - 1, V]."""
        if self.teacher is None or not self.soft_weight:
            return batch
        return {**batch, "teacher_logits": scores_of_next(self.teacher, batch)}

    def loss(self, turn: str, batch: Batch, now: Progress) -> Loss:
        """``hard``: the tokens of the text; ``soft``: the teacher; ``z``: size of the scores. Terms of weight 0 are
        left out."""
        z = scores_of_next(self.student, batch)
        terms: dict[str, Tensor] = {}
        if self.soft_weight < 1:
            terms["hard"] = (1 - self.soft_weight) * mean(-log_prob_of(z, batch["ids"][:, 1:]), batch)
        if self.soft_weight:
            soft = self.divergence(z, batch["teacher_logits"], batch["mask"][:, 1:] if "mask" in batch else None)
            terms["soft"] = self.soft_weight * mean(soft, batch)
        if self.z_loss:
            terms["z"] = self.z_loss * mean(z.logsumexp(-1).square(), batch)
        return Loss(terms)

    def check(self, batch: Batch) -> None:
        """Also refuse texts in which no token is predicted."""
        super().check(batch)
        short = "mask" in batch and bool((torch.as_tensor(batch["mask"])[:, 1:].sum(1) == 0).any())
        if short or batch["ids"].shape[1] < 2:
            raise UserError("a text has fewer than two tokens; leave it out", place="data")


def scores_of_next(network: nn.Module, batch: Batch) -> Tensor:
    """Scores [B, T - 1, V] of the tokens after the first."""
    inputs = (batch["ids"], batch["mask"]) if "mask" in batch else (batch["ids"],)
    return network(*inputs)[:, :-1]


def mean(values: Tensor, batch: Batch) -> Tensor:
    """Of ``values`` [B, T - 1] over the tokens of each text that count, then over the texts."""
    if "mask" not in batch:
        return reduce(values)
    return reduce(values, batch.get("loss_mask", batch["mask"])[:, 1:], how="sequence_mean")
