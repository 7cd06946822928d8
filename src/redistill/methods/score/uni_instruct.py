"""Uni-Instruct: any f-divergence between teacher and one-step student, unfolded along the noising into score gaps.

    D_f(q || p) = int g(t)^2 / 2  E_p[ h(r) |Delta|^2 ] dt,     r = q_t / p_t,  Delta = grad log r,  h(r) = r^2 f''(r)
    student:  grad E[ 2 h <Delta, s_p - s(x_t | x)> + (h - r h') |Delta|^2 ],     grad r = r Delta

q is the teacher's law, p the student's. The scores are the teacher's and the critic's; r = exp(logit) is what a
discriminator on the critic's bottleneck says of x_t. In units of x0 these are three coefficients of ``score_loss``:

    sim = h,   square = (h - r h') / 2,   push = (alpha / sigma)^2 [ r h' <D, D_fake - x> - r^2 h'' |D|^2 / 2 ]

Reverse KL (h = 1) is SiD with alpha 1/2. The ``released`` form keeps h alone and as a constant, as the authors' code
does (reverse KL is then SiD with alpha 1): right in how the student shifts, wrong in how it spreads, for r moves too.

Roles: student (trained; its average is exported), critic and discriminator (trained together), teacher (frozen).

Differs from the paper: the ratio is exp(logit), at most e^10 and at least e^-10, where the released code takes it from
the generator's own loss and divides it by its sum over the batch; the discriminator is there from the first update; the
"long" recipe, reverse KL first, is a share of one run.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from redistill.core import Batch, Loss, Progress
from redistill.core.types import NonNegative, Positive, Share, ShareBelow1
from redistill.diffusion.denoiser import Condition, Denoiser
from redistill.diffusion.generator import OneStep, distiller, noised
from redistill.diffusion.score import Coefficient, Matching, prediction_weight, row_mean

CLAMP = 10.0  # of the logits, as released


def weights(f: str, r: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """h, r h' and r^2 h'' of the divergence ``f`` at the ratios ``r``."""
    one, share = torch.ones_like(r), r / (1 + r)
    return {
        "reverse_kl": (one, 0 * one, 0 * one),
        "forward_kl": (r, r, 0 * one),
        "jeffrey": (0.6 + 0.4 * r, 0.4 * r, 0 * one),  # the released mixture
        "jensen_shannon": (share, share / (1 + r), -2 * share * share / (1 + r)),
        "chi_square": (2 * r**2, 4 * r**2, 4 * r**2),
    }[f]


class Unfolded(Matching):
    """The divergence ``f``; ``form``: "exact", or "released" without what moves the ratio."""

    through = True
    needs_ratio = True

    def __init__(
        self,
        f: Literal["reverse_kl", "forward_kl", "jeffrey", "jensen_shannon", "chi_square"] = "forward_kl",
        form: Literal["released", "exact"] = "released",
    ) -> None:
        self.f, self.form = f, form

    def at(
        self, x: Tensor, real: Tensor, fake: Tensor, logit: Tensor | None, snr: Tensor
    ) -> tuple[Coefficient, Coefficient, Coefficient]:
        assert logit is not None, "a divergence needs a discriminator"
        h, first, second = weights(self.f, logit.detach().clamp(-CLAMP, CLAMP).exp())
        if self.form == "released":
            return h, 0.0, 0.0
        gap, error = (real - fake).detach().flatten(1), (fake - x).detach().flatten(1)
        push = snr * (first * (gap * error).sum(1) - second / 2 * gap.square().sum(1))
        return h, (h - first) / 2, push


class UniInstruct(OneStep):
    """``divergence`` and its form; ``reverse_first``: share of the run in which it is still the reverse KL.
    ``gan_student``, ``gan_critic``: weights of the discriminator's game for the student and for the critic.
    ``sigma_init``: sigma / alpha of the student's input, None for pure noise at t = 1. ``decay`` of the exported
    average; early on it forgets faster. Real samples are the column ``image``; ``condition`` names the column that
    conditions all networks.
    """

    needs = ("image",)
    trains = {"critic": ["critic", "discriminator"], "student": ["student"]}

    def __init__(
        self,
        student: Denoiser,
        teacher: Denoiser,
        discriminator: nn.Module,
        critic: Denoiser | None = None,
        *,
        divergence: Unfolded | None = None,  # f, and the form of its gradient; forward_kl, released, if left out
        reverse_first: Share = 0.5,  # share of the run with the reverse KL before f
        sigma_init: Positive | None = 2.5,  # noise at the student's input; null: pure noise
        gan_student: NonNegative = 0.01,  # weight of the game in the student's turn
        gan_critic: NonNegative = 1.0,  # and in the critic's
        decay: ShareBelow1 = 0.999,  # of the average of the student that is exported
        condition: str | None = None,  # the column that conditions all networks
    ) -> None:
        super().__init__()
        self.begin(student, teacher, critic, sigma_init, decay)
        self.discriminator = discriminator

        later = divergence or Unfolded()
        self.later, self.first = distiller(later), distiller(Unfolded("reverse_kl", later.form))
        self.reverse_first = reverse_first
        self.gan_student, self.gan_critic = gan_student, gan_critic
        self.condition = condition
        if condition:
            self.needs = ("image", condition)

    def loss(self, turn: str, batch: Batch, now: Progress) -> Loss:
        """``denoise``, ``match``: critic and student; ``gan``: the discriminator's side of either turn."""
        x, condition = self.samples(turn, batch["image"].shape[1:], batch, now)
        return self._student(x, condition, now) if turn == "student" else self._critic(x, batch, condition, now)

    def _judged(self, x_t: Tensor, t: Tensor, condition: Condition) -> tuple[Tensor, Tensor]:
        """(the critic's x0, the logit [B] of its bottleneck)."""
        x0, features = self.critic.features(x_t, t, condition)
        return x0, self.discriminator(features).clamp(-CLAMP, CLAMP)

    def _critic(self, x: Tensor, batch: Batch, condition: Condition, now: Progress) -> Loss:
        """Real and generated rows at the same times with the same noise."""
        path, t = self.student.path, self.critic_times.times(now.rand(len(x)), self.student.path)
        eps = now.randn(len(x), *x.shape[1:])
        denoised, fake = self._judged(path.add_noise(x, eps, t), t, condition)
        _, real = self._judged(path.add_noise(batch["image"], eps, t), t, condition)

        weight = prediction_weight(path, t, self.critic.kind)
        game = weight / 2 * (softplus(-real) + softplus(fake))
        terms = {
            "denoise": (weight * row_mean((denoised - x).square())).mean(),
            "gan": self.gan_critic * game.mean(),
        }
        return Loss(terms, watch={"gap": (real - fake).mean()})

    def _student(self, x: Tensor, condition: Condition, now: Progress) -> Loss:
        path, score = self.student.path, self.first if now.fraction < self.reverse_first else self.later
        x_t, t = noised(x, path, score.law, now)
        real = self.teacher(x_t, t, condition)
        fake, logit = self._judged(x_t, t, condition)

        divisor = score.normaliser.divisor(x, real, path.alpha(t), path.sigma(t))
        terms = {
            "match": score.loss(x, real, fake, path, t, logit),
            "gan": self.gan_student * (softplus(-logit) / divisor).mean(),
        }
        return Loss(terms, watch={"log_ratio": logit.detach().mean()})
