"""Tables of rows: JSON lines, CSV, npz, and data sets that the ``datasets`` library wrote to disk."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from redistill.core.errors import UserError, need, unknown


def read_jsonl(path: str | Path) -> list[dict[str, Any]]:
    """The rows of a file of JSON lines (prompts, messages, demonstrations). Raises with the number of a broken line."""
    rows = []
    for number, line in enumerate(_file(path).read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"not JSON ({error.msg})", place=f"{path}:{number}") from error
        if not isinstance(row, dict):
            raise UserError(f"a row must be an object with named fields, got {line[:40]!r}", place=f"{path}:{number}")
        rows.append(row)
    if not rows:
        raise UserError("the file has no rows", place=str(path))
    return rows


def read_table(path: str | Path) -> dict[str, np.ndarray]:
    """The columns of a CSV file with a header (numbers where every filled cell of a column is one, nan where it is
    empty; else text) or of an npz file."""
    file = _file(path)
    if file.suffix == ".npz":
        with np.load(file, allow_pickle=False) as arrays:
            return dict(arrays)
    if file.suffix != ".csv":
        raise UserError(f"cannot read {file.suffix or 'a file without ending'!r}; give .csv or .npz", place=str(path))
    with file.open(newline="", encoding="utf-8") as stream:
        header, *rows = list(csv.reader(stream)) or [[]]
    for number, row in enumerate(rows, start=2):
        if len(row) != len(header):
            raise UserError(f"{len(row)} fields where the header has {len(header)}", place=f"{path}:{number}")
    if not rows:
        raise UserError("the file has no rows", place=str(path))
    return {name: _column([row[i] for row in rows]) for i, name in enumerate(header)}


def _column(values: list[str]) -> np.ndarray:
    try:
        numbers = np.array([float(v.strip() or "nan") for v in values], dtype=np.float64)
        return numbers if any(v.strip() for v in values) else np.array(values)
    except ValueError:
        return np.array(values)


def from_disk(path: str | Path, *, split: str | None = None) -> Any:
    """A data set that ``datasets`` saved with ``save_to_disk``."""
    try:
        import datasets
    except ImportError as error:
        raise need("vision", "datasets") from error
    if not Path(path).is_dir():
        raise UserError(f"no such folder: {path}", place="data.path")
    try:
        found = datasets.load_from_disk(str(path))
    except (FileNotFoundError, ValueError) as error:
        raise UserError(f"{path} holds no data set written by save_to_disk", place="data.path") from error
    if isinstance(found, datasets.DatasetDict):
        if split not in found:
            raise unknown("split", str(split), found, place="data.split")
        found = found[split]
    return found.with_format("torch")


class Renamed:
    """A data set under other column names: ``columns`` maps the wanted name to the one in the data."""

    def __init__(self, rows: Any, columns: Mapping[str, str]) -> None:
        self.rows, self.columns_map = rows, dict(columns)
        have = list(rows) if isinstance(rows, Mapping) else list(rows[0])
        for wanted, name in self.columns_map.items():
            if name not in have:
                raise unknown("column", name, have, place=f"data.columns.{wanted}")

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> dict[str, Any]:
        item = dict(self.rows[row])
        return item | {wanted: item[name] for wanted, name in self.columns_map.items()}


def _file(path: str | Path) -> Path:
    if not Path(path).is_file():
        raise UserError(f"no such file: {path}", place="data.path")
    return Path(path)
