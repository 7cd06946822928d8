"""From the words of a recipe to rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from redistill import catalog
from redistill.core.build import checked_options, one_of
from redistill.core.errors import UserError, unknown

# A kind of data: its reader, (path, **options) -> columns, a list of dicts or a map-style data set.
KINDS: dict[str, str] = {
    "images": "redistill.data.images:ImageFolder",
    "table": "redistill.data.rows:read_table",
    "jsonl": "redistill.data.rows:read_jsonl",
    "disk": "redistill.data.rows:from_disk",
}
READ = ("image", "label", "condition")  # columns that networks read


class DataSpec(BaseModel):
    """Where rows come from."""

    model_config = ConfigDict(extra="forbid")
    kind: Annotated[str, AfterValidator(one_of(lambda: [*KINDS, "none"]))]
    path: str = ""
    columns: dict[str, str] = Field({}, description="the method's name of a column: its name in the data")
    rows: Path | None = Field(None, description="an index file (npz): only these rows of the data are used")
    held_out: float | str | None = Field(
        None, description="rows that are not trained on: a share of all (0.1), or the path of others of the same kind"
    )
    options: dict[str, Any] = {}
    augment: str | dict[str, Any] | None = Field(
        None, description="how training images are changed: a word, as crop_flip_jitter, or a table with its options"
    )
    teacher_logits: Path | None = Field(
        None, description="npy file: the teacher's answers, asked once if it is not there; for rows that never change"
    )


def load_rows(spec: DataSpec, elsewhere: Sequence[str] = ()) -> Any:
    """The rows that a recipe names, None for kind ``none``; ``elsewhere``: options that were taken out already."""
    if spec.kind == "none":
        return None
    from redistill.data.picked import pick
    from redistill.data.rows import Renamed

    reader = catalog.load(KINDS[spec.kind])
    rows = reader(spec.path, **checked_options(reader, spec.options, "data.options", elsewhere))
    if isinstance(rows, dict):
        for wanted, name in spec.columns.items():
            if name not in rows:
                raise unknown("column", name, rows, place=f"data.columns.{wanted}")
            rows[wanted] = rows.pop(name)
    elif spec.columns:
        rows = Renamed(rows, spec.columns)
    return rows if spec.rows is None else pick(rows, spec.rows)


def numbers(rows: dict[str, Any]) -> dict[str, Any]:
    """Columns as networks take them: float32 and whole numbers. Labels of a CSV file become whole numbers, columns of
    text that no network reads are left out. Raises :class:`UserError` for text and for what is not finite in the
    columns that networks do read."""
    return {
        name: _numbers(name, column) for name, column in rows.items() if name in READ or column.dtype.kind not in "UO"
    }


def _numbers(name: str, column: Any) -> Any:
    import numpy as np

    if column.dtype.kind in "UO":
        shown = f"column {name!r} is text, as {str(column.flat[0])[:40]!r}" if column.size else f"{name!r} is text"
        raise UserError(f"{shown}; a network takes numbers: leave it out, or number its classes from 0", place="data")
    if name == "label" and column.ndim != 1:
        raise UserError(f"labels {list(column.shape)}; give one whole number a row", place="data")
    if column.dtype.kind in "biu":
        return _whole(name, column)
    with np.errstate(over="ignore"):  # what float32 cannot hold is found below
        column = column.astype(np.float32)
    broken = np.flatnonzero(name in READ and ~np.isfinite(column).all(axis=tuple(range(1, column.ndim))))
    if len(broken):
        shown = f"row {broken[0]} of column {name!r} is not finite, or empty"
        raise UserError(f"{shown}; leave the row out or fill it", place="data")
    if name == "label" and (column == column.round()).all():
        return column.astype(np.int64)
    return column


def _whole(name: str, column: Any) -> Any:
    """Whole numbers of a kind that torch computes with: labels and classes, and what is wider than a byte, as int64."""
    import numpy as np

    if column.dtype.kind == "u" and column.size and column.max() > np.iinfo(np.int64).max:
        raise UserError(f"column {name!r} holds {column.max()}, more than 63 bits; number its values", place="data")
    return column.astype(np.int64) if name in ("label", "condition") or column.itemsize > 1 else column
