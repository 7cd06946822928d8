"""Plain training and plain distillation of a classifier: the method that most supervised systems vary at one place."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from redistill.core import Loss, Method, Progress, UserError
from redistill.core.errors import nearest
from redistill.core.method import Batch
from redistill.core.modes import evaluating
from redistill.core.types import CountOrZero, Finite
from redistill.losses.precision import raised
from redistill.supervised.matches import Kd, Match
from redistill.supervised.targets import OneHot, TargetRectifier, check_fits
from redistill.supervised.temperature import Constant, Temperature
from redistill.supervised.weights import Answers, Equal, SampleWeight


def logits(network: nn.Module, batch: Batch) -> Tensor:
    """Scores [B, C] of the rows of ``batch`` (``image``, or ``ids`` and ``mask`` of a text), at least float32."""
    if not {"image", "ids"} & set(batch):
        said = "a classifier reads the column 'image', or 'ids' and 'mask' of a text"
        raise UserError(f"{said}; {nearest('image', set(batch) - {'index', 'label'})}", place="data")
    z = network(batch["image"]) if "image" in batch else network(batch["ids"], batch.get("mask"))
    return raised(z)


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


def check_classes(student: Tensor, teacher: Tensor) -> None:
    """Refuse answers [B, C] of a student and a teacher that know unequal numbers of classes."""
    if student.shape != teacher.shape:
        said = f"{student.shape[-1]} classes in the student, {teacher.shape[-1]} in the teacher"
        raise UserError(said, place="models")


class Weighted(Method):
    """Carries a :class:`SampleWeight`: its table is a buffer, fed by answers that leave ``loss`` through ``gather``.

    A method calls :meth:`weigh_by` in its constructor, :meth:`measured` in ``prepare``, and in ``loss`` multiplies its
    rows by :meth:`weights` and passes :meth:`noticed` on as ``gather``.
    """

    student: nn.Module
    weight: SampleWeight
    table: Tensor | None

    def weigh_by(self, weight: SampleWeight | None, rows: int) -> None:
        """Take the plug-in (None: equal weights) for a data set of ``rows`` rows."""
        self.weight = weight or Equal()
        if self.weight.remembers and rows < 1:
            raise UserError(f"rows={rows}; a weight that remembers needs the number of training rows", place="rows")
        self.register_buffer("table", self.weight.start(rows) if self.weight.remembers else None)

    def learns(self, now: Progress) -> bool:
        """Whether the weight changes in this epoch."""
        return self.table is not None and now.epoch >= self.weight.warmup

    def measured(self, batch: Batch, now: Progress) -> Batch:
        """``batch`` with the student's logits in evaluation mode, where the weight learns from them."""
        if not self.learns(now) or self.weight.measure == "train":
            return batch
        with evaluating(self.student):
            return {**batch, "student_logits": logits(self.student, batch)}

    def weights(self, batch: Batch, student: Tensor, teacher: Tensor | None, now: Progress) -> Tensor:
        """Weights [B] of the rows, from the logits [B, C] of this step."""
        index = batch.get("index", torch.arange(len(student)))
        return self.weight(self.table, Answers(student.detach(), teacher, batch.get("label"), index), now)

    def noticed(self, batch: Batch, student: Tensor, teacher: Tensor | None, now: Progress) -> dict[str, Tensor]:
        """What :meth:`after` has to know of the rows."""
        if not self.learns(now):
            return {}
        found = {"student": batch.get("student_logits", student.detach()), "teacher": teacher,
                 "label": batch.get("label"), "index": batch["index"]}  # fmt: skip
        return {name: value for name, value in found.items() if value is not None}

    def after(self, turn: str, stats: dict[str, Tensor], now: Progress) -> None:
        """Let the weight remember."""
        if self.learns(now):
            assert self.table is not None
            answers = Answers(stats["student"], stats.get("teacher"), stats.get("label"), stats["index"])
            self.weight.update(self.table, answers, now)

    def check(self, batch: Batch) -> None:
        """Also refuse rows that the table has no place for."""
        super().check(batch)
        if self.table is not None:
            check_fits(batch["index"], len(self.table), "rows")


class Distillation(Weighted):
    """A frozen teacher's logits are matched beside the labels, on the data set's rows (Hinton, Vinyals and Dean 2015).

        L = mean_i w_i [hard_weight CE(z_S, t) + soft_weight match(z_S, z_T; tau)]_i,
        t = rectifier(y, softmax(z_T / tau))

    ``teacher`` may be None: the rows then hold its ``teacher_logits`` [C] (see ``redistill.data.signals``), or with
    ``soft_weight=0`` nobody teaches. With ``hard_weight=0`` and a match that reads no labels, rows need none.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module | None,
        *,
        match: Match | None = None,  # kd if left out
        temperature: Temperature | None = None,  # constant, 4, if left out
        rectifier: TargetRectifier | None = None,  # one_hot if left out
        hard_weight: Finite = 0.1,  # weight of the labels; below 0 it counts against them
        soft_weight: Finite = 0.9,  # weight of the teacher
        weight: SampleWeight | None = None,  # how much each row counts; equal if left out
        weighted: Literal["both", "hard", "soft"] = "both",  # the terms that these weights multiply
        rows: CountOrZero = 0,  # size of the training set, for weights that remember
    ) -> None:
        super().__init__()
        self.weigh_by(weight, rows)
        self.weighted = weighted
        self.student, self.teacher = student, teacher
        self.match, self.temperature = match or Kd(), temperature or Constant(4.0)
        self.rectifier, self.hard_weight, self.soft_weight = rectifier or OneHot(), hard_weight, soft_weight
        self.needs = () if hard_weight == 0 and not self.match.needs_label else ("label",)  # type: ignore[misc]
        self.taught = teacher is not None or soft_weight != 0
        if teacher is None and self.taught:
            self.needs += ("teacher_logits",)  # type: ignore[misc]

    def prepare(self, batch: Batch, now: Progress) -> Batch:
        """Add the teacher's logits [B, C], from evaluation mode, and the student's where its weights ask for them."""
        batch = self.measured(batch, now)
        if self.teacher is None:
            return batch
        return {**batch, "teacher_logits": logits(self.teacher, batch)}

    def loss(self, turn: str, batch: Batch, now: Progress) -> Loss:
        """``hard``: cross-entropy with the labels; ``soft``: distance from the teacher. Terms of weight 0 are left
        out. ``temperature`` (watched): its mean over the rows."""
        z_s = logits(self.student, batch)
        taught = batch["teacher_logits"].to(z_s) if self.taught else None
        z_t = z_s.detach() if taught is None else taught
        if z_s.shape != z_t.shape:
            raise UserError(f"{z_s.shape[-1]} classes in the student, {z_t.shape[-1]} in the teacher", place="models")
        tau = self.temperature(z_s, z_t, now)
        w = self.weights(batch, z_s, taught, now)  # [B]
        terms = {}
        if self.hard_weight:
            target = self.rectifier(batch["label"], (z_t / tau).softmax(1).detach(), now)
            hard = soft_cross_entropy(z_s, target)
            terms["hard"] = self.hard_weight * (hard if self.weighted == "soft" else w * hard).mean()
        if self.soft_weight:
            soft = self.match(z_s, z_t, batch.get("label"), tau)
            terms["soft"] = self.soft_weight * (soft if self.weighted == "hard" else w * soft).mean()
        watch = {"temperature": torch.as_tensor(tau).mean()}
        return Loss(terms, gather=self.noticed(batch, z_s, taught, now), watch=watch)
