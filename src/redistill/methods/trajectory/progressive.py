"""Progressive distillation: one step of the student lands where two DDIM steps of its teacher land; then it teaches.

    z'  = DDIM(z_t, x_T(z_t, t), t -> t'),   z'' = DDIM(z', x_T(z', t'), t' -> t''),   t' = t - 1/(2N), t'' = t - 1/N
    x~  = (z'' - (sigma''/sigma_t) z_t) / (alpha'' - (sigma''/sigma_t) alpha_t)
    L   = E_{x, eps, i ~ U{1..N}}  w(lambda_t) | x~ - x_S(z_t, t) |^2,      t = i / N

DDIM is deterministic, so the target is a function of z_t and plain regression finds it (arXiv 2202.00512, algorithm 2).
A *round* of N student steps is one run of :class:`Progressive`; :func:`distil` halves N round after round, the student
of one being the teacher of the next, each with a new optimiser and its schedule from the start.

Roles: student (trained; the paper starts every round from the teacher's weights), teacher (frozen, guided or not; no
gradient enters the target). Both are denoisers ``net(z_t, t, condition) -> x0`` on one path.

Differs from the paper: N counts equal steps from ``start``, not from t = 1, where the path may have no signal at all;
the paper clips log-SNR instead. Guidance is at one weight in the first teacher, not an input of the student.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path as Folder
from typing import Any

import torch
from torch import Tensor, nn

from redistill.core import Batch, Loss, Method, Plan, Progress, UserError, fit
from redistill.core.progress import seed_of
from redistill.core.slot import Slot
from redistill.core.types import Count, CountOrZero, Finite, PositiveShare
from redistill.diffusion.denoiser import Denoiser, guided
from redistill.diffusion.paths import Path, expand


class SnrWeight(Slot):
    """w of the mean squared error in x0, from alpha^2 / sigma^2 [B]."""

    def __call__(self, snr: Tensor) -> Tensor:
        raise NotImplementedError


class Truncated(SnrWeight):
    """max(SNR, 1): the larger of the errors in x0 and in eps; the paper's choice."""

    def __call__(self, snr: Tensor) -> Tensor:
        return snr.clamp_min(1)


class SnrPlusOne(SnrWeight):
    """SNR + 1: the error in v on a variance-preserving path."""

    def __call__(self, snr: Tensor) -> Tensor:
        return snr + 1


class Constant(SnrWeight):
    """1: the error in x0."""

    def __call__(self, snr: Tensor) -> Tensor:
        return torch.ones_like(snr)


class Snr(SnrWeight):
    """SNR: the error in eps, which says nothing of the first step where there is no signal."""

    def __call__(self, snr: Tensor) -> Tensor:
        return snr


class Progressive(Method):
    """One round. ``steps``: N of the student; ``start``: the time at which sampling begins; ``condition`` names the
    column that conditions both networks. ``guidance`` (of the first round's teacher) needs ``condition`` and ``null``,
    the class that says nothing.
    """

    needs = ("image",)

    def __init__(
        self,
        student: Denoiser,
        teacher: Denoiser,
        *,
        steps: Count = 4,
        start: PositiveShare = 1.0,
        weight: SnrWeight | None = None,
        condition: str | None = None,
        guidance: Finite = 1.0,
        null: CountOrZero | None = None,  # the class that says nothing
    ) -> None:
        super().__init__()
        self.student, self.teacher = student, guided(teacher, guidance, condition=condition, null=null)
        self.path, self.weight, self.condition = student.path, weight or Truncated(), condition
        self.steps, self.start = steps, start
        self.needs = ("image", *filter(None, [condition]))

    def loss(self, turn: str, batch: Batch, now: Progress) -> Loss:
        """``halve``: weighted squared error of the student's x0, mean over rows and pixels."""
        x0, condition = batch["image"], batch[self.condition] if self.condition else None
        t, middle, end = self._times(now.randint(0, self.steps, len(x0)))
        z = self.path.add_noise(x0, now.randn(len(x0), *x0.shape[1:]), t)

        with torch.no_grad():
            z_middle = self.path.jump(z, self.teacher(z, t, condition), t, middle)
            z_end = self.path.jump(z_middle, self.teacher(z_middle, middle, condition), middle, end)
            target = x0_between(self.path, z, z_end, t, end)

        error = (self.student(z, t, condition) - target).square().flatten(1).mean(1)  # [B]
        weight = self.weight(self.path.snr(t)).to(error)
        return Loss({"halve": (weight * error).mean()}, watch={"x0": error.detach().mean()})

    def _times(self, i: Tensor) -> Iterator[Tensor]:
        """(t, t', t'') of the student's steps ``i`` [B], 0 the noisiest; float64."""
        grid = self.path.grid(2 * self.steps, start=self.start, end=0.0).to(i.device)  # of the teacher
        return (grid[2 * i + k] for k in range(3))


def x0_between(path: Path, x_t: Tensor, x_s: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """The x0 with which :meth:`Path.jump` takes ``x_t`` (time t) exactly to ``x_s`` (time s < t)."""
    ratio = path.sigma(s) / path.sigma(t)
    return (x_s - expand(ratio, x_t) * x_t) / expand(path.alpha(s) - ratio * path.alpha(t), x_t)


def rounds(first: int, last: int) -> list[int]:
    """The student's numbers of steps, round by round, from a teacher of ``first`` steps to a student of ``last``."""
    steps = [first]
    while steps[-1] > last and steps[-1] % 2 == 0:
        steps.append(steps[-1] // 2)
    if steps[-1] != last or len(steps) == 1:
        raise UserError(f"no halving leads from {first} steps to {last}; give last times 2, 4, 8, ...", place="steps")
    return steps[1:]


def distil(
    student: Denoiser, teacher: nn.Module, rows: Any, plan: Plan, *, first: int, last: int, guidance: float = 1.0,
    folder: Folder | None = None, resume: bool = False, show: bool = False, **options: Any,
) -> Iterator[tuple[int, Denoiser]]:  # fmt: skip
    """(N, its student) round by round, from a sampler of ``first`` steps to one of ``last``; ``plan`` is one round's.

    The networks given stay as they are: each round trains a copy, of ``student`` first, then of its own teacher.
    ``options``: of :class:`Progressive`; ``guidance`` is the first teacher's. With ``folder`` every round keeps its
    checkpoints there, and ``resume`` goes on from them.
    """
    for steps in rounds(first, last):
        method: Any = Progressive(copy.deepcopy(student), teacher, steps=steps, guidance=guidance, **options)
        own = plan.model_copy(update={"seed": seed_of(plan.seed, steps) % 2**31})  # no round sees another's noise again
        place = folder / f"steps_{steps}" if folder else None
        student = fit(method, rows, own, folder=place, resume=resume, show=show).student  # type: ignore[assignment]
        yield steps, student
        teacher, guidance = copy.deepcopy(student).requires_grad_(False), 1.0
