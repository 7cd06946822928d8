"""PS-KD: a classifier is taught by what it said about each training sample one epoch ago.

    t_i = (1 - alpha_e) onehot(y_i) + alpha_e P_i^{e-1},     alpha_e = alpha_T (e + 1) / E
    L   = -(1/B) sum_i sum_c t_ic log softmax(z_i)_c                         (Kim, Ji, Yoon and Hwang 2021)

Roles: student (trained); no second network. P is a table of the training-mode predictions on the augmented samples,
written after each step and read one epoch later: one forward pass per sample. What mixes label and past is a plug-in
(``rectifier``), so plain cross-entropy, label smoothing and a constant alpha are the same method with another part. So
is a ``temperature`` tau that softens the past before it meets the label, softmax(log P / tau); a learned one may see
the student's logits, and gets its gradient through the target.

Differs from the paper: a row that was not seen yet counts as its one-hot label, where the paper fills the table with
labels. :class:`PreviousNetwork`, for data too large for a table, asks the network of the previous epoch instead.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from redistill.core import Loss, Method, Progress, Snapshot, UserError
from redistill.core.errors import reading
from redistill.core.method import Batch
from redistill.core.types import Count, TwoOrMore
from redistill.losses.precision import raised
from redistill.supervised.targets import Progressive, TargetRectifier, check_fits, one_hot
from redistill.supervised.temperature import Temperature, log_of, soften

cross_entropy = nn.functional.cross_entropy  # takes soft targets; mean over the batch only


def _logits(student: nn.Module, image: Tensor, classes: int) -> Tensor:
    z = raised(student(image))  # probabilities that are remembered shall not be rounded to bfloat16
    if z.shape[1:] != (classes,):
        raise UserError(f"the student gives {tuple(z.shape[1:])} numbers a row, not {classes} logits", place="ps_kd")
    return z


class PsKd(Method):
    """Progressive self-knowledge distillation from a table of past predictions, rows x classes numbers."""

    needs = ("image", "label")

    def __init__(
        self,
        student: nn.Module,
        *,
        rows: Count,  # size of the training set
        classes: TwoOrMore,
        rectifier: TargetRectifier | None = None,  # mixes label and past; progressive if left out
        temperature: Temperature | None = None,  # softens the past; none if left out
    ) -> None:
        super().__init__()
        self.student = student
        self.rectifier, self.temperature = rectifier or Progressive(), temperature
        self.table: Tensor
        with reading(f"no room for a table of {rows} rows x {classes} classes", place="ps_kd"):
            self.register_buffer("table", torch.zeros(rows, classes))  # a row of zeros: not seen yet

    def loss(self, turn: str, batch: Batch, now: Progress) -> Loss:
        """``ce``: cross-entropy with the rectified targets; ``top1`` (watched): share of labels hit in training;
        ``temperature`` (watched): its mean over the rows, if there is one."""
        index, label, past = batch["index"], batch["label"], self.table[batch["index"]]  # [B], [B], [B, C]
        z = _logits(self.student, batch["image"], self.table.shape[1])  # [B, C]
        seen, watch = past.any(1, keepdim=True), {"top1": (z.argmax(1) == label).float().mean()}
        if self.temperature is not None:
            tau = self.temperature(z.detach(), log_of(past), now)
            past, watch["temperature"] = soften(past, tau), torch.as_tensor(tau).mean()
        past = torch.where(seen, past, one_hot(label, past))  # a row that was not seen yet is its label, unsoftened
        terms = {"ce": cross_entropy(z, self.rectifier(label, past, now))}
        return Loss(terms, gather={"index": index, "probability": z.detach().softmax(1)}, watch=watch)

    def after(self, turn: str, stats: dict[str, Tensor], now: Progress) -> None:
        """Remember this epoch's predictions, from all micro-batches and ranks."""
        self.table[stats["index"]] = stats["probability"].to(self.table)

    def check(self, batch: Batch) -> None:
        """Also refuse rows and labels that the table has no place for."""
        super().check(batch)
        rows, classes = self.table.shape
        check_fits(batch["index"], rows, "rows")
        check_fits(batch["label"], classes, "classes")


class PreviousNetwork(Method):
    """The same targets from the network as it was at the end of the previous epoch: two forward passes, no table."""

    needs = ("image", "label")

    def __init__(self, student: nn.Module, *, rectifier: TargetRectifier | None = None) -> None:
        super().__init__()
        self.student, self.teacher = student, Snapshot(student)
        self.rectifier = rectifier or Progressive()
        self.epoch: Tensor
        self.register_buffer("epoch", torch.zeros((), dtype=torch.int64))

    def prepare(self, batch: Batch, now: Progress) -> Batch:
        """Renew the teacher at the start of an epoch and add its probabilities (the labels in the first epoch)."""
        if now.epoch != int(self.epoch):
            self.teacher.take(self.student)
            self.epoch.fill_(now.epoch)
        past = raised(self.teacher(batch["image"])).softmax(1)  # [B, C]
        return {**batch, "past": past if now.epoch else one_hot(batch["label"], past)}

    def loss(self, turn: str, batch: Batch, now: Progress) -> Loss:
        """``ce``: cross-entropy with the rectified targets."""
        z = _logits(self.student, batch["image"], batch["past"].shape[1])
        return Loss({"ce": cross_entropy(z, self.rectifier(batch["label"], batch["past"], now))})
