"""Gaussian mixtures: the bed on which everything in diffusion is known exactly.

p(x0) = sum_k w_k N(m_k, s^2 1)   =>   p_t(x) = sum_k w_k N(alpha m_k, (alpha^2 s^2 + sigma^2) 1)
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from redistill.diffusion.paths import Edm, Path, expand
from redistill.diffusion.solvers import heun


class Mixture(nn.Module):
    """Equal isotropic components of standard deviation ``std`` at ``means`` [K, d], with ``weights`` [K] (default
    equal).
    """

    def __init__(self, means: Tensor, std: float, weights: Tensor | None = None) -> None:
        super().__init__()
        weights = torch.ones(len(means), dtype=torch.float64) if weights is None else weights.double()
        self.register_buffer("means", means.double())
        self.register_buffer("weights", weights / weights.sum())
        self.std = std

    @property
    def dim(self) -> int:
        return self.means.shape[1]

    def sample(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """(points [count, d] in float32, component of each [count])."""
        label = torch.multinomial(self.weights, count, replacement=True, generator=generator)
        noise = torch.randn(count, self.dim, generator=generator)
        return self.means[label].float() + self.std * noise, label

    def histogram(self, x: Tensor, within: float = 3.0) -> Tensor:
        """Share of the points [B, d] that lie within ``within`` standard deviations (times sqrt(d / 2)) of each mode,
        [K].
        """
        distance = torch.cdist(x.double(), self.means)  # [B, K]
        near, mode = distance.min(1)
        valid = near <= within * self.std * math.sqrt(self.dim / 2)
        return torch.bincount(mode[valid], minlength=len(self.means)) / len(x)

    def valid(self, x: Tensor) -> float:
        """Share of the points that lie near some mode (:meth:`histogram`)."""
        return float(self.histogram(x).sum())

    def modes(self, x: Tensor, least: float = 0.2) -> int:
        """Number of modes that got at least ``least`` of their due share of the points."""
        return int((self.histogram(x) >= least * self.weights).sum())


def ring(modes: int = 8, radius: float = 2.0, std: float = 0.15) -> Mixture:
    """``modes`` components on a circle."""
    angle = torch.arange(modes, dtype=torch.float64) * 2 * math.pi / modes
    return Mixture(radius * torch.stack([angle.cos(), angle.sin()], dim=1), std)


def grid(side: int = 5, spacing: float = 1.0, std: float = 0.1) -> Mixture:
    """``side`` x ``side`` components on a centred square lattice."""
    axis = (torch.arange(side, dtype=torch.float64) - (side - 1) / 2) * spacing
    return Mixture(torch.cartesian_prod(axis, axis), std)


def pair(distance: float = 2.0, std: float = 0.3) -> Mixture:
    """Two components on a line."""
    return Mixture(torch.tensor([[-distance / 2], [distance / 2]]), std)


def single(dim: int = 2, std: float = 0.5, mean: float = 0.0) -> Mixture:
    """One Gaussian: its probability-flow ODE is linear."""
    return Mixture(torch.full((1, dim), mean), std)


class Exact(nn.Module):
    """The exact denoiser of a mixture on a path: ``exact(x_t, t, label=None) -> E[x0 | x_t (, component)]``, [B, d].

    Stands wherever a :class:`~redistill.diffusion.denoiser.Denoiser` does; a label (int [B]) restricts the data to one
    component, and ``len(means)`` as a label restricts nothing.
    """

    kind = "x0"

    def __init__(self, mixture: Mixture, path: Path | None = None) -> None:
        super().__init__()
        self.mixture, self.path = mixture, path or Edm(0.02, 20.0)

    def forward(self, x_t: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        alpha, variance = self._scales(x_t, t)
        offset = x_t[:, None] - alpha * self._means(x_t)  # [B, K, d]
        means = self._means(x_t) + alpha * self.mixture.std**2 / variance * offset  # E[x0 | x_t, k]
        share = self._joint(x_t, t, label).softmax(1)  # [B, K]
        return (share[..., None] * means).sum(1)

    def log_density(self, x_t: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """log p_t(x_t), [B]; with a label the density of that component alone, times its weight."""
        return self._joint(x_t, t, label).logsumexp(1)

    def score(self, x_t: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """Gradient of log p_t, [B, d]."""
        alpha, variance = self._scales(x_t, t)
        share = self._joint(x_t, t, label).softmax(1)
        return (share[..., None] * (alpha * self._means(x_t) - x_t[:, None]) / variance).sum(1)

    def endpoints(self, x: Tensor, label: Tensor | None = None, steps: int = 400) -> Tensor:
        """Where the probability-flow ODE takes states at t = 1 to, [B, d] float64: Heun on a fine grid."""
        return heun(self, x, self.path.grid(steps), condition=label, dtype=torch.float64)

    def _means(self, x: Tensor) -> Tensor:
        return self.mixture.means.to(x)

    def _scales(self, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """alpha and alpha^2 s^2 + sigma^2, ready for [B, K, d]."""
        alpha, sigma = (expand(c, x_t[:, None]) for c in (self.path.alpha(t), self.path.sigma(t)))
        return alpha, alpha**2 * self.mixture.std**2 + sigma**2

    def _joint(self, x_t: Tensor, t: Tensor, label: Tensor | None) -> Tensor:
        """log w_k N(x_t; alpha m_k, variance), [B, K]; minus infinity off the label."""
        alpha, variance = self._scales(x_t, t)
        square = ((x_t[:, None] - alpha * self._means(x_t)) ** 2 / variance).sum(2)
        normal = -0.5 * square - 0.5 * self.mixture.dim * torch.log(2 * math.pi * variance.reshape(-1, 1))
        joint = self.mixture.weights.log().to(x_t) + normal
        if label is None:
            return joint
        modes = torch.arange(joint.shape[1], device=x_t.device)
        kept = (modes == label[:, None]) | (label[:, None] == len(modes))
        return joint.masked_fill(~kept, -torch.inf)
