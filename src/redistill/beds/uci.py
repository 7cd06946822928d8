"""The uci bed: small real regression tables, split 30/30/40 and standardised on the training rows.

Most ship with the package (provenance and licences: ``data/uci.json``); diabetes comes with scikit-learn; star98, whose
author keeps all rights, is read from statsmodels where that is installed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

import numpy as np

from redistill.core.errors import UserError, need, unknown

SHIPPED = ("autompg", "longley", "macrodata", "randhie", "stackloss")
TABLES = ("diabetes", "star98", *SHIPPED)


@dataclass(frozen=True)
class Table:
    """``x`` [N, d] and ``y`` [N], float64, as they were published."""

    name: str
    x: np.ndarray
    y: np.ndarray


@dataclass(frozen=True)
class Parts:
    """Three disjoint parts of a table; every column and the target have mean 0 and variance 1 on the training rows."""

    x_train: np.ndarray
    y_train: np.ndarray
    x_val: np.ndarray
    y_val: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray


def load(name: str) -> Table:
    """One of ``TABLES``; an unknown name is refused with the nearest valid one."""
    if name == "diabetes":
        return _diabetes()
    if name == "star98":
        return _star98()
    if name not in SHIPPED:
        raise unknown("table", name, TABLES)
    with files("redistill.beds").joinpath("data/uci.npz").open("rb") as file:
        arrays = np.load(file, allow_pickle=False)
        return Table(name, arrays[f"{name}.x"], arrays[f"{name}.y"])


def _diabetes() -> Table:
    from sklearn.datasets import load_diabetes

    x, y = load_diabetes(return_X_y=True, scaled=False)
    return Table("diabetes", x, y)


def _star98() -> Table:
    try:
        from statsmodels.datasets import star98
    except ImportError as error:
        raise need("tables", "statsmodels") from error
    above, below = star98.load_pandas().endog.to_numpy(float).T
    return Table("star98", star98.load_pandas().exog.to_numpy(float), above / (above + below))


def split(table: Table, seed: int | Sequence[int], shares: Sequence[float] = (0.3, 0.3, 0.4)) -> Parts:
    """Random training, validation and test rows in the given ``shares``, standardised on the training rows."""
    from sklearn.preprocessing import StandardScaler

    if len(shares) != 3 or min(shares) <= 0 or not np.isclose(sum(shares), 1):
        raise UserError(f"shares={tuple(shares)}: give three positive shares (train, validation, test) that sum to 1")
    n = len(table.y)
    order = np.random.default_rng(seed).permutation(n)
    train, val, test = np.split(order, [round(shares[0] * n), round((shares[0] + shares[1]) * n)])
    scale_x, scale_y = StandardScaler().fit(table.x[train]), StandardScaler().fit(table.y[train, None])
    parts = [(scale_x.transform(table.x[r]), scale_y.transform(table.y[r, None])[:, 0]) for r in (train, val, test)]
    return Parts(*(array for part in parts for array in part))
