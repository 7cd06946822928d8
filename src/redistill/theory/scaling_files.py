"""What ``redistill plan`` reads: numbers with units, tables of runs, coefficients of laws."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from redistill import files
from redistill.core.errors import UserError, unknown

if TYPE_CHECKING:
    from redistill.theory.scaling import Laws

COLUMNS = ("N", "D", "loss", "teacher_loss")
RANGES = ("N_S", "D_S", "N_T", "D_T", "L_T")
UNITS = {"K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}


def number(given: str, place: str) -> float:
    """``1e21``, ``300M``, ``7.5B`` as a number above 0."""
    digits, unit = (given[:-1], UNITS[given[-1].upper()]) if given[-1:].upper() in UNITS else (given, 1.0)
    try:
        value = float(digits) * unit
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise UserError(f"{given!r} is no number above 0; write 3e8 or 300M", place=place)
    return value


def read_runs(paths: Sequence[Path]) -> dict[str, list[float]]:
    """The columns N, D, loss, teacher_loss of CSV files, or of JSON files (columns, or a list of rows), one after the
    other."""
    parts = [_runs_of(file) for file in paths]
    return {name: [value for part in parts for value in part[name]] for name in COLUMNS}


def _runs_of(file: Path) -> dict[str, list[float]]:
    place = f"--runs: {file}"
    rows = _rows_of_json(file, place) if file.suffix == ".json" else _rows_of_csv(file, place)
    if not rows or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"no runs; give columns {', '.join(COLUMNS)}", place=place)
    for name in COLUMNS:
        if name not in rows[0]:
            raise UserError(f"no column {name!r}; it has {', '.join(map(str, rows[0]))}", place=place)
    for i, row in enumerate(rows, 1):
        if None in row:  # where csv puts what the header has no name for
            raise UserError(f"more fields than the header's {len(row) - 1}", place=f"{place}: run {i}")
    return {name: [_cell(row.get(name), f"{place}: run {i}: {name}") for i, row in enumerate(rows, 1)]
            for name in COLUMNS}  # fmt: skip


def _rows_of_csv(file: Path, place: str) -> list[Any]:
    try:
        return list(csv.DictReader(files.text(file, place).splitlines(), skipinitialspace=True))
    except csv.Error as error:
        raise UserError(f"not CSV ({error})", place=place) from error


def _rows_of_json(file: Path, place: str) -> list[Any]:
    found = files.parsed(files.text(file, place), place)
    if not isinstance(found, dict):
        return found if isinstance(found, list) else []
    lengths = {name: len(column) if isinstance(column, list) else 0 for name, column in found.items()}
    if len(set(lengths.values())) > 1:
        raise UserError(f"columns of unequal length: {lengths}", place=place)
    return [dict(zip(found, row)) for row in zip(*found.values())] if all(lengths.values()) else []


def _cell(value: Any, place: str) -> float:
    """A number above 0; a run without a teacher has no ``teacher_loss``."""
    if place.endswith("teacher_loss") and (value in (None, "", "nan", "NaN") or value != value):
        return math.nan
    try:
        found = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{str(value)[:40]!r} is no number", place=place) from error
    if not 0 < found < math.inf:
        raise UserError(f"{value!r} is no number above 0", place=place)
    return found


def read_laws(file: Path) -> Laws:
    """Laws from JSON, or from what ``plan --json`` printed."""
    from redistill.theory.scaling import DistillationLaw, Laws, SupervisedLaw

    place = "--coefficients"
    found = files.parsed(files.text(file, place), f"{place}: {file}")
    found = found.get("coefficients", found) if isinstance(found, dict) else {}
    found = found if isinstance(found, dict) else {}
    laws = [_law(cls, found, name) for cls, name in ((SupervisedLaw, "supervised"), (DistillationLaw, "distillation"))]
    return Laws(*laws, _ranges(found.get("ranges")), str(found.get("source", file)))


def _law(cls: Any, found: dict[str, Any], part: str) -> Any:
    given, place = found.get(part), f"--coefficients: {part}"
    names = cls.__dataclass_fields__
    if not isinstance(given, dict):
        raise UserError(f"missing; give a table of {', '.join(names)}", place=place)
    for name in given:
        if name not in names:
            raise unknown("coefficient", name, names, place=place)
    for name in names:
        if not _above_zero(given.get(name)):
            raise UserError(f"{name} is {given.get(name)!r}; give a number above 0", place=place)
    return cls(**given)


def _ranges(given: Any) -> dict[str, tuple[float, float]]:
    """Every range that the planner needs, [low, high] each; without them it could not say what it extrapolates."""
    found, ranges = given if isinstance(given, dict) else {}, {}
    for name in RANGES:
        pair = found.get(name)
        if not isinstance(pair, list) or len(pair) != 2 or not all(map(_above_zero, pair)) or pair[0] > pair[1]:
            said = f"{name} is {pair!r}; give [low, high] of the runs behind the fit"
            raise UserError(said, place="--coefficients: ranges")
        ranges[name] = (float(pair[0]), float(pair[1]))
    return ranges


def _above_zero(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < math.inf
