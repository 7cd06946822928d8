"""Score distillation: one generator loss of which the published ones are choices of three coefficients.

A student's samples x are noised to x_t; a frozen teacher and a *critic* (the fake score: a denoiser trained online on
the student's own samples) denoise them to D_real and D_fake. With the gap D = D_real - D_fake, in units of x0 (the two
scores differ by alpha_t / sigma_t^2 times D):

    L_G = [ sim <D, D_fake - x> + square <D, D> + <sg[push D], x> ] / normaliser        mean over elements and rows

| choice                   | sim | square    | push  | source                                                 |
|--------------------------|-----|-----------|-------|--------------------------------------------------------|
| ReverseKl                | 0   | 0         | -1    | DMD, arXiv 2311.18828; Diff-Instruct, 2305.18455       |
| FDivergence              | 0   | 0         | -h(r) | f-distill, 2502.15681; h(r) = r^2 f''(r), r = p/q      |
| ScoreIdentity            | 1   | 1 - alpha | 0     | SiD, 2404.04057; alpha = 1/2: Fisher gradient, 1: SIM  |
| Unfolded, in its method  | h   | (h-rh')/2 | gap's | Uni-Instruct: an f-divergence, unfolded along the path |

In the `push` term D is a constant; in the other two the gradient flows through both denoisers to x (their weights
frozen). No function here draws random numbers: noise and uniform numbers come in as tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from redistill.core.slot import Slot
from redistill.core.types import Finite, Positive, Share
from redistill.diffusion.paths import Path

Coefficient = Tensor | float
Denoise = Callable[..., Tensor]


def row_mean(x: Tensor) -> Tensor:
    """Mean over all but the first dimension, [B, ...] -> [B]."""
    return x.flatten(1).mean(1)


# --- the generator's loss ---------------------------------------------------------------------------------------------


def score_loss(
    x: Tensor, real: Tensor, fake: Tensor, sim: Coefficient, square: Coefficient, push: Coefficient
) -> Tensor:
    """The three terms above for samples ``x``, teacher's and critic's x0 ``real`` and ``fake``, all [B, ...]; returns
    [B]."""
    gap = real - fake
    return sim * row_mean(gap * (fake - x)) + square * row_mean(gap * gap) + push * row_mean(gap.detach() * x)


class Matching(Slot):
    """Which divergence the student lowers: the coefficients of :func:`score_loss`."""

    through: ClassVar[bool] = False
    """Whether the gradient flows through teacher and critic to x."""
    needs_ratio: ClassVar[bool] = False
    """Whether the coefficients depend on the density ratio, which only a discriminator knows."""

    def coefficients(self, logit: Tensor | None) -> tuple[Coefficient, Coefficient, Coefficient]:
        """(sim, square, push); ``logit`` [B] is the discriminator's log p_real / p_fake at x_t, where there is one."""
        raise NotImplementedError

    def at(
        self, x: Tensor, real: Tensor, fake: Tensor, logit: Tensor | None, snr: Tensor
    ) -> tuple[Coefficient, Coefficient, Coefficient]:
        """The same where they depend on the samples, on the gap and on ``snr`` [B] = (alpha / sigma)^2 as well."""
        return self.coefficients(logit)


class ReverseKl(Matching):
    """KL(student || teacher) summed over noise levels: DMD and Diff-Instruct."""

    def coefficients(self, logit: Tensor | None) -> tuple[Coefficient, Coefficient, Coefficient]:
        return 0.0, 0.0, -1.0


RATIO_WEIGHTS: dict[str, Callable[[Tensor], Tensor]] = {  # h as a function of log r
    "reverse_kl": torch.ones_like,
    "forward_kl": lambda log_r: log_r.clamp(max=10.0).exp(),  # r <= 22,026: a sure discriminator overflows nothing
    "jensen_shannon": torch.sigmoid,
}


