"""The passes that all distillations of one-step generators share: samples, noised samples, the lesson of a critic."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from redistill.core import Batch, Ema, Method, Progress
from redistill.diffusion.denoiser import Condition, Denoiser
from redistill.diffusion.paths import Path
from redistill.diffusion.score import (
    LogNormalTime,
    Matching,
    Normaliser,
    ScoreDistiller,
    TimeLaw,
    UniformTime,
    denoising_loss,
    few_step,
)


def distiller(
    matching: Matching, normaliser: Normaliser | None = None, renoise: TimeLaw | None = None
) -> ScoreDistiller:
    """SiD's objective with another ``matching``: by default the noisiest fifth of the path is left out."""
    return ScoreDistiller(matching, normaliser, renoise or UniformTime(0.0, 0.8))


def start_of(path: Path, sigma_init: float | None) -> Tensor:
    """The time at which sigma / alpha is ``sigma_init``, a float64 scalar; t = 1 for None."""
    one = torch.ones((), dtype=torch.float64)
    return one if sigma_init is None else path.time_of(sigma_init * one).clamp(path.t_min, 1.0)


def generated(
    student: Denoiser, start: Tensor, shape: tuple[int, ...] | None, batch: Batch, condition: Condition, now: Progress
) -> Tensor:
    """What the student makes of noise at the time ``start``, [B, *shape]; without a shape as the rows' images have."""
    noise = now.randn(len(batch["index"]), *(shape or batch["image"].shape[1:]))
    noise = noise.to(torch.promote_types(noise.dtype, next(student.parameters(), noise).dtype))
    return few_step(student, student.path, [start], [noise], condition)


def noised(x: Tensor, path: Path, law: TimeLaw, now: Progress) -> tuple[Tensor, Tensor]:
    """(x_t [B, ...], t [B]) of samples ``x`` at times of the ``law``."""
    t = law.times(now.rand(len(x)), path)
    return path.add_noise(x, now.randn(len(x), *x.shape[1:]), t), t


def critic_lesson(critic: Denoiser, x: Tensor, law: TimeLaw, condition: Condition, now: Progress) -> Tensor:
    """The critic's denoising loss of the student's samples ``x`` [B, ...], a scalar."""
    x_t, t = noised(x, critic.path, law, now)
    return denoising_loss(critic(x_t, t, condition), x, critic.path, t, critic.kind)


class OneStep(Method):
    """Base of methods with a one-step student, its exported average, a critic of its samples and a frozen teacher."""

    trains = {"critic": ["critic"], "student": ["student"]}
    critic_turns: int = 1
    condition: str | None = None
    critic_times: TimeLaw = LogNormalTime()

    def begin(
        self, student: Denoiser, teacher: Denoiser, critic: Denoiser | None, sigma_init: float | None, decay: float
    ) -> None:
        """Take the networks; the critic is a copy of the teacher, without its guidance, unless given."""
        self.student, self.teacher = student, teacher
        self.critic = critic or copy.deepcopy(getattr(teacher, "denoiser", teacher)).requires_grad_(True)
        self.average, self.start = Ema(student, decay), start_of(student.path, sigma_init)

    def turns(self, now: Progress) -> tuple[str, ...]:
        return ("critic",) * self.critic_turns + ("student",)

    def samples(
        self, turn: str, shape: tuple[int, ...] | None, batch: Batch, now: Progress
    ) -> tuple[Tensor, Condition]:
        """(x of the student, with a gradient in its own turn; the rows' condition)."""
        condition = batch[self.condition] if self.condition else None
        with torch.set_grad_enabled(turn == "student"):
            return generated(self.student, self.start, shape, batch, condition, now), condition

    def after(self, turn: str, stats: dict[str, Tensor], now: Progress) -> None:
        """The average warms up, as Karras' networks' do."""
        if turn == "student":
            self.average.update(self.student, min(self.average.decay, (1 + now.step) / (10 + now.step)))

    def export(self) -> Denoiser:
        """The averaged student; it is asked at sigma_init."""
        return self.average.net
