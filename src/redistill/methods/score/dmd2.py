"""DMD2: a frozen teacher and a critic that knows the student's own samples move a one-step or few-step student.

    critic:   min  E | critic's prediction at x_t - target(x, eps, t) |^2  +  w_d GAN(x'_t, x_t)
    student:  min  E [ < sg[ (D_fake - D_real)(x_t, t) ] / mean|x - D_real|, x > ]  +  w_g softplus(-logit(x_t))

with x = G(z), x_t = alpha_t x + sigma_t eps. The first term's gradient is that of KL(student || teacher) at every noise
level (arXiv 2405.14867, sections 3 and 4). The critic learns ``critic_turns`` times as often as the student (two
time-scales), which makes DMD's regression on pairs unnecessary; the discriminator, a head on the critic's bottleneck,
brings in real data x', so that the student can pass its teacher; with ``steps`` > 1 the student is trained at what it
would itself reach (backward simulation), not at noised real data.

Roles: student (trained), critic (trained; a copy of the teacher unless given), discriminator (trained with the critic),
teacher (frozen, guided or not; the critic never is). All are denoisers ``net(x_t, t, condition) -> x0`` on one path.

Differs from the paper: in the student's turn the discriminator sees the same x_t as the critic, so at noise of the
``renoise`` law and not of all levels, and in the critic's turn its generated rows are those of the regression: one pass
less each. A student begins at t = 1 of the path, at noise of deviation sigma(1). The released code for Stable Diffusion
begins at unit noise told the last step, whose sigma is a little below 1; the paper's one-step SDXL begins at unit noise
told t = 399, off the path, after a regression on pairs.
"""

from __future__ import annotations

import copy
from typing import Literal

import torch
from torch import Tensor, nn

from redistill.core import Batch, Loss, Method, Progress, UserError
from redistill.core.types import Count, CountOrZero, NonNegative
from redistill.diffusion.denoiser import Denoiser, guided
from redistill.diffusion.score import (
    Matching,
    Normaliser,
    ScoreDistiller,
    TimeLaw,
    UniformTime,
    denoising_loss,
    few_step,
    student_times,
)
from redistill.losses.adversarial import Adversarial, NonSaturating


