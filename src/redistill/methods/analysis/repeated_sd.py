"""Repeated self-distillation of ridge regression: k refits to mixtures of the labels and the model's own predictions.

Who teaches: the model of the round before. On what: the same training rows. Match: squared error, closed form.

    theta_0 = (X^T X + lam I)^-1 X^T y,     theta_t = (X^T X + lam I)^-1 X^T (xi_t X theta_{t-1} + (1 - xi_t) y)

The weights xi_t are free real numbers. In the basis of X the k rounds are one filter,

    h_j = a_j (1 - sum_{i=1..k} xi_bar_i (1 - a_j^i)),     a_j = s_j^2 / (s_j^2 + lam),

linear in xi_bar, so the best weights are a least-squares solve. Each round adds one free parameter; rank(X) rounds
reach the best filter there is, for every lam (Pareek, Du and Oh 2024, arXiv 2407.04600).

Differs from the paper: xi_bar comes from least squares on the validation residuals, where the paper fits the equivalent
quadratic through evaluations. Weights are not confined to [0, 1]: that would take most of the gain away.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
from sklearn.base import BaseEstimator, MultiOutputMixin, RegressorMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from redistill.core.errors import UserError
from redistill.theory.ridge import Spectrum, Truth, check_targets, shrinkage, spectrum

Array = np.ndarray
NUMERIC = {"dtype": np.float64, "y_numeric": True}


def to_mixture(xi: Sequence[float]) -> Array:
    """xi_bar_i = (1 - xi_{k-i}) prod_{l > k-i} xi_l with xi_0 = 0: the filter's coefficient of a^i."""
    xi = np.asarray(xi, dtype=np.float64)[::-1]  # xi_k ... xi_1
    tails = np.cumprod(xi)  # sum_{j >= i} xi_bar_j
    return tails - np.append(tails[1:], 0.0)


def to_rounds(xi_bar: Sequence[float]) -> Array:
    """Weights xi_1 .. xi_k whose rounds have the mixture ``xi_bar``: 0 for all rounds before one that takes the labels
    alone. Refuses a mixture that no rounds reach."""
    from_last = np.asarray(xi_bar, dtype=np.float64)[::-1]
    tails = np.cumsum(from_last)[::-1]  # T_m = sum_{i >= m} xi_bar_i
    tails = np.where(np.abs(tails) <= 1e-12 * np.cumsum(np.abs(from_last))[::-1], 0.0, tails)
    before = np.append(1.0, tails[:-1])
    if np.any((before == 0) & (tails != 0)):
        raise UserError(
            "a tail of xi_bar sums to 0, so no rounds have this mixture; use the mixture itself", place="xi_bar"
        )
    return np.divide(tails, before, out=np.zeros_like(tails), where=before != 0)[::-1]


def pure_rounds(a: Array, k: int) -> Array:
    """F_ji = a_j (a_j^i - 1): what i = 1..k rounds on predictions alone (all xi = 1) change in the filter."""
    return a[:, None] * (a[:, None] ** np.arange(1, k + 1) - 1)  # [r, k]


def mixed_filter(a: Array, xi_bar: Sequence[float]) -> Array:
    """h = a + F xi_bar."""
    return a + pure_rounds(a, len(xi_bar)) @ np.asarray(xi_bar, dtype=np.float64)


def best_mixture(truth: Truth, lam: float, k: int) -> Array:
    """The xi_bar of least excess risk for a known truth: weighted least squares of (h* - a) on F."""
    a, root = shrinkage(truth.s, lam), np.sqrt(truth.weight)
    return np.linalg.lstsq(root[:, None] * pure_rounds(a, k), root * (truth.oracle - a), rcond=1e-15)[0]


def best_risk(truth: Truth, k: int, lambdas: Sequence[float]) -> float:
    """The least excess risk of k rounds over the grid ``lambdas``, each with its own best weights."""
    filters = (mixed_filter(shrinkage(truth.s, lam), best_mixture(truth, lam, k)) for lam in lambdas)
    return min(truth.excess_risk(h) for h in filters)


