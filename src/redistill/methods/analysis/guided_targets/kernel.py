"""Kernel ridge regression in the eigenbasis of its kernel, where refits to mixed targets are filters.

K = V diag(d) V^T over n rows. A fit to targets V T V^T Y, for a diagonal *mixture* T, is

    f(x) = kappa(x, X) V diag(T / (d + lam)) V^T Y,      f(X) = V B V^T Y with B = a T,  a = d / (d + lam)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from redistill.core.errors import UserError

Array = np.ndarray
Kernel = Callable[[Array, Array], Array]


@dataclass(frozen=True)
class KernelSpectrum:
    """``V`` [n, r], ``d`` [r] rising and not below 0; kappa(x, X) V = kernel(x, ``rows``) ``across`` for new rows x."""

    V: Array
    d: Array
    rows: Array
    across: Array


def kernel_spectrum(X: Array, kernel: Kernel) -> KernelSpectrum:
    """The spectrum of ``kernel(X, X)``. Raises :class:`UserError` for a kernel that is not positive."""
    K = np.asarray(kernel(X, X), dtype=np.float64)
    d, V = np.linalg.eigh((K + K.T) / 2)
    if d[0] < -1e-8 * max(d[-1], 0.0):
        raise UserError(f"the kernel has a negative eigenvalue, {d[0]:.3g}; use a positive one", place="kernel")
    return KernelSpectrum(V, np.maximum(d, 0.0), X, V)


def nystroem_spectrum(X: Array, kernel: Kernel, landmarks: int | None, seed: int = 0) -> KernelSpectrum:
    """The same for the kernel seen through some ``landmarks`` of the rows (None: all of them, exactly): n times
    landmarks numbers instead of n^2."""
    if landmarks is None:
        return kernel_spectrum(X, kernel)
    if landmarks < 1:
        raise UserError(f"landmarks={landmarks}; give a number of rows, or None for all", place="kernel")
    some = X[np.random.default_rng(seed).permutation(len(X))[:landmarks]]
    inner = kernel_spectrum(some, kernel)
    kept = inner.d > len(some) * np.finfo(float).eps * inner.d[-1]
    to_features = inner.V[:, kept] / np.sqrt(inner.d[kept])  # their inner products are the approximate kernel
    V, s, Wt = np.linalg.svd(kernel(X, some) @ to_features, full_matrices=False)
    return KernelSpectrum(V[:, ::-1], s[::-1] ** 2, some, (to_features @ Wt.T * s)[:, ::-1])


def shrinkage(d: Array, lam: float) -> Array:
    """A: what one fit leaves of each direction, a = d / (d + lam)."""
    return d / (d + lam)


def rounds_filter(a: Array, alphas: Sequence[float]) -> Array:
    """B after one round a weight: B_0 = 1, B_t = a ((1 - alpha_t) B_{t-1} + alpha_t)."""
    B = np.ones_like(a)
    for alpha in alphas:
        B = a * ((1 - alpha) * B + alpha)
    return B


def constant_filter(a: Array, alpha: float, rounds: int) -> Array:
    """The same for one weight throughout, without iterating: with q = (1 - alpha) a,
    B = q^rounds + alpha a (1 - q^rounds) / (1 - q)."""
    q = (1 - alpha) * a
    return q**rounds + alpha * a * (1 - q**rounds) / (1 - q)


def limit_filter(d: Array, lam: float, alpha: float) -> Array:
    """B after endless rounds, alpha d / (alpha d + lam): one fit with the penalty lam / alpha, or 0 for alpha = 0."""
    return alpha * d / (alpha * d + lam)


def mixture(d: Array, lam: float, alpha: float | Sequence[float], rounds: float) -> Array:
    """T of the targets of round ``rounds`` (1, 2, ... or ``math.inf``): alpha + (1 - alpha) B of the round before.

    ``alpha``: one number in [0, 1], or one of any size a round (the first has no effect: Y_0 = Y). Raises
    :class:`UserError` for other weights and rounds.
    """
    if not (rounds == math.inf or (rounds == int(rounds) and rounds >= 1)):
        raise UserError(f"rounds={rounds}; give a whole number from 1, or math.inf", place="rounds")
    if isinstance(alpha, Sequence | np.ndarray) and not isinstance(alpha, str):
        if len(alpha) < rounds:
            raise UserError(f"{len(alpha)} weights for {rounds} rounds; give one a round", place="alpha")
        *before, last = alpha[: int(rounds)]
        return last + (1 - last) * rounds_filter(shrinkage(d, lam), before)
    check_share(alpha)
    if rounds == math.inf:
        return alpha + (1 - alpha) * limit_filter(d, lam, alpha)
    return alpha + (1 - alpha) * constant_filter(shrinkage(d, lam), alpha, int(rounds) - 1)


def check_share(alpha: Any) -> None:
    """Refuse a weight of the true targets that is no number from 0 to 1."""
    if isinstance(alpha, str) or not 0 <= alpha <= 1:
        raise UserError(f"alpha={alpha!r}; give a number from 0 to 1", place="alpha")


def best_share(target: Array, labels: Array, teacher: Array) -> float:
    """alpha*, any real number: where on the line from the predictions ``teacher`` (fitted to the last predictions) to
    ``labels`` (fitted to the true targets) the squared error to ``target`` is least. 1 where the two are equal."""
    along = labels - teacher
    length = float((along**2).sum())
    return float(((target - teacher) * along).sum() / length) if length > 0 else 1.0
