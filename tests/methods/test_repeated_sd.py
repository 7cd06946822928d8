"""The card's exact properties, and that a fitted model is an ordinary scikit-learn regressor."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.utils.estimator_checks import parametrize_with_checks

from redistill.core.errors import UserError
from redistill.methods.analysis import repeated_sd as rs
from redistill.theory.ridge import Truth, distil, shrinkage

RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((40, 5)) + 1, RNG.standard_normal(40) + 3
TRUTH = Truth(s=np.array([5.0, 4.0, 3.1, 2.0, 1.2]), t=np.array([0.2, -1.0, 0.0, 0.7, 2.0]), sigma=1.5)
LAMBDAS = np.logspace(-4, 4, 81)


def fitted(xi, lam=2.0):
    return rs.RepeatedRidge(lam=lam, xi_bar=tuple(rs.to_mixture(xi))).fit(X, Y)


def test_no_imitation_is_ridge():
    plain = Ridge(alpha=2.0).fit(X, Y)
    for model in (fitted((0.0, 0.0, 0.0)), rs.RepeatedRidge(lam=2.0).fit(X, Y)):
        np.testing.assert_allclose(model.coef_, plain.coef_, rtol=1e-10)
        assert model.intercept_ == pytest.approx(plain.intercept_, rel=1e-10)


def test_rounds_played_with_another_ridge_give_the_same_fit():
    xi, teacher = (0.7, -1.5, 2.5), Ridge(alpha=2.0).fit(X, Y)
    for xi_t in xi:
        teacher = Ridge(alpha=2.0).fit(X, xi_t * teacher.predict(X) + (1 - xi_t) * Y)
    np.testing.assert_allclose(fitted(xi).predict(X), teacher.predict(X), rtol=1e-10)


def test_without_penalty_every_round_is_least_squares():
    least_squares = LinearRegression().fit(X, Y)
    for xi in [(), (1.0,), (0.5, -2.0), (3.0, 3.0, 3.0)]:
        np.testing.assert_allclose(fitted(xi, lam=1e-9).coef_, least_squares.coef_, rtol=1e-6)


def test_predictions_alone_regularise_to_nothing():
    a = shrinkage(TRUTH.s, 2.0)
    for k in (1, 3, 7):
        np.testing.assert_allclose(rs.mixed_filter(a, rs.to_mixture([1.0] * k)), a ** (k + 1), rtol=1e-12)
    norms = [np.linalg.norm(fitted([1.0] * k).coef_) for k in (0, 1, 10, 2000)]
    assert norms == sorted(norms, reverse=True) and norms[-1] < 1e-10


@pytest.mark.parametrize("lam", [0.1, 1.0, 30.0])  # below, all a_j near 1: true too, but beyond float64
def test_as_many_rounds_as_the_rank_reach_the_oracle_for_every_penalty(lam):
    h = rs.mixed_filter(shrinkage(TRUTH.s, lam), rs.best_mixture(TRUTH, lam, 5))
    assert TRUTH.excess_risk(h) == pytest.approx(TRUTH.excess_risk(TRUTH.oracle), rel=1e-6)
    four = rs.mixed_filter(shrinkage(TRUTH.s, lam), rs.best_mixture(TRUTH, lam, 4))
    assert TRUTH.excess_risk(four) > TRUTH.excess_risk(TRUTH.oracle) * (1 + 1e-6)


def test_equal_singular_values_leave_one_parameter():
    truth = Truth(s=np.full(4, 2.0), t=np.array([3.0, 1.0, 0.5, 0.1]), sigma=1.0)
    risks = [rs.best_risk(truth, k, np.logspace(-4, 4, 2001)) for k in range(4)]
    np.testing.assert_allclose(risks, risks[1], rtol=1e-5)
    assert risks[0] > truth.excess_risk(truth.oracle) * 1.1


@given(st.lists(st.floats(-3, 3), max_size=6))
def test_mixture_and_rounds_are_two_names_of_one_filter(xi):
    xi_bar, a = rs.to_mixture(xi), shrinkage(TRUTH.s, 2.0)
    np.testing.assert_allclose(rs.mixed_filter(a, xi_bar), distil(a, xi), rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(distil(a, rs.to_rounds(xi_bar)), distil(a, xi), rtol=1e-8, atol=1e-8)


def test_rounds_come_back_from_their_mixture_but_for_those_that_a_later_one_undoes():
    for xi, found in (([0.7, -1.5, 2.5],) * 2, ([0.5, 0.0], [0.0, 0.0]), ([3.0, 0.0, 1.0], [0.0, 0.0, 1.0])):
        np.testing.assert_allclose(rs.to_rounds(rs.to_mixture(xi)), found, rtol=1e-12)


def test_mixture_that_no_rounds_reach_is_refused():
    with pytest.raises(UserError, match="use the mixture itself"):
        rs.to_rounds([1.0, -1.0, 1.0, -1.0])
    np.testing.assert_allclose(rs.to_rounds([0.25]), [0.25])
    assert rs.to_rounds([]).shape == (0,)


def test_one_round_never_loses_and_gains_wherever_the_penalty_is_not_stationary():
    def ridge(lam):
        return TRUTH.excess_risk(shrinkage(TRUTH.s, lam))

    for lam in LAMBDAS[10:-10]:
        one = TRUTH.excess_risk(rs.mixed_filter(shrinkage(TRUTH.s, lam), rs.best_mixture(TRUTH, lam, 1)))
        slope = (ridge(lam * 1.0001) - ridge(lam * 0.9999)) / 0.0002  # d R / d log lambda
        assert one <= ridge(lam) * (1 + 1e-12)
        if abs(slope) > 1e-2 * ridge(lam):
            assert one < ridge(lam) * (1 - 1e-6)


def test_more_rounds_never_lose():
    risks = [rs.best_risk(TRUTH, k, LAMBDAS) for k in range(6)]
    assert all(later <= before * (1 + 1e-9) for before, later in itertools.pairwise(risks))


def test_chosen_weights_minimise_the_validation_error():
    theta = np.array([0.0, 0.0, 1.0, 0.0, 2.0])
    X_val = RNG.standard_normal((60, 5)) + 1
    y_val = X_val @ theta + RNG.standard_normal(60)
    model = rs.fit_repeated(X, Y, X_val, y_val, rounds=2)

    def error(lam, xi_bar):
        return np.mean((rs.RepeatedRidge(lam, xi_bar).fit(X, Y).predict(X_val) - y_val) ** 2)

    assert error(model.lam, model.xi_bar) == pytest.approx(model.validation_mse_, rel=1e-9)
    for i in range(2):
        for step in (-1e-2, 1e-2):
            moved = np.array(model.xi_bar)
            moved[i] += step * abs(moved[i])
            assert error(model.lam, moved) > model.validation_mse_
    by_rounds = [rs.fit_repeated(X, Y, X_val, y_val, rounds=k).validation_mse_ for k in range(4)]
    assert by_rounds == sorted(by_rounds, reverse=True)


@pytest.mark.parametrize(("directions", "rounds"), [(1, 3), (2, 2), (3, 3), (5, 3)])
def test_rounds_can_play_what_was_chosen_however_few_directions_there_are(directions, rounds):
    X_val, y_val = RNG.standard_normal((60, directions)), RNG.standard_normal(60)
    model = rs.fit_repeated(X[:, :directions], Y, X_val, y_val, rounds=rounds)
    teacher = Ridge(alpha=model.lam).fit(X[:, :directions], Y)
    for xi in model.xi:
        teacher = Ridge(alpha=model.lam).fit(X[:, :directions], xi * teacher.predict(X[:, :directions]) + (1 - xi) * Y)
    np.testing.assert_allclose(teacher.predict(X_val), model.predict(X_val), atol=1e-4)


def test_a_constant_target_needs_no_round():
    model = rs.fit_repeated(X, np.ones(40), X, np.ones(40))
    assert (model.xi == 0).all() and (model.coef_ == 0).all() and model.intercept_ == 1


def test_the_default_grid_is_eight_decades_around_the_largest_eigenvalue():
    largest = np.linalg.svd(X - X.mean(0), compute_uv=False)[0] ** 2
    nothing, everything = np.ones(40), X @ np.arange(5.0)
    chosen = [
        rs.fit_repeated(X, everything, X, y_val, rounds=0).lam for y_val in (everything.mean() * nothing, everything)
    ]
    np.testing.assert_allclose(np.array(chosen) / largest, [1e2, 1e-6])


def test_several_targets_share_one_choice():
    two = np.column_stack([Y, -2 * Y + 1])
    model, single = rs.fit_repeated(X, two, X, two, rounds=1), rs.fit_repeated(X, Y, X, Y, rounds=1)
    assert model.predict(X).shape == (40, 2)
    np.testing.assert_allclose(model.predict(X)[:, 0], single.predict(X), rtol=1e-8)


@parametrize_with_checks([rs.RepeatedRidge(xi_bar=(0.5, 1.5))])
def test_is_a_scikit_learn_regressor(estimator, check):
    check(estimator)


@pytest.mark.parametrize(
    ("call", "part"),
    [
        (lambda: rs.fit_repeated(X, Y, X, Y, rounds=-1), "whole number"),
        (lambda: rs.fit_repeated(X, Y, X, Y, rounds=1.5), "whole number"),
        (lambda: rs.fit_repeated(X, Y, X[:3], Y[:3], rounds=2), "3 validation rows"),
        (lambda: rs.fit_repeated(X, Y, X, Y, lambdas=[0.0]), "above 0"),
        (lambda: rs.RepeatedRidge(lam=-1).fit(X, Y), "above 0"),
        (lambda: rs.fit_repeated(X, Y, X, Y[:, None]), "give both as"),
        (lambda: rs.fit_repeated(X, Y[:, None], X, np.column_stack([Y, Y])), "give both as"),
    ],
)
def test_wrong_input_is_refused(call, part):
    with pytest.raises(UserError, match=part):
        call()


def test_validation_rows_of_another_width_are_refused():
    with pytest.raises(ValueError, match="4 features"):
        rs.fit_repeated(X, Y, X[:, :4], Y)


def test_few_validation_rows_are_named_as_a_risk():
    with pytest.warns(UserWarning, match="12 validation rows"):
        rs.fit_repeated(X, Y, X[:12], Y[:12], rounds=2)
