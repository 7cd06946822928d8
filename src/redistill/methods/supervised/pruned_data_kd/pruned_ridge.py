"""Ridge regression on kept rows, taught by a ridge regression on more rows: exact bias and variance.

    theta_t = (X_t^T X_t + lam I)^-1 X_t^T y_t
    theta_s = (X_f^T X_f + lam I)^-1 X_f^T (alpha X_f theta_t + (1 - alpha) y_f)

The rows f are among the rows t. Both fits are linear in y = X theta* + noise, so their errors need no sampling.
"""

from __future__ import annotations

import numpy as np

from redistill.core.errors import UserError
from redistill.core.types import Positive, checked
from redistill.theory.ridge import shrinkage, spectrum

Array = np.ndarray


@checked
def ridge(X: Array, y: Array, lam: Positive) -> Array:
    """(X^T X + lam I)^-1 X^T y for ``X`` [n, d] and ``y`` [n] or [n, m]."""
    basis = spectrum(X)
    return basis.coefficients(shrinkage(basis.s, lam), y)


def student(X: Array, y: Array, taught: Array, kept: Array, lam: float, alpha: float) -> Array:
    """theta_s [d] or [d, m]. ``X`` [n, d], ``y`` [n] or [n, m]; ``taught`` and ``kept``: the rows of teacher and
    student. Raises :class:`UserError` when the student keeps a row that its teacher has not seen."""
    if not np.isin(kept, taught).all():
        raise UserError("the student keeps rows that its teacher has not seen", place="kept")
    theta_t = ridge(X[taught], y[taught], lam)
    return ridge(X[kept], alpha * X[kept] @ theta_t + (1 - alpha) * y[kept], lam)


def bias(X: Array, theta: Array, taught: Array, kept: Array, lam: float, alpha: float) -> Array:
    """theta* - E theta_s [d] = lam G_f^-1 theta* + alpha G_f^-1 X_f^T X_f lam G_t^-1 theta*, with G = X^T X + lam I."""
    return theta - student(X, X @ theta, taught, kept, lam, alpha)


def variance(X: Array, taught: Array, kept: Array, lam: float, alpha: float) -> float:
    """E |theta_s - E theta_s|^2 for noise of variance 1 on every label."""
    return float((student(X, np.eye(len(X)), taught, kept, lam, alpha) ** 2).sum())
