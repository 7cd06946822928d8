"""Plain training and plain distillation of a classifier: the method that most supervised systems vary at one place."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from redistill.core import Loss, Method, Progress, UserError
from redistill.core.method import Batch
from redistill.supervised.matches import Kd, Match
from redistill.supervised.targets import OneHot, TargetRectifier
from redistill.supervised.temperature import Constant, Temperature


def logits(network: nn.Module, batch: Batch) -> Tensor:
    """Scores [B, C] of the rows of ``batch`` (``image``, or ``ids`` and ``mask`` of a text), at least float32."""
    z = network(batch["image"]) if "image" in batch else network(batch["ids"], batch.get("mask"))
    return z.to(torch.promote_types(z.dtype, torch.float32))


def soft_cross_entropy(z: Tensor, target: Tensor) -> Tensor:
    """logsumexp(z) - <t, z> [B] for targets t [B, C] that sum to 1, of any sign; its gradient is softmax(z) - t."""
    return z.logsumexp(-1) - (target * z).sum(-1)


class Classification(Method):
    """A classifier learns labels, perhaps smoothed: what every distilled student is compared with."""

    needs = ("label",)

    def __init__(self, student: nn.Module, *, rectifier: TargetRectifier | None = None) -> None:
        super().__init__()
        self.student, self.rectifier = student, rectifier or OneHot()

    def loss(self, turn: str, batch: Batch, now: Progress) -> Loss:
        """``ce``: cross-entropy with the (smoothed) labels."""
        z = logits(self.student, batch)
        target = self.rectifier(batch["label"], z.detach().softmax(1), now)
        return Loss({"ce": soft_cross_entropy(z, target).mean()})


class Distillation(Method):
    """A frozen teacher's logits are matched beside the labels, on the data set's rows (Hinton, Vinyals and Dean 2015).

        L = hard_weight CE(z_S, t) + soft_weight match(z_S, z_T; tau),   t = rectifier(y, softmax(z_T / tau))

    ``teacher`` may be None: the rows then hold its ``teacher_logits`` [C] (see ``redistill.data.signals``). With
    ``hard_weight=0`` and a match that reads no labels, rows need none.
    """

    def __init__(
        self, student: nn.Module, teacher: nn.Module | None, *, match: Match | None = None,
        temperature: Temperature | None = None, rectifier: TargetRectifier | None = None, hard_weight: float = 0.1,
        soft_weight: float = 0.9,
    ) -> None:  # fmt: skip
        super().__init__()
        self.student, self.teacher = student, teacher
        self.match, self.temperature = match or Kd(), temperature or Constant(4.0)
        self.rectifier, self.hard_weight, self.soft_weight = rectifier or OneHot(), hard_weight, soft_weight
        self.needs = () if hard_weight == 0 and not self.match.needs_label else ("label",)  # type: ignore[misc]
        if teacher is None:
            self.needs += ("teacher_logits",)  # type: ignore[misc]

    def prepare(self, batch: Batch, now: Progress) -> Batch:
        """Add the teacher's logits [B, C], from evaluation mode."""
        if self.teacher is None:
            return batch
        return {**batch, "teacher_logits": logits(self.teacher, batch)}

    def loss(self, turn: str, batch: Batch, now: Progress) -> Loss:
        """``hard``: cross-entropy with the labels; ``soft``: distance from the teacher. Terms of weight 0 are left
        out."""
        z_s, z_t = logits(self.student, batch), batch["teacher_logits"]
        if z_s.shape != z_t.shape:
            raise UserError(f"{z_s.shape[-1]} classes in the student, {z_t.shape[-1]} in the teacher", place="models")
        tau = self.temperature(z_s, z_t, now)
        terms = {}
        if self.hard_weight:
            target = self.rectifier(batch["label"], (z_t / tau).softmax(1).detach(), now)
            terms["hard"] = self.hard_weight * soft_cross_entropy(z_s, target).mean()
        if self.soft_weight:
            terms["soft"] = self.soft_weight * self.match(z_s, z_t.to(z_s), batch.get("label"), tau).mean()
        return Loss(terms)
