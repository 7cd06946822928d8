"""How much each training row counts. The mean weight is 1, so that a learning rate keeps its meaning.

A weight that remembers owns no state. The method that carries it (:class:`Weighted` in ``classifier``) holds its
``table`` as a buffer and feeds it after a step with answers gathered over micro-batches and ranks.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from redistill.core import Progress, Slot, UserError
from redistill.core.types import CountOrZero, From1, NonNegative

Discord = Literal["teacher", "label", "either"]
Every = Literal["pass", "step"]


class Answers(NamedTuple):
    """What is known of some rows: logits [B, C] of student and teacher (None: there is no teacher), labels [B] (None:
    none), row numbers [B]."""

    student: Tensor
    teacher: Tensor | None
    label: Tensor | None
    index: Tensor


class SampleWeight(Slot):
    """Weights [B] of rows, without gradient.

    ``remembers``: whether there is a ``table`` [rows, S]; ``measure``: the mode in which the student answers for
    :meth:`update` (evaluation mode costs one more forward pass); ``warmup``: the epochs without :meth:`update`.
    """

    remembers = False
    measure: Literal["eval", "train"] = "train"
    warmup = 0

    def start(self, rows: int) -> Tensor:
        """The table before the first step."""
        return torch.zeros(rows, 0)

    def __call__(self, table: Tensor | None, answers: Answers, now: Progress) -> Tensor:
        raise NotImplementedError

    def update(self, table: Tensor, answers: Answers, now: Progress) -> None:
        """Change the table in place after a step, from the answers to the rows of the whole batch."""


class Equal(SampleWeight):
    """Every row counts once."""

    def __call__(self, table: Tensor | None, answers: Answers, now: Progress) -> Tensor:
        return answers.student.new_ones(len(answers.student))


class Boosting(SampleWeight):
    """Rows on which the student contradicts its teacher gain weight, as in AdaBoost for K classes (SAMME, Zhu, Zou,
    Rosset and Hastie 2009, with the teacher in the place of the labels).

        epsilon = sum_i w_i d_i,   beta = min(eta [ln((1 - epsilon) / epsilon) + ln(K - 1)], most),
        w_i <- w_i exp(beta d_i) / Z,   w_i <- min(w_i, cap / n) / sum_j min(w_j, cap / n)

    d_i is 1 where the classes differ, or with ``soft`` half the L1 distance of the probabilities; of both discords the
    larger. ``every``: update all rows once each has been seen again, those that were seen when an epoch passes some
    over ("pass"), or the rows of a batch after its step ("step"). ``cap`` clamps weights before they are normalised
    once more, which lifts them: a row may end above it, by as much as the clamp took away from all. A cap below 1
    cannot hold, for the mean weight is 1.

    The table holds w_i n, the newest d_i (-1 until it is measured in this pass) and the epoch of that measurement.
    """

    remembers = True

    def __init__(
        self,
        discord: Discord = "teacher",  # whom a row contradicts
        soft: bool = False,  # by how much, not whether
        every: Every = "pass",  # when weights change
        eta: NonNegative = 1.0,  # the rate
        most: NonNegative | None = 2.0,  # the largest beta; no bound if null
        cap: From1 | None = 10.0,  # the largest weight; no clamp if null
        warmup: CountOrZero = 1,  # epochs whose answers are left out: a new head contradicts at random
        measure: Literal["eval", "train"] = "eval",  # the mode in which the student answers
    ) -> None:
        self.discord, self.soft, self.every = discord, soft, every
        self.eta, self.cap, self.warmup, self.measure = eta, cap, warmup, measure
        self.most = math.inf if most is None else most

    def start(self, rows: int) -> Tensor:
        """Weights of 1, nothing measured."""
        return torch.tensor([1.0, -1.0, 0.0]).repeat(rows, 1)

    def __call__(self, table: Tensor | None, answers: Answers, now: Progress) -> Tensor:
        assert table is not None
        weight = table[:, 0]
        return (weight[answers.index] / weight.mean()).to(answers.student)

    def update(self, table: Tensor, answers: Answers, now: Progress) -> None:
        """Note who contradicts, and when a pass is complete, or over, or after every step boost."""
        classes, left = answers.student.shape[1], (table[:, 1] >= 0) & (table[:, 2] < now.epoch)
        if bool(left.any()):
            self._boost(table, left, classes)
        table[answers.index, 1] = discordance(answers, self.discord, self.soft).to(table)
        table[answers.index, 2] = float(now.epoch)
        rows = answers.index if self.every == "step" else slice(None)
        if bool((table[rows, 1] >= 0).all()):
            self._boost(table, rows, classes)

    def _boost(self, table: Tensor, rows: Tensor | slice, classes: int) -> None:
        table[rows, 0] = self.boosted(table[rows], classes)
        table[:, 0] = self._normalised(table[:, 0])
        table[rows, 1] = -1

    def boosted(self, part: Tensor, classes: int) -> Tensor:
        """The new weights [R] of rows with the table entries ``part`` [R, 3], not normalised."""
        weight, contradicts, _ = part.unbind(1)
        epsilon = float((weight * contradicts).sum() / weight.sum())
        epsilon = min(max(epsilon, 1e-6), 1 - 1 / classes - 1e-6)
        beta = self.eta * (math.log((1 - epsilon) / epsilon) + math.log(classes - 1))
        return weight * torch.exp(min(beta, self.most) * contradicts)

    def _normalised(self, weight: Tensor) -> Tensor:
        weight = weight / weight.mean()
        if self.cap is None:
            return weight
        capped = weight.clamp(max=self.cap)
        return capped / capped.mean()


def discordance(answers: Answers, against: str = "teacher", soft: bool = False) -> Tensor:
    """How much the student contradicts the teacher, the label, or either, [B] in [0, 1].

    Raises :class:`UserError` when there is no teacher or no label, or fewer than two classes.
    """
    q = answers.student.softmax(1)
    if q.shape[1] < 2:
        raise UserError("contradiction needs at least two classes; the student gives one number a row", place="weight")
    references = []
    if against != "label":
        if answers.teacher is None:
            raise UserError("discord with a teacher needs one; give models.teacher, or discord: label", place="weight")
        references.append(answers.teacher.to(q).softmax(1))
    if against != "teacher":
        if answers.label is None:
            raise UserError("discord with labels needs rows with 'label'; or write discord: teacher", place="weight")
        references.append(torch.nn.functional.one_hot(answers.label, q.shape[1]).to(q))
    return torch.stack([_distance(q, p, soft) for p in references]).amax(0)


def _distance(q: Tensor, p: Tensor, soft: bool) -> Tensor:
    return 0.5 * (q - p).abs().sum(1) if soft else (q.argmax(1) != p.argmax(1)).to(q)
