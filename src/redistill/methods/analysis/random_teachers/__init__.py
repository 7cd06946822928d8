"""Random teachers: a student is trained to say what an untrained, frozen network says, on images without labels.

    theta_S(0) = (1 - alpha) theta_T + alpha theta~
    L = -sum_k softmax(z_T / tau_T)_k log softmax(z_S / tau_S)_k                              (Sarnthein et al. 2023)

Roles: student (trained, in training mode), teacher (random, never updated, in evaluation mode;
``statistics`` says what its batch norms hold: see :meth:`RandomTeachers.meet`). Both are encoder
and head; what is measured afterwards is the encoder, by probes. No labels, no augmentation, no
centring. ``alpha`` near 0 starts the student at the teacher: then only training-mode batch norm and
rounding make the first gradient.

:class:`MeanSquare` compares plain outputs instead (the paper's third variant, without the head). With another
``following`` the same trainer is iterated self-distillation, or DINO's teacher.

Temperatures 1 and 1 are the paper's second variant, 0.04 (teacher) and 0.1 (student) its first.

Differs from the paper: a teacher's batch norms hold the statistics of the rows by default, where
the released configurations leave 0 and 1 (``statistics="initial"``). A teacher's outputs may be
computed once and stored, as neither it nor its inputs change. The lottery tickets and loss surfaces
that the paper studies afterwards are not part of this file.
"""

from __future__ import annotations

import copy
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import update_bn

from redistill.core import Ema, Loss, Method, Progress, Slot, UserError
from redistill.core.method import Batch
from redistill.core.source import table
from redistill.core.types import Positive, Share, checked
from redistill.losses.divergences import log_probs
from redistill.methods.analysis.random_teachers.dino import Following, Never

MOST = 4096  # rows that fill batch statistics; more would change them little