class Dmd2(Method):
    """See the module. ``regression`` is that of DMD (arXiv 2311.18828). A teacher may also come guided."""

    def __init__(
        self,
        student: Denoiser,
        teacher: Denoiser,
        critic: Denoiser | None = None,
        discriminator: nn.Module | None = None,
        *,
        steps: Count = 1,  # calls of the student that make a sample
        critic_turns: Count = 5,  # of the critic for one of the student
        inputs: Literal["simulated", "noised"] = "simulated",  # what later steps start from: own samples or real data
        condition: str | None = None,  # the column that conditions all networks
        shape: tuple[Count, ...] | None = None,  # of a sample, where neither the student nor the data tells it
        guidance: NonNegative = 1.0,  # of the teacher; 1 is none, others need condition and null
        null: CountOrZero | None = None,  # the class that says nothing
        matching: Matching | None = None,  # the divergence; reverse_kl if left out
        normaliser: Normaliser | None = None,  # what a row's loss is divided by; teacher_distance if left out
        renoise: TimeLaw | None = None,  # noise of the student's turn; uniform_time if left out
        critic_times: TimeLaw | None = None,  # noise of the critic's turn; uniform_time from 0.001 to 1 if left out
        adversarial: Adversarial | None = None,  # the discriminator's game; non_saturating if left out
        gan_student: NonNegative = 1e-3,  # w_g, weight of the game in the student's turn
        gan_critic: NonNegative = 1e-2,  # w_d, and in the critic's
        regression: NonNegative = 0.0,  # weight of DMD's loss on pairs (columns pair_noise, pair_image)
    ) -> None:
        super().__init__()
        plain = getattr(teacher, "denoiser", teacher)  # inside its guidance
        self.student, self.critic = student, critic or copy.deepcopy(plain).requires_grad_(True)
        self.teacher = guided(teacher, guidance, condition=condition, null=null)
        self.discriminator = discriminator
        self.path, self.times = student.path, student_times(student.path, steps)
        self.score = ScoreDistiller(matching, normaliser, renoise)
        self.critic_times = critic_times or UniformTime(0.001, 1.0)
        self.adversarial = adversarial or NonSaturating()
        self.critic_turns, self.inputs, self.condition = critic_turns, inputs, condition
        self.shape = shape or student.shape
        self.gan_student, self.gan_critic, self.regression = gan_student, gan_critic, regression
        critics = ["critic", "discriminator"] if discriminator else ["critic"]
        self.trains = {"critic": critics, "student": ["student"]}
        self.needs = self._columns(steps)
        if self.score.matching.needs_ratio and discriminator is None:
            raise UserError("this divergence needs a density ratio; give a discriminator", place="matching")

    def _columns(self, steps: int) -> tuple[str, ...]:
        real = self.discriminator is not None or (steps > 1 and self.inputs == "noised") or self.shape is None
        wanted = {
            "image": real,
            self.condition: self.condition,
            "pair_noise": self.regression,
            "pair_image": self.regression,
        }
        return tuple(name for name, needed in wanted.items() if name and needed)

    def check(self, batch: Batch) -> None:
        """Also refuse images that are no samples of these networks."""
        super().check(batch)
        if self.shape and "image" in batch and tuple(batch["image"].shape[1:]) != tuple(self.shape):
            found = list(batch["image"].shape[1:])
            raise UserError(f"images of shape {found}, samples of {list(self.shape)}; make them agree (options of the "
                            "data, shape of the method)", place="data")  # fmt: skip

    def turns(self, now: Progress) -> tuple[str, ...]:
        return ("critic",) * self.critic_turns + ("student",)

    def loss(self, turn: str, batch: Batch, now: Progress) -> Loss:
        condition = batch[self.condition] if self.condition else None
        if turn == "student":
            return self._student(self._samples(batch, condition, now), batch, condition, now)
        with torch.no_grad():
            x = self._samples(batch, condition, now)
        return self._critic(x, batch, condition, now)

    def _samples(self, batch: Batch, condition: Tensor | None, now: Progress) -> Tensor:
        """What the student makes of noise, [B, ...]; one step number j is drawn for all rows and ranks."""
        rows, shape = len(batch["index"]), self.shape or batch["image"].shape[1:]
        last = now.shared_randint(0, len(self.times)) if len(self.times) > 1 else 0
        if self.inputs == "noised" and last > 0:
            x_t = self.path.add_noise(batch["image"], now.randn(rows, *shape), self.times[last])
            return self.student(x_t, self.times[last], condition)
        noises = [now.randn(rows, *shape) for _ in range(last + 1)]
        return few_step(self.student, self.path, self.times[: last + 1], noises, condition)

    def _noised(self, x: Tensor, law: TimeLaw, now: Progress) -> tuple[Tensor, Tensor]:
        """(x_t [B, ...], t [B])."""
        t = law.times(now.rand(len(x)), self.path)
        return self.path.add_noise(x, now.randn(len(x), *x.shape[1:]), t), t

    def _judged(self, x_t: Tensor, t: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """(the critic's x0, the discriminator's logit [B], if there is one)."""
        if self.discriminator is None:
            return self.critic(x_t, t, condition), None
        x0, features = self.critic.features(x_t, t, condition)
        return x0, self.discriminator(features)

    def _critic(self, x: Tensor, batch: Batch, condition: Tensor | None, now: Progress) -> Loss:
        x_t, t = self._noised(x, self.critic_times, now)
        denoised, fake = self._judged(x_t, t, condition)
        terms = {"denoise": denoising_loss(denoised, x, self.path, t, self.critic.kind)}
        if fake is None:
            return Loss(terms)
        _, real = self._judged(*self._noised(batch["image"], self.critic_times, now), condition)
        terms["gan"] = self.gan_critic * self.adversarial.discriminator(real, fake)
        return Loss(terms, watch={"gap": (real - fake).mean()})

    def _student(self, x: Tensor, batch: Batch, condition: Tensor | None, now: Progress) -> Loss:
        x_t, t = self._noised(x, self.score.law, now)
        with torch.set_grad_enabled(self.score.matching.through):
            real = self.teacher(x_t, t, condition)
        with torch.set_grad_enabled(self.score.matching.through or self.discriminator is not None):
            fake, logit = self._judged(x_t, t, condition)
        terms = {"match": self.score.loss(x, real, fake, self.path, t, logit)}
        if logit is not None:
            terms["gan"] = self.gan_student * self.adversarial.generator(logit)
        if self.regression:
            made = few_step(self.student, self.path, self.times[:1], [batch["pair_noise"]], condition)
            terms["regression"] = self.regression * (made - batch["pair_image"]).square().mean()
        return Loss(terms, watch={"distance": (x - real).detach().abs().mean()})
