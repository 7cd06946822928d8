"""Ridge in the basis of the data against direct solves."""

from __future__ import annotations

import numpy as np
import pytest

from redistill.core.errors import UserError
from redistill.theory import ridge

RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((30, 5)), RNG.standard_normal(30)


def solve(X, y, lam):
    return np.linalg.solve(X.T @ X + lam * np.eye(X.shape[1]), X.T @ y)


def test_shrinkage_is_the_ridge_solution():
    basis = ridge.spectrum(X)
    theta = basis.coefficients(ridge.shrinkage(basis.s, 2.5), Y)
    np.testing.assert_allclose(theta, solve(X, Y, 2.5), rtol=1e-12)


def test_distil_is_the_rounds_played_literally():
    basis, lam, xi = ridge.spectrum(X), 2.5, (0.4, -1.3, 2.2)
    theta = solve(X, Y, lam)
    for xi_t in xi:
        theta = solve(X, xi_t * X @ theta + (1 - xi_t) * Y, lam)
    np.testing.assert_allclose(
        basis.coefficients(ridge.distil(ridge.shrinkage(basis.s, lam), xi), Y), theta, rtol=1e-12
    )


def test_spectrum_drops_dependent_columns():
    basis = ridge.spectrum(np.column_stack([X, X[:, 0] - 2 * X[:, 1]]))
    assert len(basis.s) == 5 and basis.V.shape == (6, 5)
    with pytest.raises(UserError, match="constant"):
        ridge.spectrum(np.zeros((4, 2)))


def test_alignment_finds_the_direction_of_the_parameter():
    basis = ridge.spectrum(X)
    share = basis.alignment(X @ basis.V[:, 3] * 7)
    np.testing.assert_allclose(share, np.eye(5)[3], atol=1e-12)


def test_excess_risk_is_the_average_over_noise():
    basis, theta, sigma, lam = ridge.spectrum(X), np.arange(5.0), 0.7, 3.0
    h = ridge.distil(ridge.shrinkage(basis.s, lam), (1.5,))
    noise = np.random.default_rng(1).standard_normal((30, 20000)) * sigma
    fits = basis.coefficients(h, (X @ theta)[:, None] + noise)
    drawn = ((X @ (fits - theta[:, None])) ** 2).mean(0)
    truth = ridge.Truth(basis.s, basis.V.T @ theta, sigma, n=30)
    assert truth.excess_risk(h) == pytest.approx(drawn.mean(), abs=4 * drawn.std() / np.sqrt(20000))


def test_no_filter_beats_the_oracle():
    truth = ridge.Truth(np.array([3.0, 2.0, 1.0]), np.array([0.1, -2.0, 0.5]), 0.8)
    least = truth.excess_risk(truth.oracle)
    assert least == pytest.approx((0.8**2 * (truth.s * truth.t) ** 2 / truth.weight).sum())
    for _ in range(100):
        assert truth.excess_risk(truth.oracle + RNG.normal(size=3) * 0.1) > least
