"""Noising paths and every conversion between what diffusion networks predict.

    x_t = alpha(t) x0 + sigma(t) eps,    eps ~ N(0, 1),    t in [0, 1]: 0 is data, 1 is noise

A network predicts one linear combination a x0 + b eps of the two; the pair (a, b) at time t is all that tells one
*kind* from another ("x0", "eps", "v", "flow", and EDM's "edm"), so two formulas convert them all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import ClassVar

import torch
from torch import Tensor

from redistill.core.errors import UserError, unknown
from redistill.core.slot import Slot

Pair = tuple[Tensor, Tensor]


def expand(t: Tensor, x: Tensor) -> Tensor:
    """``t`` ([B] or a scalar) as [B, 1, 1, ...], ready to multiply ``x`` [B, ...], in its working precision."""
    t = t.to(x.device, working(x))
    return t.reshape(-1, *[1] * (x.dim() - 1)) if t.dim() else t


def working(x: Tensor) -> torch.dtype:
    """The precision of conversions: float32 for everything narrower, because 1/alpha amplifies rounding."""
    return torch.promote_types(x.dtype, torch.float32)


class Path(Slot):
    """A noising path. Times are tensors [B] or scalars (float64 where it matters), states are [B, ...].

    ``sigma_data``: standard deviation of the data, for the kinds and inputs that are scaled by it.
    """

    kinds: ClassVar[tuple[str, ...]] = ("x0", "eps", "v", "flow")
    t_min: float = 0.0
    """Where time grids that need noise end before the last step to t = 0; 0 = no such step."""
    sigma_data: float = 1.0

    def alpha(self, t: Tensor) -> Tensor:
        """Scale of the data at ``t``, the shape of ``t``."""
        raise NotImplementedError

    def sigma(self, t: Tensor) -> Tensor:
        """Standard deviation of the noise at ``t``, the shape of ``t``."""
        raise NotImplementedError

    def time_of(self, ratio: Tensor) -> Tensor:
        """The time at which sigma / alpha equals ``ratio``."""
        raise NotImplementedError

    def clock(self, t: Tensor) -> Tensor:
        """The number that diffusers' networks for this path are told."""
        return 1000.0 * t

    def warp(self, u: Tensor) -> Tensor:
        """Uniform numbers in [0, 1] to times (the identity unless the path shifts its times)."""
        return u

    def pair(self, t: Tensor, kind: str) -> Pair:
        """(a, b) of the prediction ``a x0 + b eps`` called ``kind``."""
        alpha, sigma = self.alpha(t), self.sigma(t)
        one = torch.ones_like(alpha)
        if kind == "x0":
            return one, 0 * one
        if kind == "eps":
            return 0 * one, one
        if kind == "flow":
            return -one, one
        if kind == "v":
            return -sigma, alpha
        raise unknown("prediction kind", kind, self.kinds, place=type(self).__name__)

    def add_noise(self, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """x_t = alpha x0 + sigma eps, [B, ...]."""
        return expand(self.alpha(t), x0) * x0 + expand(self.sigma(t), x0) * eps

    renoise = add_noise

    def to_x0(self, x_t: Tensor, output: Tensor, t: Tensor, kind: str) -> Tensor:
        """The clean sample that a prediction of ``kind`` implies: x0 = (b x_t - sigma output) / (alpha b - sigma a)."""
        if kind == "x0":
            return output.to(working(x_t))
        a, b = self.pair(t, kind)
        alpha, sigma = self.alpha(t), self.sigma(t)
        if kind == "eps" and t.dim() == 0 and alpha == 0:
            raise UserError(f"at t = {float(t):g} there is no signal and the noise says nothing of x0; begin below, or "
                            "predict v or flow", place=f"eps on {type(self).__name__}")  # fmt: skip
        scale = alpha * b - sigma * a  # divided in the precision of t, which may be finer than that of x
        return expand(b / scale, x_t) * x_t - expand(sigma / scale, x_t) * output

    def from_x0(self, x_t: Tensor, x0: Tensor, t: Tensor, kind: str) -> Tensor:
        """The inverse of :meth:`to_x0`: what a network of ``kind`` should have said; needs sigma(t) > 0 unless
        ``kind`` is "x0".
        """
        if kind == "x0":
            return x0.to(working(x_t))
        return self.target(x0, self.eps_from_x0(x_t, x0, t), t, kind)

    def target(self, x0: Tensor, eps: Tensor, t: Tensor, kind: str) -> Tensor:
        """The prediction of ``kind`` that is right for a known clean sample and noise, at every t."""
        a, b = self.pair(t, kind)
        return expand(a, x0) * x0 + expand(b, x0) * eps

    def eps_from_x0(self, x_t: Tensor, x0: Tensor, t: Tensor) -> Tensor:
        """The noise in ``x_t`` if ``x0`` is its clean part: (x_t - alpha x0) / sigma; needs sigma(t) > 0."""
        return (x_t - expand(self.alpha(t), x_t) * x0) / expand(self.sigma(t), x_t)

    def score_from_x0(self, x_t: Tensor, x0: Tensor, t: Tensor) -> Tensor:
        """Gradient of log p_t at ``x_t`` (Tweedie): (alpha x0 - x_t) / sigma^2; needs sigma(t) > 0."""
        return (expand(self.alpha(t), x_t) * x0 - x_t) / expand(self.sigma(t) ** 2, x_t)

    def jump(self, x_t: Tensor, x0: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """J(x_t, t -> s) = alpha_s x0 + sigma_s eps: DDIM, the flow's Euler step and the CTM jump; upward in noise
        too.
        """
        ratio = self.sigma(s) / self.sigma(t)
        return expand(ratio, x_t) * x_t + expand(self.alpha(s) - ratio * self.alpha(t), x_t) * x0

    def settings(self) -> dict[str, float | str]:
        """Name and numbers of the path, for files that must know which path they belong to."""
        numbers = {key: value for key, value in vars(self).items() if isinstance(value, (int, float, str))}
        return {"name": type(self).__name__, **numbers}

    slope: ClassVar[str] = "flow"
    """The kind that is dy/dclock in the path's :meth:`frame`."""

    def frame(self, t: Tensor) -> Pair:
        """(scale, clock) in which the ODE is dy/dclock = :attr:`slope` with y = x / scale, and Euler's step is
        :meth:`jump`.

        Every path is a rectified flow in y = x / (alpha + sigma); nothing is singular at either end.
        """
        scale = self.alpha(t) + self.sigma(t)
        return scale, self.sigma(t) / scale

    def prior(self, eps: Tensor, start: float = 1.0) -> Tensor:
        """The state at time ``start`` that pure noise stands for: sigma(start) eps."""
        return eps * float(self.sigma(torch.tensor(start, dtype=torch.float64)))

    def ratio(self, t: Tensor) -> Tensor:
        """Noise-to-signal ratio sigma / alpha."""
        return self.sigma(t) / self.alpha(t)

    def log_snr(self, t: Tensor) -> Tensor:
        """2 log(alpha / sigma)."""
        return 2 * (self.alpha(t).log() - self.sigma(t).log())

    def snr(self, t: Tensor) -> Tensor:
        """alpha^2 / sigma^2."""
        return (self.alpha(t) / self.sigma(t)) ** 2

    def scale_input(self, x_t: Tensor, t: Tensor) -> Tensor:
        """``x_t`` divided by its own standard deviation, sqrt(alpha^2 sigma_data^2 + sigma^2) (EDM's c_in)."""
        return x_t / expand((self.alpha(t) ** 2 * self.sigma_data**2 + self.sigma(t) ** 2).sqrt(), x_t)

    def grid(self, steps: int, kind: str = "uniform", *, start: float = 1.0, end: float | None = None) -> Tensor:
        """``steps + 1`` descending times from ``start`` to 0, float64.

        "uniform" is uniform in t (and for :class:`Edm` just Karras' grid), "karras" in (sigma/alpha)^(1/7), "log_snr"
        in log-SNR. With ``end`` > 0 (default :attr:`t_min`) the first ``steps`` times run from ``start`` to ``end``
        and the last one is 0.
        """
        end = self.t_min if end is None else end
        if steps < 1 or not 0 <= end < start <= 1:
            raise UserError(
                f"steps={steps}, start={start}, end={end}: need steps >= 1 and 0 <= end < start <= 1", place="grid"
            )
        if kind not in GRIDS:
            raise unknown("grid", kind, GRIDS, place="grid")
        times = GRIDS[kind](self, steps if end else steps + 1, start, end)
        times = self.warp(times) if kind == "uniform" else times
        return torch.cat([times, times.new_zeros(1)]) if end else times


def _uniform(path: Path, count: int, start: float, end: float) -> Tensor:
    return torch.linspace(start, end, count, dtype=torch.float64)


def _by_ratio(path: Path, count: int, start: float, end: float, to: Callable, back: Callable) -> Tensor:
    """Times uniform in ``to(sigma / alpha)``; both ends must have finite, positive noise."""
    first, last = (to(path.ratio(torch.tensor(t, dtype=torch.float64))) for t in (start, end))
    if not (math.isfinite(first) and math.isfinite(last) and end > 0):
        raise UserError(f"start={start}, end={end}: this grid needs alpha > 0 and sigma > 0 at both ends", place="grid")
    ratios = torch.linspace(float(first), float(last), count, dtype=torch.float64)
    return path.time_of(back(ratios))


def _karras(path: Path, count: int, start: float, end: float) -> Tensor:
    return _by_ratio(path, count, start, end, lambda r: r ** (1 / 7), lambda r: r**7)


def _log_snr(path: Path, count: int, start: float, end: float) -> Tensor:
    return _by_ratio(path, count, start, end, torch.log, torch.exp)


GRIDS: Mapping[str, Callable[[Path, int, float, float], Tensor]] = {
    "uniform": _uniform,
    "karras": _karras,
    "log_snr": _log_snr,
}


class Flow(Path):
    """Rectified flow: x_t = (1 - t) x0 + t eps. ``shift`` moves grids (and :meth:`warp`) towards noise as SD3 and Flux
    do.
    """

    def __init__(self, shift: float = 1.0) -> None:
        self.shift = shift

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t

    def sigma(self, t: Tensor) -> Tensor:
        return t

    def time_of(self, ratio: Tensor) -> Tensor:
        return ratio / (1 + ratio)

    def warp(self, u: Tensor) -> Tensor:
        return self.shift * u / (1 + (self.shift - 1) * u)


class _RatioFrame(Path):
    """Paths whose ODE is usually written dy/d(sigma/alpha) = eps with y = x / alpha."""

    slope = "eps"

    def frame(self, t: Tensor) -> Pair:
        return self.alpha(t), self.ratio(t)


class Vp(_RatioFrame):
    """DDPM's discrete variance-preserving chain, continuous in between.

    alpha_bar is diffusers' own table at t = (k + 1) / ``table`` for timestep k, exactly 1 at t = 0, log-linear between
    the entries. ``schedule``: "linear" (DDPM), "scaled_linear" (Stable Diffusion: 0.00085 to 0.012) or
    "squaredcos_cap_v2".
    """

    def __init__(
        self, beta_start: float = 1e-4, beta_end: float = 0.02, schedule: str = "linear", table: int = 1000
    ) -> None:
        self.table, self.t_min = table, 0.0
        self._log_bar = torch.cat(
            [torch.zeros(1, dtype=torch.float64), _log_bars(beta_start, beta_end, schedule, table)]
        )

    def _bar(self, t: Tensor) -> Tensor:
        """alpha_bar(t), in the precision of ``t``."""
        place = t.double() * self.table
        below = place.floor().clamp(0, self.table - 1).long()
        log_bar = self._log_bar.to(t.device)
        return torch.lerp(log_bar[below], log_bar[below + 1], place - below).exp()

    def alpha(self, t: Tensor) -> Tensor:
        return self._bar(t).sqrt().to(t.dtype)

    def sigma(self, t: Tensor) -> Tensor:
        return (1 - self._bar(t)).sqrt().to(t.dtype)

    def time_of(self, ratio: Tensor) -> Tensor:
        rising = -self._log_bar.to(ratio.device)  # [table + 1]
        value = torch.log1p(ratio.double() ** 2)
        above = torch.searchsorted(rising, value.contiguous()).clamp(1, self.table)
        low, high = rising[above - 1], rising[above]
        return ((above - 1 + (value - low) / (high - low)) / self.table).to(ratio.dtype)

    def clock(self, t: Tensor) -> Tensor:
        """diffusers' timestep k = table * t - 1 (0 .. table - 1, fractional between)."""
        return self.table * t - 1


def _log_bars(beta_start: float, beta_end: float, schedule: str, table: int) -> Tensor:
    """log alpha_bar of the discrete schedules, [table], float64."""
    if schedule == "linear":
        betas = torch.linspace(beta_start, beta_end, table, dtype=torch.float64)
    elif schedule == "scaled_linear":
        betas = torch.linspace(beta_start**0.5, beta_end**0.5, table, dtype=torch.float64) ** 2
    elif schedule == "squaredcos_cap_v2":
        edges = torch.arange(table + 1, dtype=torch.float64) / table
        bars = torch.cos((edges + 0.008) / 1.008 * math.pi / 2) ** 2
        betas = (1 - bars[1:] / bars[:-1]).clamp(max=0.999)
    else:
        raise unknown("schedule", schedule, ("linear", "scaled_linear", "squaredcos_cap_v2"), place="Vp")
    return torch.log1p(-betas).cumsum(0)


class Cosine(Path):
    """alpha = cos(pi t / 2), sigma = sin(pi t / 2)."""

    def alpha(self, t: Tensor) -> Tensor:
        return torch.cos(t * math.pi / 2)

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sin(t * math.pi / 2)

    def time_of(self, ratio: Tensor) -> Tensor:
        return torch.atan(ratio) * 2 / math.pi


class Edm(_RatioFrame):
    """Karras et al. 2022 (arXiv 2206.00364): x = x0 + sigma eps with sigma(t) = sigma_max t^rho.

    A grid uniform in t from 1 to :attr:`t_min` (where sigma is ``sigma_min``) is exactly their equation (5), then
    sigma = 0.
    """

    kinds = (*Path.kinds, "edm")

    def __init__(
        self, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0, sigma_data: float = 0.5
    ) -> None:
        self.sigma_min, self.sigma_max, self.rho, self.sigma_data = sigma_min, sigma_max, rho, sigma_data
        self.t_min = (sigma_min / sigma_max) ** (1 / rho)

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        return self.sigma_max * t**self.rho

    def time_of(self, ratio: Tensor) -> Tensor:
        return (ratio / self.sigma_max) ** (1 / self.rho)

    def clock(self, t: Tensor) -> Tensor:
        """c_noise = log(sigma) / 4; finite where sigma is too small for its type."""
        sigma = self.sigma(t)
        return sigma.clamp_min(torch.finfo(sigma.dtype).tiny).log() / 4

    def pair(self, t: Tensor, kind: str) -> Pair:
        """Also "edm": F of D = c_skip x + c_out F, which is (sigma/sigma_data x0 - sigma_data eps) / sqrt(sigma^2 +
        sigma_data^2).
        """
        if kind != "edm":
            return super().pair(t, kind)
        sigma = self.sigma(t)
        norm = (sigma**2 + self.sigma_data**2).sqrt()
        return sigma / (self.sigma_data * norm), -self.sigma_data / norm


class Trig(Path):
    """TrigFlow (arXiv 2410.11081): x_t = cos(theta) x0 + sin(theta) z, z ~ N(0, sigma_data^2), theta = pi t / 2.

    Its "v" is dx/dtheta = cos(theta) z - sin(theta) x0 (the paper's sigma_data F), for which D = cos(theta) x_t -
    sin(theta) v.
    """

    def __init__(self, sigma_data: float = 0.5) -> None:
        self.sigma_data = sigma_data

    def alpha(self, t: Tensor) -> Tensor:
        return torch.cos(t * math.pi / 2)

    def sigma(self, t: Tensor) -> Tensor:
        return self.sigma_data * torch.sin(t * math.pi / 2)

    def time_of(self, ratio: Tensor) -> Tensor:
        return torch.atan(ratio / self.sigma_data) * 2 / math.pi

    def clock(self, t: Tensor) -> Tensor:
        """theta."""
        return t * math.pi / 2

    def pair(self, t: Tensor, kind: str) -> Pair:
        if kind != "v":
            return super().pair(t, kind)
        return -self.sigma(t) / self.sigma_data, self.sigma_data * self.alpha(t)
