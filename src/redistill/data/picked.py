"""Index files: which rows of a data set are used, stored once as npz and read by any recipe (``data.rows``)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from redistill import files
from redistill.core.errors import UserError


def write_picked(path: str | Path, rows: np.ndarray, total: int, **more: np.ndarray) -> None:
    """Write the numbers ``rows`` of the rows that are kept of ``total``, and ``more`` arrays (the scores) beside
    them."""
    np.savez_compressed(path, rows=np.asarray(rows, np.int64), total=np.int64(total), **more)  # type: ignore[arg-type]


def read_picked(path: str | Path, total: int) -> np.ndarray:
    """The row numbers in an index file. Raises :class:`UserError` when it is missing, holds something else, or was made
    for a data set of another length than ``total``."""
    found = files.arrays(path, "data.rows")
    rows, made_for = found.get("rows"), found.get("total")
    whole = [part is not None and part.dtype.kind in "iu" and part.ndim == d for part, d in ((rows, 1), (made_for, 0))]
    if rows is None or not all(whole):
        said = f"whole numbers 'rows' [N] and 'total', got {', '.join(found) or 'nothing'}"
        raise UserError(f"{path} is no index file ({said}); write_picked makes one", place="data.rows")
    if made_for != total:
        raise UserError(f"{path} picks rows of a data set of {made_for}, this one has {total}", place="data.rows")
    if len(rows) == 0 or rows.min() < 0 or rows.max() >= total:
        raise UserError(f"{path} holds no rows, or rows outside 0..{total - 1}; make it anew", place="data.rows")
    return rows


class Picked:
    """The given rows of a map-style data set, in that order; everything else is asked of the data set."""

    def __init__(self, data: Any, rows: np.ndarray) -> None:
        self.data, self.rows = data, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> Any:
        return self.data[int(self.rows[number])]

    def __getitems__(self, index: list[int]) -> Any:
        """Many rows at once, where the data set gives them so (it then has ``columns``)."""
        return self.data.__getitems__([int(self.rows[i]) for i in index])

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "data":  # copies and pickles ask before there is a data set
            raise AttributeError(name)
        return getattr(self.data, name)


def pick(data: Any, path: str | Path) -> Any:
    """The rows of ``data`` (columns, a list or a data set) that the index file ``path`` names."""
    if isinstance(data, Mapping):
        rows = read_picked(path, len(next(iter(data.values()))))
        return {name: column[rows] for name, column in data.items()}
    return Picked(data, read_picked(path, len(data)))


def split(data: Any, share: float, seed: int) -> tuple[Any, Any]:
    """The rows of ``data`` (columns or a data set) in two parts: those to train on and, at random, a ``share`` of all
    to judge on; at least one row each. The same parts for the same number of rows and the same seed."""
    count = len(next(iter(data.values()))) if isinstance(data, Mapping) else len(data)
    if count < 2:
        raise UserError(f"{count} row cannot be split", place="data")
    apart = min(max(1, round(share * count)), count - 1)
    parts = np.split(np.random.default_rng(seed).permutation(count), [count - apart])
    train, held = (
        {name: column[rows] for name, column in data.items()} if isinstance(data, Mapping) else Picked(data, rows)
        for rows in parts
    )
    return train, held
