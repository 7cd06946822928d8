"""A claim is data; its verdict is a statistic over paired seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy import stats

Verdict = Literal["holds", "not shown", "contradicted"]
LEVEL = 0.9  # of the one-sided bounds
LEAST_SEEDS = 3


@dataclass(frozen=True)
class Claim:
    """``arm`` is better than ``against`` on ``metric`` by at least ``least``.

    ``least >= 0``: the mean effect reaches it and its one-sided 90 % bound is above zero. ``least < 0`` is a margin:
    the bound must be above it ("no worse than"). ``relative``: effects as a share of the value of ``against``.
    ``against=""``: the metric itself must reach ``least`` (direction "higher") or stay at or below it ("lower").
    ``paper``: the paper's own figures for this comparison.
    """

    name: str
    metric: str
    arm: str
    against: str
    direction: Literal["higher", "lower"]
    least: float = 0.0
    relative: bool = False
    paper: str = ""


def judge(claim: Claim, values: Mapping[str, Sequence[float]], *, exact: bool = False) -> dict[str, Any]:
    """The verdict on ``claim``. ``values``: arm -> the metric, one number a seed, paired. ``exact``: one seed does."""
    ours = np.asarray(values[claim.arm], float)
    base = np.asarray(values[claim.against], float) if claim.against else np.full_like(ours, claim.least)
    sign = 1.0 if claim.direction == "higher" else -1.0
    effects = sign * (ours - base) / (np.abs(base) if claim.relative else 1.0)
    least = claim.least if claim.against else 0.0
    mean, sd = float(effects.mean()), float(effects.std(ddof=1)) if len(effects) > 1 else 0.0
    half = float(stats.t.ppf(LEVEL, len(effects) - 1)) * sd / np.sqrt(len(effects)) if len(effects) > 1 else 0.0
    enough = exact or len(effects) >= LEAST_SEEDS
    return {
        "name": claim.name, "metric": claim.metric, "arm": claim.arm, "against": claim.against,
        "direction": claim.direction, "mean": float(ours.mean()),
        "sd": float(ours.std(ddof=1)) if len(ours) > 1 else 0.0, "against_mean": float(base.mean()),
        "effect": mean, "effect_sd": sd, "least": claim.least, "relative": claim.relative,
        "verdict": _verdict(mean, half, least) if enough and np.isfinite(effects).all() else "not shown",
        "paper": claim.paper,
    }  # fmt: skip


def _verdict(mean: float, half: float, least: float) -> Verdict:
    low, high = mean - half, mean + half
    if least < 0:
        return "holds" if low >= least else "contradicted" if high < least else "not shown"
    if mean >= least and (low > 0 or (half == 0 and mean >= 0)):
        return "holds"
    return "contradicted" if high < 0 else "not shown"
