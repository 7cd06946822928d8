"""The passes that all distillations of one-step generators share: samples, noised samples, the lesson of a critic."""

from __future__ import annotations

import torch
from torch import Tensor

from redistill.core import Batch, Progress
from redistill.diffusion.denoiser import Condition, Denoiser
from redistill.diffusion.paths import Path
from redistill.diffusion.score import TimeLaw, denoising_loss, few_step


def start_of(path: Path, sigma_init: float | None) -> Tensor:
    """The time at which sigma / alpha is ``sigma_init``, a float64 scalar; t = 1 for None."""
    one = torch.ones((), dtype=torch.float64)
    return one if sigma_init is None else path.time_of(sigma_init * one).clamp(path.t_min, 1.0)


def generated(
    student: Denoiser, start: Tensor, shape: tuple[int, ...] | None, batch: Batch, condition: Condition, now: Progress
) -> Tensor:
    """What the student makes of noise at the time ``start``, [B, *shape]; without a shape as the rows' images have."""
    noise = now.randn(len(batch["index"]), *(shape or batch["image"].shape[1:]))
    return few_step(student, student.path, [start], [noise], condition)


def noised(x: Tensor, path: Path, law: TimeLaw, now: Progress) -> tuple[Tensor, Tensor]:
    """(x_t [B, ...], t [B]) of samples ``x`` at times of the ``law``."""
    t = law.times(now.rand(len(x)), path)
    return path.add_noise(x, now.randn(len(x), *x.shape[1:]), t), t


def critic_lesson(critic: Denoiser, x: Tensor, law: TimeLaw, condition: Condition, now: Progress) -> Tensor:
    """The critic's denoising loss of the student's samples ``x`` [B, ...], a scalar."""
    x_t, t = noised(x, critic.path, law, now)
    return denoising_loss(critic(x_t, t, condition), x, critic.path, t, critic.kind)
