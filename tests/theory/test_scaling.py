"""The two laws, the compute and the capacity gap: the card's exact properties."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize

from redistill.theory.scaling import CASES, PUBLISHED, CapacityGap, flops

LAW, ALONE = PUBLISHED.distillation, PUBLISHED.supervised
GAP = CapacityGap(np.arange(1, 41) ** -0.6, teacher_norm=1.2, student_norm=9.0)
sizes = st.floats(5, 12).map(lambda x: 10**x)


@given(sizes, sizes, st.floats(0.3, 20))
def test_a_student_stays_above_its_teacher(N, D, L_T):
    assert PUBLISHED.predict(N, D, L_T) >= L_T
    if ALONE(N, D) >= L_T:  # a worse teacher is imitated to the last bit of a float
        assert PUBLISHED.predict(N, D, L_T) > L_T


@pytest.mark.parametrize("L_T", [1.8, 2.2, 3.5])
def test_size_and_tokens_without_end_reach_the_teacher(L_T):
    gaps = [PUBLISHED.predict(10.0**k, 10.0**k, L_T) - L_T for k in range(6, 40, 3)]
    assert gaps == sorted(gaps, reverse=True) and gaps[-1] < 1e-5 < gaps[0]


def test_logarithms_give_the_formula_as_it_is_written():
    N, D, L_T = 3e8, 1e10, 2.4
    written = ALONE.E + (ALONE.A / N**ALONE.alpha + ALONE.B / D**ALONE.beta) ** ALONE.gamma
    assert ALONE(N, D) == pytest.approx(written, rel=1e-12)
    broken = (1 + (L_T / (written * LAW.d1)) ** (1 / LAW.f1)) ** (-LAW.c1 * LAW.f1)
    size = (LAW.A / N**LAW.alpha + LAW.B / D**LAW.beta) ** LAW.gamma
    assert PUBLISHED.predict(N, D, L_T) == pytest.approx(L_T + L_T**-LAW.c0 * broken * size, rel=1e-12)


def test_the_break_is_a_power_law_on_both_sides_and_never_overflows():
    def slope(L_supervised):
        near, far = (np.log(LAW(1e9, 1e10, L_T, L_supervised) - L_T) for L_T in (2.0, 2.0 * 1.0001))
        return (far - near) / np.log(1.0001)

    assert slope(2e3) == pytest.approx(-LAW.c0, rel=1e-2)  # L_T far below L~_S d1: the bracket is 1
    with np.errstate(all="raise", under="ignore"):
        assert LAW(1e9, 1e10, 50.0, 1e-3) == 50.0  # (L_T / (L~_S d1))^(1 / f1) is 1e51, to the power of -47


def test_the_teacher_counts_through_its_loss_alone_and_too_good_a_one_hurts_a_weak_student():
    small, large = ALONE(1e9, 1e12), 0.0
    for N_T in (2e9, 5e9):  # other sizes and tokens of the same loss
        D_T = ((small - ALONE.E) ** (1 / ALONE.gamma) - ALONE.A / N_T**ALONE.alpha) / ALONE.B
        large = ALONE(N_T, D_T ** (-1 / ALONE.beta))
        assert PUBLISHED.predict(3e8, 1e10, large) == pytest.approx(PUBLISHED.predict(3e8, 1e10, small), rel=1e-12)
    L_T = np.linspace(1.5, 3.5, 401)
    losses = PUBLISHED.predict(3e8, 1e10, L_T)
    best = losses.argmin()
    assert 0 < best < 400 and losses[0] > losses[best] + 0.05
    falls = np.diff(losses) < 0
    assert falls[:best].all() and not falls[best:].any()


def test_no_teacher_is_the_supervised_law_and_runs_broadcast():
    L_T = np.array([np.nan, 2.0])
    np.testing.assert_array_equal(
        PUBLISHED.predict(1e9, 1e10, L_T), [ALONE(1e9, 1e10), PUBLISHED.predict(1e9, 1e10, 2.0)]
    )


@given(sizes, sizes, sizes, sizes)
def test_who_pays_for_what(N_S, D_S, N_T, D_T):
    totals = {case: sum(flops(N_S, D_S, N_T, D_T, case).values()) for case in CASES}
    assert totals["free"] == pytest.approx(6 * N_S * D_S)  # 3 F(N_S) D_S, whatever the teacher
    assert totals["inference"] - totals["free"] == pytest.approx(2 * N_T * D_S, abs=1e-9 * totals["both"])
    assert totals["training"] - totals["free"] == pytest.approx(6 * N_T * D_T, abs=1e-9 * totals["both"])
    assert totals["both"] - totals["inference"] == pytest.approx(6 * N_T * D_T, abs=1e-9 * totals["both"])


def test_what_is_extrapolated_is_told():
    assert PUBLISHED.outside(N_S=1e9, D_S=1e10, L_T=2.2) == []
    (line,) = PUBLISHED.outside(N_S=1e7, D_S=1e10)
    assert line == "N_S = 1e+07 is outside 1.43e+08 to 1.26e+10, where the laws were fitted"


def test_the_gap_has_the_numbers_of_the_closed_form():
    found = [GAP.student_error(m, 10) for m in (1, 5, 8, 10, 12, 15, 20, 40)]
    np.testing.assert_allclose(found, [2.21, 1.22, 0.98, 0.876, 0.896, 0.92, 0.95, 1.01], atol=0.006)
    students = [GAP.student_error(m, 10) for m in range(1, 41)]
    assert np.argmin(students) + 1 == 10
    assert (np.diff(students[:10]) < 0).all() and (np.diff(students[9:]) > 0).all()
    teachers = [GAP.teacher_error(m) for m in range(1, 41)]
    assert (np.diff(teachers) < 0).all() and teachers[-1] == pytest.approx(0.35, abs=0.005)


def within(norm: float, target: np.ndarray) -> np.ndarray:
    """The point of a ball nearest to ``target``, by a general solver."""
    ball = {"type": "ineq", "fun": lambda w: norm**2 - w @ w}
    return minimize(lambda w: ((w - target) ** 2).sum(), 0.1 * target, constraints=ball, tol=1e-12).x


@pytest.mark.parametrize("m", [2, 4, 6])
def test_the_closed_form_is_the_constrained_fit_of_the_constrained_fit(m):
    alpha, n = np.array([1.0, 0.8, 0.7, 0.5, 0.4, 0.3]), 4
    gap = CapacityGap(alpha, teacher_norm=1.1, student_norm=0.9)  # both balls bind
    teacher = np.zeros(6)
    teacher[:m] = within(1.1, alpha[:m])
    student = np.zeros(6)
    student[:n] = within(0.9, teacher[:n])
    assert gap.teacher_error(m) == pytest.approx(((alpha - teacher) ** 2).sum(), abs=1e-5)
    assert gap.student_error(m, n) == pytest.approx(((alpha - student) ** 2).sum(), abs=1e-5)
