"""Which rows of an unlabelled pool join the training set: the ones a teacher is surest of, class by class."""

from __future__ import annotations

import numpy as np

from redistill.core.types import Count, PositiveShare, checked

Array = np.ndarray


@checked
def top_k_per_class(probabilities: Array, k: Count) -> Array:
    """The row numbers, ascending, of the ``k`` rows with the highest probability of each class, at most k C in all;
    ``probabilities`` [N, C].

    A row counts for its most probable class alone, so no row is taken twice and a thin class gives fewer than ``k``.
    """
    probabilities = np.asarray(probabilities)
    winner, surest = probabilities.argmax(1), probabilities.max(1)
    best_first = np.argsort(-surest, kind="stable")
    kept = [best_first[winner[best_first] == c][:k] for c in range(probabilities.shape[1])]
    return np.sort(np.concatenate(kept))


@checked
def duplicates(pool: Array, held: Array, threshold: PositiveShare = 0.98, block: Count = 1024) -> Array:
    """Which rows of ``pool`` [N, ...] are copies of a row of ``held`` [M, ...]: a correlation of the pixels (or
    features) of at least ``threshold``; a mask [N].

    Leave them out before mining, or what the student is tested on may be in its training set.
    """
    if not (len(pool) and len(held)):
        return np.zeros(len(pool), bool)
    a, b = _standard(pool), _standard(held)
    return np.concatenate(
        [(part @ b.T).max(1) >= threshold - 1e-6 for part in np.split(a, range(block, len(a), block))]
    )


def _standard(x: Array) -> Array:
    """Rows without mean, of length 1; constant rows become zero and match nothing."""
    rows = np.asarray(x, np.float32).reshape(len(x), -1)
    rows = rows - rows.mean(1, keepdims=True)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-8)
