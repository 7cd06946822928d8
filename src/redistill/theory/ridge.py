"""Ridge regression in the basis of the data: teachers, students and their exact risks are diagonal there.

Rows of ``X`` [n, d] are samples, X = U diag(s) V^T. A *filter* h [r] is the linear fit theta = V diag(h / s) U^T y:
h = 1 is least squares, h = a = s^2 / (s^2 + lambda) is ridge, and a refit to a mixture of labels and predictions is a
filter too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from redistill.core.errors import UserError

Array = np.ndarray


@dataclass(frozen=True)
class Spectrum:
    """Thin singular value decomposition cut to the numerical rank r: ``U`` [n, r], ``s`` [r] falling, ``V`` [d, r]."""

    U: Array
    s: Array
    V: Array

    def coefficients(self, h: Array, y: Array) -> Array:
        """theta = V diag(h / s) U^T y for labels ``y`` [n] or [n, m]: [d] or [d, m]."""
        return (self.V * (h / self.s)) @ (self.U.T @ y)

    def alignment(self, y: Array) -> Array:
        """Share of the least-squares fit's squared length in each direction v_j, for ``y`` [n]: [r], sums to 1."""
        squared = ((self.U.T @ y) / self.s) ** 2
        return squared / squared.sum()


def spectrum(X: Array) -> Spectrum:
    """The spectrum of ``X`` [n, d] in float64."""
    X = np.asarray(X, dtype=np.float64)
    U, s, Vt = np.linalg.svd(X, full_matrices=False)
    rank = int((s > s[0] * max(X.shape) * np.finfo(float).eps).sum())
    if rank == 0:
        raise UserError("every feature is constant; there is nothing to regress on", place="X")
    return Spectrum(U[:, :rank], s[:rank], Vt[:rank].T)


def check_targets(y_val: Array, y: Array) -> None:
    """Refuse validation targets of another width than ``y``, which would be broadcast against each other."""
    if y_val.shape[1:] != y.shape[1:]:
        said = f"shape[1:] is {y_val.shape[1:]}, that of the training targets {y.shape[1:]}"
        raise UserError(f"{said}; give both as [n], or both as [n, m]", place="y_val")


def shrinkage(s: Array, lam: float) -> Array:
    """Ridge's filter a_j = s_j^2 / (s_j^2 + lambda)."""
    return s**2 / (s**2 + lam)


def distil(a: Array, xi: Sequence[float]) -> Array:
    """The filter after len(xi) rounds: ridge ``a`` refitted to xi_t (predictions so far) + (1 - xi_t) (labels)."""
    h = a
    for xi_t in xi:
        h = a * ((1 - xi_t) + xi_t * h)
    return h


@dataclass(frozen=True)
class Truth:
    """A fixed design with known parameter: ``s`` [r], ``t`` [r] = <v_j, theta*>, noise ``sigma``, ``n`` rows."""

    s: Array
    t: Array
    sigma: float
    n: int = 1

    @property
    def weight(self) -> Array:
        """Second moment of U^T y: w_j = s_j^2 t_j^2 + sigma^2."""
        return (self.s * self.t) ** 2 + self.sigma**2

    @property
    def oracle(self) -> Array:
        """The filter of least risk, h*_j = s_j^2 t_j^2 / w_j."""
        return (self.s * self.t) ** 2 / self.weight

    def excess_risk(self, h: Array) -> float:
        """E |X(theta_h - theta*)|^2 / n = (1/n) sum_j [ s_j^2 t_j^2 (1 - h_j)^2 + sigma^2 h_j^2 ]."""
        return float((((self.s * self.t) * (1 - h)) ** 2 + (self.sigma * h) ** 2).sum() / self.n)
