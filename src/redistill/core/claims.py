"""A claim is data; its verdict is a statistic over paired seeds.

Every study has one ``headline``: the abstract's sentence as a superiority over a rival, with the least effect that
counts. ``higher`` and ``lower`` say more of the same kind, ``within`` says that a cost or a control stays in a margin,
``reaches`` and ``stays_below`` hold a number against a constant, and say where the constant comes from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from scipy import stats

Verdict = Literal["holds", "not shown", "contradicted"]
Kind = Literal["headline", "superiority", "margin", "threshold"]
Direction = Literal["higher", "lower"]

LEVEL = {"headline": 0.95, "superiority": 0.9, "margin": 0.9, "threshold": 0.9}  # of the one-sided bounds
LEAST_SEEDS = {"headline": 5, "superiority": 3, "margin": 3, "threshold": 3}
CLEAR = 0.1  # deviations over seeds: what is nearer to its threshold lies on it, and is not shown


@dataclass(frozen=True)
class Claim:
    """``arm`` is better than ``against`` on ``metric`` by at least ``least``; ``direction`` says which way is better.

    ``least >= 0``: the mean effect reaches it, clearly, and the effect's one-sided bound is above zero. ``least < 0``
    is a margin: the bound is above it, and the arm is not worse beyond doubt. ``against=""``: the metric itself against
    the constant ``least``, for a ``reason``. ``relative``: effects as a share of the value of ``against``.
    ``paper``: the paper's own figures for this comparison. ``main``: the study's headline.
    """

    name: str
    metric: str
    arm: str
    against: str
    direction: Direction
    least: float = 0.0
    relative: bool = False
    paper: str = ""
    main: bool = False
    reason: str = ""

    def __post_init__(self) -> None:
        assert not self.main or (self.against and self.least >= 0), f"{self.name}: a headline is a superiority"

    @property
    def kind(self) -> Kind:
        """What sort of statement it is; only superiorities and thresholds are counted."""
        if self.main:
            return "headline"
        if not self.against:
            return "threshold"
        return "margin" if self.least < 0 else "superiority"


def higher(
    metric: str, arm: str, than: str, by: float = 0.0, paper: str = "", *, relative: bool = False, said: str = ""
) -> Claim:
    """``arm`` is above ``than`` on ``metric`` by ``by``. ``said``: the sentence, where the one made of the arms and the
    metric is not enough."""
    return _compared("higher", "above", metric, arm, than, by, paper, relative, said)


def lower(
    metric: str, arm: str, than: str, by: float = 0.0, paper: str = "", *, relative: bool = False, said: str = ""
) -> Claim:
    """``arm`` is below ``than`` on ``metric`` by ``by``."""
    return _compared("lower", "below", metric, arm, than, by, paper, relative, said)


def headline(claim: Claim) -> Claim:
    """``claim`` as the one that the study stands for: ``headline(higher("accuracy", "ours", "rival", 0.01))``."""
    return replace(claim, main=True)


def within(
    margin: float, metric: str, arm: str, than: str, paper: str = "", *, better: Direction = "higher", said: str = ""
) -> Claim:
    """``arm`` is at most ``margin`` worse than ``than`` on ``metric``, of which more is ``better`` (or less)."""
    assert margin > 0, "a margin is above zero"
    name = said or _sentence(metric, arm, f"at most {margin:g} worse than {than}")
    return Claim(name, metric, arm, than, better, -margin, paper=paper)


def reaches(metric: str, arm: str, least: float, reason: str, paper: str = "", *, said: str = "") -> Claim:
    """``arm`` has at least ``least`` of ``metric``; ``reason`` says why this constant: chance, floor, ceiling."""
    name = said or _sentence(metric, arm, f"at least {least:g}")
    return Claim(name, metric, arm, "", "higher", least, paper=paper, reason=reason)


def stays_below(metric: str, arm: str, most: float, reason: str, paper: str = "", *, said: str = "") -> Claim:
    """``arm`` has at most ``most`` of ``metric``; ``reason`` says why this constant."""
    name = said or _sentence(metric, arm, f"at most {most:g}")
    return Claim(name, metric, arm, "", "lower", most, paper=paper, reason=reason)


def _compared(
    direction: Direction, word: str, metric: str, arm: str, than: str, by: float, paper: str, relative: bool, said: str
) -> Claim:
    assert by >= 0, "the least effect of a superiority is not negative; a margin is said by within()"
    return Claim(said or _sentence(metric, arm, f"{word} {than}"), metric, arm, than, direction, by, relative, paper)


def _sentence(metric: str, arm: str, rest: str) -> str:
    return f"{metric.replace('_', ' ')} of {arm} {rest}"


def judge(claim: Claim, values: Mapping[str, Sequence[float]], *, exact: bool = False) -> dict[str, Any]:
    """The verdict on ``claim``. ``values``: arm -> the metric, one number a seed, paired. ``exact``: one seed does."""
    ours = np.asarray(values[claim.arm], float)
    base = np.asarray(values[claim.against], float) if claim.against else np.full_like(ours, claim.least)

    with np.errstate(divide="ignore", invalid="ignore"):  # a share of nothing is no number, and not shown
        effects = (ours - base) / (np.abs(base) if claim.relative else 1.0)
    if claim.direction == "lower":
        effects = -effects

    n, mean, sd = len(effects), float(effects.mean()), _spread(effects)
    half = float(stats.t.ppf(LEVEL[claim.kind], n - 1)) * sd / np.sqrt(n) if n > 1 else 0.0
    enough = exact or n >= LEAST_SEEDS[claim.kind]
    judged = enough and bool(np.isfinite(effects).all())
    return {
        "name": claim.name, "kind": claim.kind, "metric": claim.metric, "arm": claim.arm, "against": claim.against,
        "direction": claim.direction, "least": claim.least, "relative": claim.relative, "n": n,
        "mean": float(ours.mean()), "sd": _spread(ours), "against_mean": float(base.mean()),
        "effect": mean, "effect_sd": sd, "low": mean - half, "high": mean + half,
        "verdict": _verdict(claim, mean, sd, half) if judged else "not shown",
        "paper": claim.paper, "reason": claim.reason,
    }  # fmt: skip


def _spread(values: np.ndarray) -> float:
    """The deviation over seeds; exactly 0 for equal numbers, whose mean may be rounded away from them."""
    return 0.0 if (values == values[0]).all() else float(values.std(ddof=1))


def _verdict(claim: Claim, mean: float, sd: float, half: float) -> Verdict:
    low, high = mean - half, mean + half
    least = claim.least if claim.against else 0.0  # of a threshold the constant is in the effect

    if claim.kind == "margin":
        if high < least:
            return "contradicted"
        worse = sd > 0 and high < 0  # beyond doubt; without a spread there is none, and the margin alone decides
        return "holds" if low >= least + CLEAR * sd and not worse else "not shown"

    if high < 0:
        return "contradicted"
    sure = low > 0 or (claim.kind == "threshold" and sd == 0)  # a constant may just be reached, on every seed
    return "holds" if sure and mean >= least + CLEAR * sd else "not shown"
