"""Robust fits of positive laws to positive measurements, in logarithms."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy.optimize import minimize
from scipy.stats import qmc

Array = np.ndarray
STARTS, POLISHED, STEP = 4096, 8, 1e-5


def least_huber(
    predict: Callable[[Array], Array],
    observed: Array,
    bounds: Sequence[tuple[float, float]],
    *,
    delta: float = 1e-3,
    start: Array | None = None,
) -> Array:
    """Coefficients [k] above 0 of least mean Huber loss of log predicted - log ``observed`` [n] (threshold ``delta``).

    ``predict`` takes coefficients [k, P, 1] and gives [P, n]: a quasi-random grid of starts within ``bounds`` is scored
    in one call, and the best few are polished by L-BFGS-B over the logarithms. With a ``start`` [k] only that one is.
    """
    box, target = np.log(bounds), np.log(observed)  # [k, 2], [n]
    moves = STEP * np.concatenate([np.eye(len(box)), -np.eye(len(box))])  # [2k, k]

    def cost(theta: Array) -> Array:  # [P, k] -> [P]
        gap = np.abs(np.log(predict(np.exp(theta).T[..., None])) - target)  # [P, n]
        return np.where(gap < delta, gap**2 / (2 * delta), gap - delta / 2).mean(-1)

    def with_slope(theta: Array) -> tuple[float, Array]:
        value, *around = cost(np.concatenate([theta[None], theta + moves]))
        up, down = np.split(np.array(around), 2)
        return float(value), (up - down) / (2 * STEP)

    if start is None:
        grid = qmc.scale(qmc.Sobol(len(box), seed=0).random(STARTS), box[:, 0], box[:, 1])
        starts = grid[np.argsort(cost(grid))[:POLISHED]]
    else:
        starts = np.log(start).clip(box[:, 0], box[:, 1])[None]
    found = [minimize(with_slope, s, jac=True, method="L-BFGS-B", bounds=box) for s in starts]
    return np.exp(min(found, key=lambda f: f.fun).x)
