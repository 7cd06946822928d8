"""Robust fits in logarithms."""

from __future__ import annotations

import numpy as np
import pytest

from redistill.methods.analysis.scaling_laws.fits import least_huber

X = np.geomspace(1, 100, 30)
TRUE, BOUNDS = np.array([3.0, 0.7, 0.5]), [(0.1, 30), (0.05, 3), (0.01, 5)]


def law(c):
    return c[0] * X ** -c[1] + c[2]


def test_planted_coefficients_come_back():
    np.testing.assert_allclose(least_huber(law, law(TRUE), BOUNDS), TRUE, rtol=1e-3)


def test_wild_runs_do_not_pull_the_law():
    seen = law(TRUE)
    seen[[4, 20]] *= (3.0, 0.3)
    np.testing.assert_allclose(least_huber(law, seen, BOUNDS), TRUE, rtol=0.02)


def test_a_start_is_polished_and_bounds_are_kept():
    np.testing.assert_allclose(least_huber(law, law(TRUE), BOUNDS, start=TRUE * 1.2), TRUE, rtol=1e-2)
    low = least_huber(law, law(TRUE), [(0.1, 30), (0.05, 3), (0.01, 0.3)])
    assert low[2] == pytest.approx(0.3, rel=1e-6)
