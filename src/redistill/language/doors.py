"""Rows of text as tokens of the student's tokenizer; all other rows as they are."""

from __future__ import annotations

from typing import Any

from redistill.core.errors import UserError, reading
from redistill.data import doors
from redistill.data.texts import Texts, check_characters, check_max_length
from redistill.language.contexts import asked, positions, require_fitting, shown, two_contexts
from redistill.models.transformers import CausalLm, Classifier


def load_rows(spec: doors.DataSpec, student: Any) -> Any:
    """The rows of a recipe. Texts become tokens of the student's tokenizer: those of a classifier of sequences, and
    questions with demonstrations. The option ``max_length`` cuts both: a classifier's texts at their end, questions
    (with and without demonstration) at their beginning, as :func:`~redistill.language.contexts.encode_conversations`
    says."""
    of_text = spec.kind == "jsonl" or reads_text(student)
    cut = {name: value for name, value in spec.options.items() if of_text and name == "max_length"}
    options = {name: value for name, value in spec.options.items() if name not in cut}
    limit = positions(student) if isinstance(student, (CausalLm, Classifier)) else None
    if cut:
        check_max_length(cut["max_length"], limit)
    rows = doors.load_rows(spec.model_copy(update={"options": options}), ["max_length"] if of_text else [])
    if rows is not None and reads_text(student):
        return Texts(rows, student.tokenizer, student.classes, **{"max_length": min(limit or 128, 128), **cut})
    return _conversations(rows, student, **cut) if spec.kind == "jsonl" else rows


def reads_text(student: Any) -> bool:
    """Whether rows become tokens of the student's tokenizer, as a classifier of sequences takes them."""
    return isinstance(student, Classifier)


def _conversations(rows: Any, student: Any, **cut: Any) -> Any:
    if getattr(student, "tokenizer", None) is None:
        raise UserError("JSON lines of text need a student of kind causal_lm or classifier", place="data.kind")
    pairs = [_pair(rows[i], i) for i in range(len(rows))]
    conversations = [asked(p) for p, _ in pairs], [shown(p, d) for p, d in pairs]
    with reading("the student's tokenizer cannot lay out the rows", place="data"):
        try:
            data = two_contexts(student.tokenizer, *conversations, **cut)
            require_fitting(student, data)
        except UserError as mistake:
            raise UserError(str(mistake), place="data") from mistake
    return data


def _pair(row: Any, number: int) -> tuple[str, str]:
    """The question and the demonstration of a row."""
    for key in ("prompt", "demonstration"):
        if key not in row:
            raise UserError(f"row {number} has no {key!r}; has {sorted(row)}; data.columns renames", place="data")
        if not isinstance(row[key], str):
            raise UserError(f"row {number}: {key!r} is no text but {type(row[key]).__name__}", place="data")
        if not row[key].strip():
            raise UserError(f"row {number}: {key!r} is empty; fill it or leave the row out", place="data")
        check_characters(row[key], key, f"data: row {number}")
    return row["prompt"], row["demonstration"]
