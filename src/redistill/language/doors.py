"""Rows of text as tokens of the student's tokenizer; all other rows as they are."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from redistill.core.errors import UserError, reading
from redistill.data import doors
from redistill.data.texts import Texts, check_characters, check_max_length, listed
from redistill.language.contexts import Message, positions, require_fitting, shown, two_contexts
from redistill.language.rows import Tokens, has_text, messages_of
from redistill.models.transformers import CausalLm, Classifier


def load_rows(spec: doors.DataSpec, student: Any, needs: Collection[str] = ()) -> Any:
    """The rows of a recipe. Texts become tokens of the student's tokenizer: those of a classifier of sequences; for a
    method that ``needs`` a context, questions with demonstrations; for any other of a language model,
    :class:`~redistill.language.rows.Tokens`. The option ``max_length`` cuts all: texts at their end, questions (with
    and without demonstration) at their beginning, as :func:`~redistill.language.contexts.encode_conversations` says."""
    of_text = spec.kind == "jsonl" or reads_text(student) or isinstance(student, CausalLm)
    cut = {name: value for name, value in spec.options.items() if of_text and name == "max_length"}
    options = {name: value for name, value in spec.options.items() if name not in cut}
    limit = positions(student) if isinstance(student, (CausalLm, Classifier)) else None
    if cut:
        check_max_length(cut["max_length"], limit)
    rows = doors.load_rows(spec.model_copy(update={"options": options}), ["max_length"] if of_text else [])
    if rows is not None and reads_text(student):
        return Texts(rows, student.tokenizer, student.classes, **{"max_length": min(limit or 128, 128), **cut})
    if not of_text or rows is None or (spec.kind != "jsonl" and not has_text(rows)):
        return rows
    if getattr(student, "tokenizer", None) is None:
        raise UserError("JSON lines of text need a student of kind causal_lm or classifier", place="data.kind")
    with reading("the student's tokenizer cannot lay out the rows", place="data"):
        return _conversations(rows, student, **cut) if "context" in needs else Tokens(rows, student, **cut)


def reads_text(student: Any) -> bool:
    """Whether rows become tokens of the student's tokenizer, as a classifier of sequences takes them."""
    return isinstance(student, Classifier)


def _conversations(rows: Any, student: Any, **cut: Any) -> Any:
    pairs = [_pair(row, number) for number, row in enumerate(listed(rows))]
    try:
        told = [[*asked[:-1], *shown(asked[-1]["content"], answer)] for asked, answer in pairs]
        data = two_contexts(student.tokenizer, [asked for asked, _ in pairs], told, **cut)
        require_fitting(student, data)
    except UserError as mistake:
        raise UserError(str(mistake), place="data") from mistake
    return data


def _pair(row: Any, number: int) -> tuple[list[Message], str]:
    """The conversation up to a question, and its demonstration: ``messages`` whose last one is the assistant's, or
    ``prompt`` with ``demonstration`` or ``completion`` (each a text or messages)."""
    if "messages" in row:
        *before, last = _messages(row["messages"], "messages", number)
    else:
        name = "completion" if "completion" in row and "demonstration" not in row else "demonstration"
        for key in ("prompt", name):
            if key not in row:
                raise UserError(f"row {number} has no {key!r}; has {sorted(row)}; data.columns renames", place="data")
        before = _messages(row["prompt"], "prompt", number)
        last = _messages(row[name], name, number, role="assistant")[-1]
    if not before or before[-1]["role"] != "user" or last["role"] != "assistant":
        raise UserError(f"row {number}: a user's message must come before the assistant's last one", place="data")
    return before, last["content"]


def _messages(value: Any, key: str, number: int, role: str = "user") -> list[Message]:
    """A text as one message of ``role``, or a list of messages."""
    if isinstance(value, str):
        if not value.strip():
            raise UserError(f"row {number}: {key!r} is empty; fill it or leave the row out", place="data")
        return [{"role": role, "content": check_characters(str(value), key, f"data: row {number}")}]
    if not isinstance(value, (list, tuple)) or not all(isinstance(message, dict) for message in value):
        raise UserError(f"row {number}: {key!r} is no text but {type(value).__name__}", place="data")
    return messages_of(value)
