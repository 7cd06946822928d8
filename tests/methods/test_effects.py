"""Analysis of variance against statsmodels and by hand; the paired test against scipy."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from scipy import stats

from redistill.core.errors import UserError
from redistill.methods.analysis.soft_label_study.effects import explained, mcnemar


def rows(repeats=2, seed=0):
    rng = np.random.default_rng(seed)
    return [
        {"a": a, "b": b, "y": a + 2 * (b == "v") + 1.5 * a * (b == "v") + rng.normal(0, 0.3)}
        for a, b, _ in product((0, 1, 2), "uv", range(repeats))
    ]


def test_shares_and_tests_are_those_of_statsmodels():
    frame = pytest.importorskip("pandas").DataFrame(rows()[:-1])  # unbalanced
    api = pytest.importorskip("statsmodels.formula.api")
    anova = pytest.importorskip("statsmodels.stats.anova").anova_lm(api.ols("y ~ C(a) * C(b)", frame).fit(), typ=2)
    total = ((frame.y - frame.y.mean()) ** 2).sum()
    found = explained(rows()[:-1], "y", ["a", "b"], [("a", "b")])
    for effect, name in zip(found, ("C(a)", "C(b)", "C(a):C(b)")):
        assert effect.share == pytest.approx(anova.sum_sq[name] / total)
        assert (effect.F, effect.p) == pytest.approx((anova.F[name], anova["PR(>F)"][name]))


def test_shares_of_a_full_grid_add_up_to_one_and_need_repeats_for_a_test():
    found = explained(rows(1), "y", ["a", "b"], [("a", "b")])
    assert sum(effect.share for effect in found) == pytest.approx(1)
    assert all(math.isnan(effect.p) for effect in found)


def test_a_factor_that_does_nothing_explains_nothing():
    grid = [{"a": a, "b": b, "y": float(a)} for a, b in product(range(3), range(4))]
    assert [e.share for e in explained(grid, "y", ["a", "b"])] == pytest.approx([1, 0])


def test_the_paired_test_counts_where_only_one_is_right():
    a, b = np.array([1] * 12 + [0] * 3 + [1] * 50, bool), np.array([0] * 12 + [1] * 3 + [1] * 50, bool)
    assert mcnemar(a, b) == pytest.approx(stats.binomtest(3, 15).pvalue)
    assert mcnemar(a, b) == mcnemar(b, a) and mcnemar(a, a) == 1


@pytest.mark.parametrize(
    ("call", "part"),
    [
        (lambda: explained(rows(), "z", ["a"]), "no 'z'"),
        (lambda: explained([{"a": 1, "y": 2.0}] * 4, "y", ["a"]), "not all equal"),
        (lambda: explained([{"a": k, "y": math.nan} for k in range(4)], "y", ["a"]), "finite"),
        (lambda: mcnemar(np.ones(3, bool), np.ones(4, bool)), "same rows"),
    ],
)
def test_wrong_input_is_refused(call, part):
    with pytest.raises(UserError, match=part):
        call()
