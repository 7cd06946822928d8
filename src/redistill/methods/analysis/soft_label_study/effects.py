"""Which factor of an experiment moves a score, and whether two classifiers are equally good."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from scipy import stats

from redistill.core.errors import UserError

Array = np.ndarray
Term = tuple[str, ...]


@dataclass(frozen=True)
class Effect:
    """A factor (or two that interact): the ``share`` of the score's variation that it explains, and the test of
    whether it explains any; nan where each combination was measured once and nothing is left to test against."""

    term: Term
    share: float
    F: float
    p: float


def explained(
    rows: Sequence[Mapping[str, Any]], score: str, factors: Sequence[str], pairs: Sequence[Term] = ()
) -> list[Effect]:
    """Analysis of variance by linear models with one level a value; ``pairs`` of factors may interact. Rows need not
    be a full grid: a term gets what it adds to all terms that do not contain it (sums of squares of type II).

    Raises :class:`UserError` for unknown columns, fewer than three rows or a score that is the same everywhere.
    """
    for name in (score, *factors):
        if any(name not in row for row in rows):
            raise UserError(f"the rows have no {name!r}", place="explained")
    y = np.array([row[score] for row in rows], np.float64)
    if len(y) < 3 or not np.isfinite(y).all() or np.ptp(y) == 0:
        raise UserError(f"{score!r} needs three rows or more, finite and not all equal", place="explained")
    terms: list[Term] = [(name,) for name in factors] + [tuple(pair) for pair in pairs]
    columns = {term: _columns(rows, term) for term in terms}
    left, free = _residual(y, list(columns.values()))
    total = float(((y - y.mean()) ** 2).sum())
    found = []
    for term in terms:
        others = [c for other, c in columns.items() if not set(term) <= set(other)]
        without, more = _residual(y, others)
        with_, fewer = _residual(y, [*others, columns[term]])
        F, p = _test(without - with_, more - fewer, left, free, total)
        found.append(Effect(term, (without - with_) / total, F, p))
    return found


def _columns(rows: Sequence[Mapping[str, Any]], term: Term) -> Array:
    """Indicators [N, K] of the combinations of levels."""
    levels = [list(dict.fromkeys(row[name] for row in rows)) for name in term]
    return np.array([[float(all(row[n] == v for n, v in zip(term, c))) for c in product(*levels)] for row in rows])


def _residual(y: Array, parts: Sequence[Array]) -> tuple[float, int]:
    """Sum of squares that a linear model with a constant leaves, and the degrees of freedom of it."""
    X = np.concatenate([np.ones((len(y), 1)), *parts], 1)
    solution, _, rank, _ = np.linalg.lstsq(X, y, rcond=None)
    return float(((y - X @ solution) ** 2).sum()), len(y) - int(rank)


def _test(gained: float, used: int, left: float, free: int, total: float) -> tuple[float, float]:
    if free == 0 or used == 0 or left < 1e-12 * total:
        return float("nan"), float("nan")
    F = (gained / used) / (left / free)
    return F, float(stats.f.sf(F, used, free))


def mcnemar(right_a: Array, right_b: Array) -> float:
    """p of the exact paired test that two classifiers are right equally often; ``right_a``, ``right_b`` [N] bool, on
    the same rows (McNemar 1947). 1 where they never differ."""
    a, b = np.asarray(right_a, bool), np.asarray(right_b, bool)
    if a.shape != b.shape:
        raise UserError(f"{len(a)} and {len(b)} answers; give both classifiers the same rows", place="mcnemar")
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    return float(stats.binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0
