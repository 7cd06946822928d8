"""Distances against closed forms, calibration and ranking against hand counts."""

from __future__ import annotations

import numpy as np
import pytest

from redistill.beds import metrics as m
from redistill.core.errors import UserError


def exact_sample(rng, n, mean, covariance):
    """Rows whose sample mean and covariance are exactly the given ones."""
    x = rng.standard_normal((n, len(mean)))
    x -= x.mean(0)
    x = x @ np.linalg.inv(np.linalg.cholesky(np.cov(x.T))).T
    return x @ np.linalg.cholesky(covariance).T + mean


def test_frechet_of_gaussians_with_commuting_covariances():
    rng = np.random.default_rng(0)
    rotation, _ = np.linalg.qr(rng.standard_normal((3, 3)))
    var_a, var_b, shift = np.array([1.0, 4.0, 0.25]), np.array([9.0, 1.0, 0.25]), np.array([1.0, -2.0, 0.5])
    a = exact_sample(rng, 50, np.zeros(3), rotation @ np.diag(var_a) @ rotation.T)
    b = exact_sample(rng, 70, shift, rotation @ np.diag(var_b) @ rotation.T)
    expected = shift @ shift + ((np.sqrt(var_a) - np.sqrt(var_b)) ** 2).sum()
    assert m.frechet(a, b) == pytest.approx(expected, rel=1e-10)
    assert m.frechet(b, a) == pytest.approx(expected, rel=1e-10)


def test_frechet_of_a_set_with_itself_is_zero_also_with_fewer_rows_than_features():
    a = np.random.default_rng(1).standard_normal((5, 12))
    assert m.frechet(a, a) == pytest.approx(0, abs=1e-10)
    assert m.frechet(a, a + 2) == pytest.approx(4 * 12, rel=1e-10)


def test_frechet_agrees_with_the_matrix_square_root():
    from scipy.linalg import sqrtm

    rng = np.random.default_rng(2)
    a, b = rng.standard_normal((40, 4)) @ rng.standard_normal((4, 4)), rng.standard_normal((30, 4)) + 1
    s_a, s_b = np.cov(a.T), np.cov(b.T)
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(s_a + s_b - 2 * sqrtm(s_a @ s_b).real)
    assert m.frechet(a, b) == pytest.approx(expected, rel=1e-8)


def test_precision_and_recall_see_dropped_and_invented_modes():
    rng = np.random.default_rng(3)
    left, right = rng.standard_normal((2, 200, 2)) * 0.1 + np.array([[[-5.0, 0]], [[5.0, 0]]])
    real = np.concatenate([left, right])
    assert m.precision_recall(real, real) == (1, 1)
    dropped = m.precision_recall(real, left)
    assert dropped.precision == 1 and dropped.recall == 0.5
    invented = m.precision_recall(left, real)
    assert invented.precision == 0.5 and invented.recall == 1
    assert m.precision_recall(left, right) == (0, 0)


def test_precision_radius_is_the_distance_to_the_kth_neighbour():
    real = np.array([[0.0], [1.0], [3.0]])
    assert m.precision_recall(real, [[-0.9], [-1.1], [9.0]], k=1).precision == pytest.approx(1 / 3)
    assert m.precision_recall(real, [[-2.9], [-3.1], [9.0]], k=2).precision == pytest.approx(1 / 3)


def test_mmd_of_gaussians_has_its_closed_form():
    rng, n, h2, s2, shift = np.random.default_rng(4), 3000, 1.0, 0.5, 1.5
    a, b = rng.standard_normal((n, 2)), rng.standard_normal((n, 2)) * np.sqrt(s2) + np.array([shift, 0.0])

    def kernel(total, d2):
        return h2 / (h2 + total) * np.exp(-d2 / (2 * (h2 + total)))

    expected = kernel(2, 0) + kernel(2 * s2, 0) - 2 * kernel(1 + s2, shift**2)
    assert m.mmd(a, b, bandwidth=1.0) == pytest.approx(expected, rel=0.05)


def test_mmd_is_unbiased_for_equal_distributions():
    rng = np.random.default_rng(5)
    values = [m.mmd(*rng.standard_normal((2, 30, 2)), bandwidth=1.0) for _ in range(300)]
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(300) and min(values) < 0