class RepeatedRidge(MultiOutputMixin, RegressorMixin, BaseEstimator):
    """Ridge regression after ``len(xi_bar)`` rounds of self-distillation, as a scikit-learn regressor.

    ``xi_bar`` is the mixture (:func:`to_mixture` makes it from per-round weights); the empty one is plain ridge. The
    intercept is not penalised. Fitted: ``coef_``, ``intercept_``; :attr:`xi` gives the weights round by round.
    """

    def __init__(self, lam: float = 1.0, xi_bar: Sequence[float] = (), fit_intercept: bool = True) -> None:
        self.lam, self.xi_bar, self.fit_intercept = lam, xi_bar, fit_intercept

    def fit(self, X: Array, y: Array) -> RepeatedRidge:
        """Fit to ``X`` [n, d] and ``y`` [n] or [n, m]."""
        X, y = validate_data(self, X, y, multi_output=True, ensure_min_samples=2, **NUMERIC)
        return self._fit(*_centred(X, y, self.fit_intercept))

    def _fit(self, basis: Spectrum, X_mean: Array, y: Array, y_mean: Array) -> RepeatedRidge:
        if not self.lam > 0:
            raise UserError(f"lam={self.lam}; give a number above 0", place="RepeatedRidge")
        coefficients = basis.coefficients(mixed_filter(shrinkage(basis.s, self.lam), self.xi_bar), y)
        self.coef_ = coefficients.T
        self.intercept_ = y_mean - X_mean @ coefficients
        return self

    def predict(self, X: Array) -> Array:
        """Predictions for ``X`` [N, d]: [N] or [N, m]."""
        check_is_fitted(self)
        return validate_data(self, X, dtype=np.float64, reset=False) @ self.coef_.T + self.intercept_

    @property
    def xi(self) -> Array:
        """The imitation weights xi_1 .. xi_k of the rounds."""
        return to_rounds(self.xi_bar)


def _centred(X: Array, y: Array, intercept: bool) -> tuple[Spectrum, Array, Array, Array]:
    """Spectrum of the centred rows, their mean, the centred labels, their mean. Rounds keep the mean of the labels."""
    y = np.asarray(y, dtype=np.float64)
    X_mean, y_mean = (X.mean(0), y.mean(0)) if intercept else (np.zeros(X.shape[1]), np.zeros(y.shape[1:]))
    return spectrum(X - X_mean), X_mean, y - y_mean, y_mean


def fit_repeated(
    X: Array, y: Array, X_val: Array, y_val: Array, *, rounds: int = 2, lambdas: Sequence[float] | None = None
) -> RepeatedRidge:
    """Choose lam and the weights of ``rounds`` rounds on validation rows, and give back the fitted regressor.

    Per lam the validation error is quadratic in xi_bar, so its minimum is one least-squares solve; then the best lam is
    kept (default grid: eight decades around the largest eigenvalue of X^T X). ``validation_mse_`` holds its error.
    """
    model = RepeatedRidge()
    X, y = validate_data(model, X, y, multi_output=True, ensure_min_samples=2, **NUMERIC)
    X_val, y_val = validate_data(model, X_val, y_val, multi_output=True, reset=False, **NUMERIC)
    _check_rounds(rounds, len(y_val))
    check_targets(y_val, y)
    basis, X_mean, y_c, y_mean = centred = _centred(X, y, intercept=True)
    per_direction = _contributions(basis, X_val - X_mean, y_c)  # [N (m), r]
    residual = (y_val - y_mean).ravel()
    grid = basis.s[0] ** 2 * np.logspace(-6, 2, 33) if lambdas is None else lambdas
    tuned = [(*_tune(shrinkage(basis.s, lam), rounds, per_direction, residual), lam) for lam in grid]
    mse, xi_bar, lam = min(tuned, key=lambda row: row[0])
    model.validation_mse_ = mse
    return model.set_params(lam=float(lam), xi_bar=tuple(xi_bar.tolist()))._fit(*centred)


def _contributions(basis: Spectrum, X_val: Array, y: Array) -> Array:
    """Predictions are this [N m, r] times the filter: the part of every direction in every validation prediction."""
    at_full = (basis.U.T @ y).reshape(len(basis.s), -1) / basis.s[:, None]  # [r, m]
    return np.einsum("nr,rm->nmr", X_val @ basis.V, at_full).reshape(-1, len(basis.s))


def _tune(a: Array, rounds: int, per_direction: Array, target: Array) -> tuple[float, Array]:
    """Validation error and xi_bar of the best mixture for one lam. Rounds that differ by rounding alone, as they do for
    a small lam or few directions, are not told apart: their weights would be of any size and cancel."""
    left = target - per_direction @ a
    columns = per_direction @ pure_rounds(a, rounds)
    xi_bar = np.linalg.lstsq(columns, left, rcond=1e-6)[0] if rounds else np.empty(0)
    return float(np.mean((left - columns @ xi_bar) ** 2)), xi_bar


def _check_rounds(rounds: int, rows: int) -> None:
    if not isinstance(rounds, int) or rounds < 0:
        raise UserError(f"rounds={rounds!r}; give a whole number from 0 (plain ridge)", place="fit_repeated")
    if rows <= rounds + 1:
        raise UserError(f"{rows} validation rows cannot choose {rounds + 1} parameters; give more rows", place="y_val")
    if rows < 20 and rounds > 1:
        warnings.warn(f"{rounds} weights and lam chosen on {rows} validation rows will over-fit", stacklevel=3)
