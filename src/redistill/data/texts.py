"""Labelled texts as a classifier of sequences reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from redistill.core.errors import UserError, reading, unknown

MOST_CHARACTERS = 1_000_000


class Texts:
    """Rows ``ids`` and ``mask`` [T] (int64) of ``text``, padded to the longest of a batch, and ``label`` where the data
    has labels.

    ``rows``: columns, a list of dicts or a map-style data set with ``text``. ``classes``: the classifier's name of
    each class and its number; a label is either. Texts are cut at ``max_length`` tokens. Raises :class:`UserError` for
    a row without text, and for a label that is no class.
    """

    columns = ("ids", "mask", "label")  # tells the engine that rows are taken many at a time

    def __init__(self, rows: Any, tokenizer: Any, classes: Mapping[str, int], *, max_length: int = 128) -> None:
        check_max_length(max_length)
        self.tokenizer, self.max_length, self.classes = tokenizer, max_length, list(classes)
        read = listed(rows)
        labelled = any("label" in row for row in read)
        self.text = [_text(row, number) for number, row in enumerate(read)]
        self.label = [_class(row, number, classes) for number, row in enumerate(read)] if labelled else None

    def __len__(self) -> int:
        return len(self.text)

    def __getitems__(self, index: list[int]) -> dict[str, Any]:
        texts = [self.text[i] for i in index]
        with reading("its tokenizer cannot read a text", place="data"):
            found = self.tokenizer(
                texts, padding=True, truncation=True, max_length=self.max_length, return_tensors="pt"
            )
        batch = {"ids": found["input_ids"], "mask": found["attention_mask"]}
        if batch["ids"].shape[1] == 0 or not batch["mask"].any(1).all():
            row = next(i for i in index if not self.tokenizer(self.text[i])["input_ids"])
            raise UserError("its text has no tokens; leave it out", place=f"data: row {row}")
        return batch if self.label is None else {**batch, "label": torch.tensor([self.label[i] for i in index])}


def check_max_length(given: Any, positions: int | None = None) -> None:
    """Refuse a ``max_length`` that is no number of tokens, or more than a model has ``positions``."""
    most = positions or 2**31 - 1  # tokenizers count in 32 bits
    if type(given) is not int or not 1 <= given <= most:
        what = f"a number of tokens up to the model's {positions}" if positions else "a number of tokens"
        raise UserError(f"max_length={repr(given)[:40]}; give {what}", place="data.options.max_length")


def check_characters(text: str, name: str, place: str) -> str:
    """``text``, if a tokenizer is through with it in seconds."""
    if len(text) > MOST_CHARACTERS:
        raise UserError(f"{name!r} has {len(text)} characters; give at most {MOST_CHARACTERS} a row", place=place)
    return text


def listed(rows: Any) -> Sequence[Mapping[str, Any]]:
    """Columns (of text) or a data set as a list of rows."""
    if isinstance(rows, Mapping):
        return [dict(zip(rows, values)) for values in zip(*rows.values())]
    return [rows[i] for i in range(len(rows))]


def _text(row: Mapping[str, Any], number: int) -> str:
    if not isinstance(row.get("text"), str):
        raise UserError(f"row {number} has no text 'text'; has {sorted(row)}; data.columns renames", place="data")
    return check_characters(str(row["text"]), "text", f"data: row {number}")


def _class(row: Mapping[str, Any], number: int, classes: Mapping[str, int]) -> int:
    if "label" not in row:
        raise UserError(f"has no 'label', other rows do; has {sorted(row)}", place=f"data: row {number}")
    label = row["label"]
    if isinstance(label, str):
        if label not in classes:
            raise unknown("label", str(label), classes, place=f"data: row {number}")
        return classes[label]
    try:
        value = -1.0 if isinstance(label, bool) else float(label)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        value = -1.0
    if not value.is_integer() or int(value) not in classes.values():
        last = max(classes.values())
        raise UserError(
            f"label {label!r} is none of the classes 0..{last}; name them in models.student.options.classes",
            place=f"data: row {number}",
        )
    return int(value)