def test_sliced_wasserstein_of_a_shift_and_of_unequal_sizes():
    rng = np.random.default_rng(6)
    a, shift = rng.standard_normal((100, 3)), np.array([1.0, 2.0, 2.0])
    assert m.sliced_wasserstein(a, a + shift, projections=20000) == pytest.approx(3 / np.sqrt(3), rel=0.02)
    assert m.sliced_wasserstein(a, np.repeat(a, 3, axis=0)) == pytest.approx(0, abs=1e-7)
    assert m.sliced_wasserstein(a, a[:40], seed=1) == m.sliced_wasserstein(a, a[:40], seed=1)
    # in one dimension every direction is +-1: quarter of the mass moves by 2, so W2^2 = 1/2 * (1 - 1/2) * 4
    assert m.sliced_wasserstein([[0.0], [0.0], [2.0], [2.0]], [[0.0], [2.0], [2.0], [2.0]]) == pytest.approx(1.0)
    assert m.sliced_wasserstein([[0.0], [3.0]], [[0.0], [0.0], [3.0]]) == pytest.approx(np.sqrt(9 / 6))


def test_accuracy_nll_and_ece_by_hand():
    p, y = np.array([[0.8, 0.2], [0.6, 0.4], [0.35, 0.65], [0.0, 1.0]]), np.array([0, 1, 1, 1])
    assert m.accuracy(p, y) == 0.75
    assert m.nll(p, y) == pytest.approx(-np.log([0.8, 0.4, 0.65, 1.0]).mean())
    assert m.ece(p, y, bins=10) == pytest.approx((0.2 + abs(1 - 0.6 - 0.65) + 0.0) / 4)  # 0.6 and 0.65 share a bin


def test_nll_of_an_impossible_label_is_infinite():
    assert m.nll([[1.0, 0.0]], [1]) == np.inf


def test_calibrated_confidence_has_no_calibration_error():
    p = np.tile([0.75, 0.25], (400, 1))
    assert m.ece(p, np.repeat([0, 1], [300, 100])) == pytest.approx(0, abs=1e-12)


def test_e_aurc_is_zero_exactly_for_perfect_rankings():
    confidence = np.linspace(0.99, 0.51, 50)
    p = np.stack([confidence, 1 - confidence], 1)
    perfect = np.repeat([0, 1], [40, 10])
    assert m.e_aurc(p, perfect) == 0
    assert m.aurc(p, perfect) == pytest.approx(sum((i - 40) / i for i in range(41, 51)) / 50)
    assert m.e_aurc(p, perfect[::-1]) > 0.1


def test_aurc_does_not_depend_on_the_order_of_rows():
    rng = np.random.default_rng(7)
    p = rng.dirichlet(np.ones(3), 60).round(1)
    p[:, 2] = 1 - p[:, 0] - p[:, 1]
    y, order = rng.integers(0, 3, 60), rng.permutation(60)
    assert m.aurc(p, y) == pytest.approx(m.aurc(p[order], y[order]), abs=1e-12)
    same = np.tile([0.9, 0.1], (8, 1))
    assert m.aurc(same, np.array([0, 1] * 4)) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("call", "part"),
    [
        (lambda: m.frechet(np.zeros((4, 2)), np.zeros((4, 3))), "2 and 3 features"),
        (lambda: m.frechet(np.zeros((1, 2)), np.zeros((4, 2))), "at least 2"),
        (lambda: m.precision_recall(np.zeros((3, 2)), np.zeros((9, 2))), "at least 4"),
        (lambda: m.mmd(np.zeros((4, 2)), np.ones((4, 2))), "bandwidth="),
        (lambda: m.sliced_wasserstein([[np.nan]], [[0.0]]), "NaN"),
        (lambda: m.nll(np.zeros((4, 2)), np.zeros(4, int)), "softmax"),
        (lambda: m.accuracy(np.full((4, 2), 0.5), np.zeros(3, int)), "do not fit"),
    ],
)
def test_wrong_input_is_refused_in_one_line(call, part):
    with pytest.raises(UserError, match=part) as error:
        call()
    assert "\n" not in str(error.value)