class OutputMatch(Slot):
    """Distance [B] of the student's outputs [B, K] from the teacher's, and its least value [B]."""

    def __call__(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        raise NotImplementedError


class CrossEntropy(OutputMatch):
    """Cross-entropy of the softmax outputs; its least value is the teacher's entropy, the difference is KL."""

    def __init__(self, student_tau: Positive = 1.0, teacher_tau: Positive = 1.0) -> None:
        self.student_tau, self.teacher_tau = student_tau, teacher_tau

    def __call__(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        log_p, log_q = log_probs(teacher, self.teacher_tau), log_probs(student, self.student_tau)
        return -(log_p.exp() * log_q).sum(-1), -(log_p.exp() * log_p).sum(-1)


class MeanSquare(OutputMatch):
    """Mean squared difference of the outputs; its least value is 0."""

    def __call__(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        distance = (student - teacher).square().mean(-1)
        return distance, torch.zeros_like(distance)


@checked
def between(teacher: nn.Module, other: nn.Module, alpha: Share, *, rescale: bool = False) -> nn.Module:
    """A network with weights (1 - alpha) theta_T + alpha theta~, and the teacher's buffers.

    ``rescale`` divides weight matrices by sqrt((1 - alpha)^2 + alpha^2), which keeps the variance of two independent
    initialisations. Raises :class:`UserError` for networks of unequal shape.
    """
    student = copy.deepcopy(other)
    _pull(student, teacher, alpha, rescale)
    return student.requires_grad_(True)


@torch.no_grad()
def _pull(student: nn.Module, teacher: nn.Module, alpha: float, rescale: bool) -> None:
    """:func:`between` in place; theta~ is what ``student`` came with."""
    mine, theirs = ({**dict(n.named_parameters()), **dict(n.named_buffers())} for n in (student, teacher))
    for name in theirs | mine:
        if name not in mine or name not in theirs or mine[name].shape != theirs[name].shape:
            raise UserError(f"{name} is not the same in both networks; give one architecture", place="alpha")
    scale = ((1 - alpha) ** 2 + alpha**2) ** 0.5 if rescale else 1.0
    for name, p in student.named_parameters():
        p.copy_(((1 - alpha) * theirs[name] + alpha * p) / (scale if p.ndim > 1 else 1.0))
    _copy_buffers(student, teacher)


def _copy_buffers(net: nn.Module, source: nn.Module) -> None:
    for mine, theirs in zip(net.buffers(), source.buffers()):
        mine.copy_(theirs)


def _unfilled(net: nn.Module) -> bool:
    """Whether every batch norm of ``net`` has the mean 0 and the variance 1 that it was made with."""
    norms = [m for m in net.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
    return bool(norms) and all(not m.running_mean.any() and bool((m.running_var == 1).all()) for m in norms)


class RandomTeachers(Method):
    """Label-free distillation from a teacher that knows nothing.

    ``teacher`` may be None: the rows then hold its ``teacher_output`` [K], computed once, since nothing in it changes.
    With ``alpha`` 1 student and teacher may be unlike.
    """

    needs = ("image",)

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module | None,
        *,
        alpha: Share = 1.0,  # where the student starts: 0 the teacher's weights, 1 those it came with
        rescale: bool = False,  # keep the variance of weights between the two
        match: OutputMatch | None = None,  # cross_entropy if left out
        following: Following | None = None,  # when a teacher follows the student; never if left out
        statistics: Literal["from_data", "initial"] = "from_data",  # of its batch norms: the rows', or 0 and 1 as made
    ) -> None:
        super().__init__()
        self.match, self.following = match or CrossEntropy(), following or Never()
        self.alpha, self.rescale, self.statistics = alpha, rescale, statistics
        self.student, self.teacher = student, None if teacher is None else Ema(teacher)
        if self.teacher is not None and alpha < 1:
            _pull(student, self.teacher.net, alpha, rescale)
        if teacher is None:
            if alpha < 1:
                raise UserError("stored outputs have no weights to start at; give the teacher", place="alpha")
            self.needs += ("teacher_output",)  # type: ignore[misc]
            if not isinstance(self.following, Never):
                raise UserError("stored outputs cannot follow the student; give the teacher", place="following")

    def meet(self, rows: Any) -> None:
        """Give the teacher the batch statistics of ``rows`` (what :func:`fit` takes; of more than 4,096 a random part),
        and a student that was started from it the same. No weight changes, and a teacher that follows nobody keeps the
        statistics. :func:`fit` does it before it trains.

        Statistics that the teacher came with are kept, and with ``statistics="initial"`` those of a
        new network too. Raises :class:`UserError` for rows without images, and for fewer than two.
        """
        if self.statistics == "initial" or self.teacher is None or not _unfilled(self.teacher.net):
            return
        found = table(rows)
        if len(found) < 2:
            raise UserError("batch statistics need two rows or more", place="data")
        self.check(found.__getitems__([0]))
        chosen = np.random.default_rng(0).permutation(len(found))[:MOST]  # rows may be sorted, and batches should not
        batches = np.array_split(chosen, -(-len(chosen) // 256))
        images = (found.__getitems__(batch.tolist())["image"] for batch in batches)
        update_bn(images, self.teacher.net, next(self.teacher.net.parameters()).device)
        if self.alpha < 1:
            _copy_buffers(self.student, self.teacher.net)

    def prepare(self, batch: Batch, now: Progress) -> Batch:
        """Add what the teacher says, [B, K]."""
        return batch if self.teacher is None else {**batch, "teacher_output": self.teacher(batch["image"])}

    def loss(self, turn: str, batch: Batch, now: Progress) -> Loss:
        """``match``: distance to the teacher; ``gap`` (watched): how far it is above its least value (KL for
        :class:`CrossEntropy`)."""
        z_s, z_t = self.student(batch["image"]), batch["teacher_output"]
        if z_s.shape != z_t.shape:
            raise UserError(f"outputs of {tuple(z_s.shape)} and {tuple(z_t.shape)}; give equal heads", place="models")
        distance, least = self.match(z_s, z_t.to(z_s))
        return Loss({"match": distance.mean()}, watch={"gap": (distance - least).detach().mean()})

    def after(self, turn: str, stats: dict[str, Tensor], now: Progress) -> None:
        """Let the teacher follow; one that never does is not touched, its batch statistics included."""
        kept = self.following(now)
        if self.teacher is not None and kept < 1:
            self.teacher.update(self.student, kept)