class FDivergence(Matching):
    """D_f(teacher || student): the reverse-KL gradient weighted by h(r) = r^2 f''(r).

    Differs from the released code: that divides the weights of a batch by their mean, which lowers the variance and
    makes a row's weight depend on its neighbours; here h(r) is taken as it is, so that cut batches add up.
    """

    needs_ratio = True

    def __init__(self, f: Literal["reverse_kl", "forward_kl", "jensen_shannon"] = "jensen_shannon") -> None:
        self.f = f

    def coefficients(self, logit: Tensor | None) -> tuple[Coefficient, Coefficient, Coefficient]:
        assert logit is not None, "an f-divergence needs a discriminator"
        return 0.0, 0.0, -RATIO_WEIGHTS[self.f](logit.detach())


class ScoreIdentity(Matching):
    """SiD: ``<D, D_real - x> - alpha |D|^2``."""

    through = True

    def __init__(
        self,
        alpha: Finite = 1.2,  # weight of the squared difference
    ) -> None:
        self.alpha = alpha

    def coefficients(self, logit: Tensor | None) -> tuple[Coefficient, Coefficient, Coefficient]:
        return 1.0, 1.0 - self.alpha, 0.0


# --- normalisers: what a row's loss is divided by ---------------------------------------------------------------------


class Normaliser(Slot):
    """A constant per row that makes gradients of all noise levels alike."""

    def divisor(self, x: Tensor, real: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """[B], positive, without gradient."""
        raise NotImplementedError


class TeacherDistance(Normaliser):
    """mean |x - D_real| over the row (DMD, SiD)."""

    def __init__(
        self,
        floor: Positive = 1e-5,  # keeps a perfect sample from dividing by zero
    ) -> None:
        self.floor = floor

    def divisor(self, x: Tensor, real: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return row_mean((x - real).abs()).detach().clamp_min(self.floor)


class NoiseVariance(Normaliser):
    """(sigma / alpha)^2: the gradient becomes the plain difference of scores up to alpha (SwiftBrush)."""

    def divisor(self, x: Tensor, real: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return (sigma / alpha).square()


class NoNormaliser(Normaliser):
    """One."""

    def divisor(self, x: Tensor, real: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return torch.ones_like(sigma)


# --- laws of the noise level: uniform numbers -> times ----------------------------------------------------------------


class TimeLaw(Slot):
    """A law of t, given as its inverse distribution function."""

    def times(self, u: Tensor, path: Path) -> Tensor:
        """Uniform numbers [B] -> times [B] of ``path``."""
        raise NotImplementedError


class UniformTime(TimeLaw):
    """Uniform between ``low`` and ``high`` of the way from the path's least noise to its most, before the shift that
    the path may have. The defaults are DMD's, for the student; on an EDM path this is Karras' grid."""

    def __init__(
        self,
        low: Share = 0.02,  # of the way, where the law begins
        high: Share = 0.98,  # and where it ends
    ) -> None:
        self.low, self.high = low, high

    def times(self, u: Tensor, path: Path) -> Tensor:
        share = torch.lerp(torch.full_like(u, self.low), torch.full_like(u, self.high), u)
        return path.warp(path.t_min + (1 - path.t_min) * share)


class KarrasTime(TimeLaw):
    """sigma/alpha on Karras' grid: uniform in its ``rho``-th root from ``low`` to ``high`` of the way between the two
    ends."""

    def __init__(
        self,
        sigma_min: Positive = 0.002,  # least noise of the grid
        sigma_max: Positive = 80.0,  # and its most
        rho: Positive = 7.0,  # the root in which it is even
        low: Share = 0.0,  # of the way, where the law begins
        high: Share = 1.0,  # and where it ends
    ) -> None:
        self.sigma_min, self.sigma_max, self.rho, self.low, self.high = sigma_min, sigma_max, rho, low, high

    def times(self, u: Tensor, path: Path) -> Tensor:
        first, last = self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)
        return path.time_of((first + (last - first) * (self.low + (self.high - self.low) * u)) ** self.rho)


class BetaTime(TimeLaw):
    """Beta(``a``, ``b``) on [0, 1]."""

    def __init__(
        self,
        a: Positive = 2.0,  # above b: more noise
        b: Positive = 1.0,  # above a: less
    ) -> None:
        self.a, self.b = a, b

    def times(self, u: Tensor, path: Path) -> Tensor:
        from scipy.special import betaincinv

        return torch.as_tensor(betaincinv(self.a, self.b, u.double().cpu().numpy())).to(u)


class LogNormalTime(TimeLaw):
    """log(sigma / alpha) normal with ``mean`` and ``std``, as EDM trains (Karras et al. 2022), within the path's
    ends."""

    def __init__(self, mean: Finite = -1.2, std: Positive = 1.2) -> None:
        self.mean, self.std = mean, std

    def times(self, u: Tensor, path: Path) -> Tensor:
        inside = u.double().clamp(1e-6, 1 - 1e-6)  # the ends of the law are infinite
        ratio = (self.mean + self.std * torch.special.ndtri(inside)).exp()
        return path.time_of(ratio).clamp(path.t_min, 1.0).to(u)


class AboveTime(TimeLaw):
    """Uniform on [``start``, 1]: only noise above the level that a sample still has (phased and decoupled DMD)."""

    def __init__(
        self,
        start: Share = 0.5,  # the least time
    ) -> None:
        self.start = start

    def times(self, u: Tensor, path: Path) -> Tensor:
        return self.start + (1 - self.start) * u


# --- the turns --------------------------------------------------------------------------------------------------------


class ScoreDistiller(Slot):
    """The student's objective: which divergence, how normalised, at which noise levels."""

    def __init__(
        self, matching: Matching | None = None, normaliser: Normaliser | None = None, law: TimeLaw | None = None
    ) -> None:
        self.matching = matching or ReverseKl()
        self.normaliser = normaliser or TeacherDistance()
        self.law = law or UniformTime()

    def loss(self, x: Tensor, real: Tensor, fake: Tensor, path: Path, t: Tensor, logit: Tensor | None = None) -> Tensor:
        """The scalar loss of samples ``x`` [B, ...], given both denoised versions of their noised selves at ``t``
        [B]."""
        if not self.matching.through:
            real, fake = real.detach(), fake.detach()
        divisor = self.normaliser.divisor(x, real, path.alpha(t), path.sigma(t))
        return (score_loss(x, real, fake, *self.matching.at(x, real, fake, logit, path.snr(t))) / divisor).mean()


def prediction_weight(path: Path, t: Tensor, kind: str) -> Tensor:
    """Squared error of a ``kind`` prediction per squared error of x0, [B]: SNR for "eps", 1/t^2 for the flow's
    velocity, sigma^-2 + sigma_data^-2 for "edm" (Karras et al. 2022, table 1)."""
    a, b = path.pair(t, kind)
    return (a - b * path.alpha(t) / path.sigma(t)).square()


def denoising_loss(denoised: Tensor, x: Tensor, path: Path, t: Tensor, kind: str) -> Tensor:
    """The critic's regression of clean samples ``x`` [B, ...] in the units of its own prediction, a scalar; t > 0."""
    return (prediction_weight(path, t, kind) * row_mean((denoised - x).square())).mean()


def student_times(path: Path, steps: int) -> Tensor:
    """The descending times [steps] at which a student of so many steps is asked, from 1 on.

    Where a grid ends at the least noise (EDM) the student's is one longer: no step is spent on almost clean input.
    """
    return path.grid(steps + 1 if path.t_min else steps)[:steps]


@torch.no_grad()
def backward_simulation(
    student: Denoise, path: Path, times: Sequence[Tensor], noises: Sequence[Tensor], condition: Any = None
) -> Tensor:
    """The student's own input at ``times[-1]`` (DMD2, section 4.5): from pure noise at ``times[0]``, denoise and noise
    again.

    ``times``: j + 1 descending scalars; ``noises``: as many standard normal tensors [B, ...], fresh for every level.
    """
    x_t = path.prior(noises[0], float(times[0]))
    for t, s, noise in zip(times, times[1:], noises[1:]):
        x_t = path.add_noise(student(x_t, t, condition), noise, s)
    return x_t


def few_step(
    student: Denoise, path: Path, times: Sequence[Tensor], noises: Sequence[Tensor], condition: Any = None
) -> Tensor:
    """Samples x0 [B, ...] of a student of ``len(times)`` steps; the gradient flows through the last call only."""
    x_t = backward_simulation(student, path, times, noises, condition)
    return student(x_t, times[-1], condition)
