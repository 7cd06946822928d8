"""Verdicts at known numbers, bounds against another implementation, and what is no number."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from redistill.core.claims import Claim, headline, higher, judge, lower, reaches, stays_below, within

PLAIN, MAIN = higher("accuracy", "ours", "rival", 0.02), headline(higher("accuracy", "ours", "rival", 0.02))
MARGIN = within(0.05, "accuracy", "ours", "rival")


def verdict(claim: Claim, effects: list[float], *, exact: bool = False) -> str:
    """With a rival at 1: effects are differences and shares at once."""
    sign = 1 if claim.direction == "higher" else -1
    return judge(claim, {"ours": [1 + sign * e for e in effects], "rival": [1.0] * len(effects)}, exact=exact)[
        "verdict"
    ]


def around(mean: float, sd: float, n: int) -> list[float]:
    """``n`` numbers with exactly this mean and deviation."""
    x = np.arange(n) - (n - 1) / 2
    return list(mean + sd * x / x.std(ddof=1))


@pytest.mark.parametrize(
    ("claim", "effects", "expected"),
    [
        (PLAIN, [0.05, 0.06, 0.07], "holds"),
        (PLAIN, [0.01, 0.06, 0.11], "holds"),  # the bound is at 0.0056
        (PLAIN, [0.0, 0.06, 0.12], "not shown"),  # and here at -0.0053
        (PLAIN, [-0.02, 0.06, 0.14], "not shown"),
        (PLAIN, [0.017, 0.018, 0.019], "not shown"),  # certain, and too small
        (PLAIN, [-0.05, -0.06, -0.07], "contradicted"),
        (PLAIN, [-0.12, -0.06, 0.02], "not shown"),
        (PLAIN, [0.05, 0.06], "not shown"),  # too few seeds
        (PLAIN, [0.02, 0.02, 0.02], "holds"),
        (PLAIN, [-0.01, -0.01, -0.01], "contradicted"),
        (MAIN, [0.05, 0.06, 0.07, 0.08], "not shown"),  # a headline wants five
        (MAIN, [0.05, 0.06, 0.07, 0.08, 0.09], "holds"),
        (MARGIN, [-0.01, 0.0, 0.01], "holds"),
        (MARGIN, [-0.03, -0.031, -0.029], "not shown"),  # within the margin, and worse beyond doubt
        (MARGIN, [-0.03, -0.03, -0.03], "holds"),
        (MARGIN, [-0.09, -0.01, 0.07], "not shown"),
        (MARGIN, [-0.10, -0.11, -0.12], "contradicted"),
        (MARGIN, [0.2, 0.3, 0.4], "holds"),
        (higher("accuracy", "ours", "rival"), [0.0, 0.0, 0.0], "not shown"),  # equal is not better
        (lower("ece", "ours", "rival", 0.02), [0.05, 0.06, 0.07], "holds"),
        (lower("ece", "ours", "rival", 0.02), [-0.05, -0.06, -0.07], "contradicted"),
        (within(0.05, "ece", "ours", "rival", better="lower"), [-0.01, 0.0, 0.01], "holds"),
        (within(0.05, "ece", "ours", "rival", better="lower"), [-0.10, -0.11, -0.12], "contradicted"),
    ],
)
def test_known_verdicts(claim, effects, expected):
    assert verdict(claim, effects) == expected


@pytest.mark.parametrize("n", [3, 5, 10])
@pytest.mark.parametrize("claim", [higher("m", "ours", "rival"), headline(higher("m", "ours", "rival"))])
def test_a_superiority_holds_just_where_a_one_sided_paired_t_test_rejects(claim, n):
    if n < 5 and claim.kind == "headline":
        return
    level = 0.05 if claim.kind == "headline" else 0.10
    rng = np.random.default_rng(n)
    rival = rng.normal(size=(200, n))
    ours = rival + rng.normal(0.5, 1, size=(200, n))
    found = [judge(claim, {"ours": a, "rival": b})["verdict"] for a, b in zip(ours, rival)]
    above = stats.ttest_rel(ours, rival, axis=1, alternative="greater").pvalue < level
    below = stats.ttest_rel(ours, rival, axis=1, alternative="less").pvalue < level
    wanted = ["holds" if up else "contradicted" if down else "not shown" for up, down in zip(above, below)]
    assert found == wanted and {"holds", "not shown"} <= set(found)


@pytest.mark.parametrize("n", [2, 3, 5, 10])
def test_bounds_are_those_of_student(n):
    ours, rival = np.random.default_rng(n).normal(size=(2, n))
    for claim, level in ((PLAIN, 0.8), (MAIN, 0.9)):  # two-sided levels
        interval = stats.ttest_rel(ours, rival).confidence_interval(level)
        got = judge(claim, {"ours": ours, "rival": rival})
        assert (got["low"], got["high"]) == pytest.approx((interval.low, interval.high))
        assert got["effect"] == pytest.approx((ours - rival).mean()) and got["n"] == n
        assert got["effect_sd"] == pytest.approx((ours - rival).std(ddof=1))


def test_one_seed_has_no_spread_and_is_judged_where_the_study_is_exact():
    assert verdict(PLAIN, [0.03]) == "not shown"
    assert verdict(PLAIN, [0.03], exact=True) == "holds"
    assert verdict(PLAIN, [0.019], exact=True) == "not shown"
    assert judge(PLAIN, {"ours": [0.03], "rival": [0.0]})["verdict"] == "not shown"  # exact has to be said
    assert judge(MAIN, {"ours": [0.02], "rival": [0.0]}, exact=True)["verdict"] == "holds"
    assert verdict(MARGIN, [-0.04], exact=True) == "holds" and verdict(MARGIN, [-0.06], exact=True) == "contradicted"
    assert judge(MARGIN, {"ours": [-0.05], "rival": [0.0]}, exact=True)["verdict"] == "holds"  # on the margin
    assert judge(PLAIN, {"ours": [1.0, 3.0], "rival": [0.5] * 2})["sd"] == pytest.approx(2**0.5)
    got = judge(PLAIN, {"ours": [1.0], "rival": [0.5]})
    assert (got["sd"], got["effect_sd"], got["low"], got["high"]) == (0, 0, 0.5, 0.5)


@pytest.mark.parametrize("n", [3, 5, 10])
def test_what_lies_on_its_threshold_is_not_shown(n):
    sd = 0.001
    assert verdict(PLAIN, around(0.02 + 0.05 * sd, sd, n)) == "not shown"
    assert verdict(PLAIN, around(0.02 + 0.15 * sd, sd, n)) == "holds"
    half = stats.t.ppf(0.9, n - 1) * sd / np.sqrt(n)
    assert verdict(MARGIN, around(-0.05 + half + 0.05 * sd, sd, n)) == "not shown"
    inside = within(0.0001, "accuracy", "ours", "rival")
    assert verdict(inside, around(-0.0001 + half + 0.05 * sd, sd, n)) == "not shown"
    assert verdict(inside, around(-0.0001 + half + 0.15 * sd, sd, n)) == "holds"


def test_a_constant_is_reached_or_not():
    floor, roof = reaches("accuracy", "ours", 0.5, "chance"), stays_below("ece", "ours", 0.1, "a tenth")
    for claim, good in ((floor, 0.6), (roof, 0.05)):
        bad = 2 * claim.least - good
        assert [judge(claim, {"ours": [x, x + 0.01, x - 0.01]})["verdict"] for x in (good, claim.least, bad)] == [
            "holds", "not shown", "contradicted"]  # fmt: skip
    got = judge(floor, {"ours": [0.6, 0.7, 0.8]})
    assert (got["kind"], got["reason"], got["against_mean"]) == ("threshold", "chance", 0.5)
    assert got["effect"] == pytest.approx(0.2)
    assert judge(floor, {"ours": [0.5] * 3})["verdict"] == "holds"


def test_shares_are_of_the_rival():
    claim = lower("cost", "ours", "rival", 0.5, relative=True)
    got = judge(claim, {"ours": [1.0, 2.0, 3.0], "rival": [-4.0, -8.0, -12.0]})
    assert got["effect"] == pytest.approx(-1.25) and got["verdict"] == "contradicted"
    assert judge(claim, {"ours": [1.0, 2.0, 3.0], "rival": [4.0, 8.0, 12.0]})["effect"] == pytest.approx(0.75)
    assert judge(claim, {"ours": [1.0] * 3, "rival": [0.0, 1.0, 1.0]})["verdict"] == "not shown"


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_shows_nothing(odd):
    for claim in (PLAIN, MARGIN, reaches("accuracy", "ours", 0.5, "chance")):
        assert judge(claim, {"ours": [2.0, 2.0, 2.0, odd], "rival": [1.0] * 4})["verdict"] == "not shown"
        assert judge(claim, {"ours": [2.0] * 4, "rival": [1.0] * 3 + [odd]})["verdict"] == (
            "holds" if not claim.against else "not shown")  # fmt: skip


def test_claims_say_what_they_are():
    assert PLAIN.name == "accuracy of ours above rival" and PLAIN.kind == "superiority"
    assert lower("noisy_ece", "ours", "rival").name == "noisy ece of ours below rival"
    assert (MAIN.kind, MARGIN.kind, MARGIN.least) == ("headline", "margin", -0.05)
    assert higher("m", "a", "b", said="so").name == "so" and within(0.1, "m", "a", "b").name.endswith("worse than b")
    assert within(0.1, "m", "a", "b", said="so").name == "so"
    for wrong in (lambda: headline(MARGIN), lambda: headline(reaches("m", "a", 1, "chance")),
                  lambda: higher("m", "a", "b", -0.1), lambda: within(0.0, "m", "a", "b")):  # fmt: skip
        with pytest.raises(AssertionError):
            wrong()
