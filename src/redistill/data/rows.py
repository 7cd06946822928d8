"""Tables of rows: JSON lines, CSV, npz, and data sets that the ``datasets`` library wrote to disk."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from redistill import files
from redistill.core.errors import UserError, need, reading, unknown


def read_jsonl(path: str | Path) -> list[dict[str, Any]]:
    """The rows of a file of JSON lines (prompts, messages, demonstrations). Raises with the number of a broken line."""
    rows = []
    # only \n ends a row: str.splitlines also cuts at marks that a JSON text may hold
    for number, line in enumerate(files.text(path, "data.path").split("\n"), start=1):
        if not line.strip():
            continue
        row = files.parsed(line, f"{path}:{number}")
        if not isinstance(row, dict):
            raise UserError(f"a row must be an object with named fields, got {line[:40]!r}", place=f"{path}:{number}")
        rows.append(row)
    if not rows:
        raise UserError("the file has no rows", place=str(path))
    return rows


def read_table(path: str | Path, *, text: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """The columns of a CSV file with a header (numbers where every filled cell of a column is one, nan where it is
    empty; else text), of an npz file or of a parquet file (lists and tables within a cell stay Python's).
    ``text``: CSV columns that are text whatever is in them."""
    file = files.existing(path, "data.path")
    if file.suffix == ".npz":
        return _columns_of(files.arrays(file, "data.path"), str(path))
    if file.suffix == ".parquet":
        return _parquet(file)
    if file.suffix.lower() != ".csv":
        said = f"cannot read {file.suffix or 'a file without ending'!r}; give .csv or .npz, or .parquet"
        raise UserError(said, place=str(path))
    header, rows = _cells(file)
    for name in text:
        if name not in header:
            raise unknown("column", name, header, place="data.options.text")
    return {
        name: np.array([row[i] for _, row in rows])
        if name in text
        else _column([row[i] for _, row in rows], f"{path}: column {name!r}", [line for line, _ in rows])
        for i, name in enumerate(header)
    }


def _columns_of(found: dict[str, np.ndarray], place: str) -> dict[str, np.ndarray]:
    """The arrays of an npz file, if they are columns."""
    if not found:
        raise UserError("the file has no arrays", place=place)
    for name, column in found.items():
        if column.ndim == 0 or column.dtype.kind not in "biufU":
            raise UserError(f"{name!r} is {column.dtype} {list(column.shape)}; a column has a number or text in each "
                            "row", place=place)  # fmt: skip
    lengths = {name: len(column) for name, column in found.items()}
    if len(set(lengths.values())) > 1:
        raise UserError(f"columns of unequal length: {lengths}", place=place)
    return found


def _parquet(file: Path) -> dict[str, np.ndarray]:
    try:
        import pyarrow.lib
        from pyarrow import parquet
    except ImportError as error:
        raise need("vision", "pyarrow") from error
    try:
        found = parquet.read_table(file)
    except (OSError, ValueError, pyarrow.lib.ArrowException) as error:
        raise UserError(f"no whole parquet file ({files.first_line(error)})", place=str(file)) from error
    if found.num_rows == 0:
        raise UserError("the file has no rows", place=str(file))
    return {name: _cells_of(found[name].to_pylist()) for name in found.column_names}


def _cells_of(values: list[Any]) -> np.ndarray:
    """Numbers or text as an array of their type, images as one of numbers, whatever else as it is."""
    if not any(isinstance(value, (dict, type(None))) for value in values):
        with suppress(ValueError):  # lists of unequal lengths
            column = np.array(values)
            if column.dtype.kind in "biufU":
                return column
    column = np.empty(len(values), dtype=object)
    column[:] = values
    return column


def _cells(file: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The header of a CSV file, and each row with its line; blank lines are left out."""
    reader = csv.reader(io.StringIO(files.text(file, "data.path"), newline=""))
    try:
        lines = [(reader.line_num, row) for row in reader if row]
    except csv.Error as error:
        raise UserError(f"not CSV ({error})", place=f"{file}:{reader.line_num}") from error
    header = [name.strip() for name in lines[0][1]] if lines else []
    for number, row in lines:
        if len(row) != len(header):
            raise UserError(f"{len(row)} fields where the header has {len(header)}", place=f"{file}:{number}")
    if len(lines) < 2:
        raise UserError("the file has no rows", place=str(file))
    twice = [name for name in header if header.count(name) > 1]
    if twice:
        raise UserError(f"two columns are called {twice[0]!r}; rename one", place=f"{file}:1")
    return header, lines[1:]


def _column(values: list[str], place: str, lines: list[int]) -> np.ndarray:
    """Numbers or text. Raises :class:`UserError` where most cells are numbers and some are not: taken for text, the
    column would be lost without a word."""
    numbers = [_number(v) for v in values]
    odd = [k for k, (v, x) in enumerate(zip(values, numbers)) if x is None and v.strip()]
    if not odd and any(v.strip() for v in values):
        return np.array([math.nan if x is None else x for x in numbers], dtype=np.float64)
    if 0 < len(odd) < sum(x is not None for x in numbers):
        said = f"{values[odd[0]][:40]!r} in line {lines[odd[0]]} among numbers; mend it, or name the column in"
        raise UserError(f"{said} data.options.text", place=place)
    return np.array(values)


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None


def from_disk(path: str | Path, *, split: str | None = None) -> Any:
    """A data set that ``datasets`` saved with ``save_to_disk``."""
    try:
        import datasets
    except ImportError as error:
        raise need("vision", "datasets") from error
    folder = files.folder(path, "data.path")
    with reading(f"{path} holds no whole data set written by save_to_disk", place="data.path"):
        found = datasets.load_from_disk(str(folder))
    if isinstance(found, datasets.DatasetDict):
        if split not in found:
            raise unknown("split", str(split), found, place="data.options.split")
        found = found[split]
    return found.with_format("torch")


class Renamed:
    """A data set under other column names: ``columns`` maps the wanted name to the one in the data."""

    def __init__(self, rows: Any, columns: Mapping[str, str]) -> None:
        self.rows, self.columns_map = rows, dict(columns)
        if len(rows) == 0:
            raise UserError("the data set is empty", place="data")
        have = list(rows) if isinstance(rows, Mapping) else list(rows[0])
        for wanted, name in self.columns_map.items():
            if name not in have:
                raise unknown("column", name, have, place=f"data.columns.{wanted}")

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> dict[str, Any]:
        item = dict(self.rows[row])
        for wanted, name in self.columns_map.items():
            if name not in item:
                raise unknown("column", name, item, place=f"data: row {row}: columns.{wanted}")
        return item | {wanted: item[name] for wanted, name in self.columns_map.items()}
