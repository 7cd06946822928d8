"""Rows of text as a language model learns them: which tokens are read, and which of them are the answer.

The columns are named as in TRL: ``messages`` (a conversation; the assistant's turns are learned),
``prompt`` and ``completion`` (texts, or lists of messages; the completion is learned), or ``text`` (all
of it is).
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from redistill.core.errors import UserError, first_line
from redistill.data.texts import check_characters, listed
from redistill.language.contexts import Message, positions
from redistill.language.tokens import pad_right

FORMATS = (("messages",), ("prompt", "completion"), ("text",))
Encoded = tuple[list[int], list[int]]  # ids, and 1 for those that are learned


class Tokens:
    """Rows ``ids``, ``mask`` and ``loss_mask`` [T] (int64), padded on the right to the longest of a batch.

    Rows longer than ``max_length`` (by default what the model can read) lose their end, as in TRL; those
    that have no learned token left are left out, and a warning says how many.
    """

    columns = ("ids", "mask", "loss_mask")  # tells the engine that rows are taken many at a time

    def __init__(self, rows: Any, lm: Any, *, max_length: int | None = None) -> None:
        if max_length is not None and (type(max_length) is not int or max_length < 2):
            raise UserError(
                f"max_length={max_length!r}; give a number of tokens from 2", place="data.options.max_length"
            )
        self.pad = lm.tokenizer.pad_token_id
        limit = max_length or positions(lm)
        whole = [_placed(lm.tokenizer, row, number) for number, row in enumerate(listed(rows))]
        cut = [(ids[:limit], learned[:limit]) for ids, learned in whole]
        self.rows = [row for row in cut if any(row[1][1:])]  # the first token is not predicted
        if not self.rows:
            raise UserError(f"no row has a token to learn within {limit} tokens", place="data")
        _warn(
            sum(len(ids) > len(short) for (ids, _), (short, _) in zip(whole, cut)), limit, len(whole) - len(self.rows)
        )

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, index: Sequence[int]) -> dict[str, Tensor]:
        ids, mask = pad_right([self.rows[i][0] for i in index], self.pad)
        learned, _ = pad_right([self.rows[i][1] for i in index], 0)
        return {"ids": ids, "mask": mask, "loss_mask": learned}


def _warn(cut: int, limit: int | None, lost: int) -> None:
    if cut or lost:
        said = f"{cut} rows are longer than {limit} tokens and lose their end"
        warnings.warn(f"{said}; {lost} have nothing to learn and are left out", stacklevel=4)


def has_text(rows: Any) -> bool:
    """Whether the first of ``rows`` is text in one of the formats."""
    first = {name: column[0] for name, column in rows.items()} if isinstance(rows, Mapping) else rows[0]
    return any(isinstance(first.get(name), (str, list)) for names in FORMATS for name in names)


def _placed(tokenizer: Any, row: Mapping[str, Any], number: int) -> Encoded:
    try:
        return encode(tokenizer, row)
    except UserError as mistake:
        raise UserError(str(mistake), place=f"data: row {number}") from mistake


def encode(tokenizer: Any, row: Mapping[str, Any]) -> Encoded:
    """The ids of a row in one of the formats, and which of them are learned.

    The parts of a row are made into tokens one by one, as they are when a model answers: no token reaches
    over from the question into the answer. The answer includes the token that ends it.
    """
    if "messages" in row:
        return chat(tokenizer, row["messages"])
    if "prompt" in row and "completion" in row:
        prompt, completion = row["prompt"], row["completion"]
        if not isinstance(prompt, str) and not isinstance(completion, str):
            return chat(tokenizer, [*messages_of(prompt), *messages_of(completion)], answers=len(completion))
        return _joined([(_ids(tokenizer, _text(prompt, "prompt"), first=True), 0),
                        (_ended(tokenizer, _text(completion, "completion")), 1)])  # fmt: skip
    if "text" in row:
        return _joined([(_ended(tokenizer, _text(row["text"], "text"), first=True), 1)])
    named = ", ".join(" with ".join(map(repr, names)) for names in FORMATS)
    raise UserError(f"has {sorted(row)}; give {named}; data.columns renames")


def chat(tokenizer: Any, messages: Any, *, answers: int | None = None) -> Encoded:
    """A conversation by the tokenizer's chat template; the assistant's turns are learned, or only those
    among the last ``answers`` messages.

    Where the template marks the assistant's turns (``{% generation %}``) the marks say what is learned;
    elsewhere what a turn adds to the text before it.
    """
    messages = messages_of(messages)
    if not tokenizer.chat_template:
        raise UserError("the tokenizer has no chat template; give prompt and completion, or save one beside the model")
    since = 0 if answers is None else len(messages) - answers
    learned = [k for k in range(since, len(messages)) if messages[k]["role"] == "assistant"]
    if not learned or learned[0] == 0:
        raise UserError("no turn of the assistant follows a message; it teaches nothing")
    if answers is None and re.search(r"{%-?\s*generation", tokenizer.chat_template):
        found = tokenizer.apply_chat_template(
            messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
        )
        return list(found["input_ids"]), list(found["assistant_masks"])
    return _joined(list(_turns(tokenizer, messages, learned)))


def _turns(tokenizer: Any, messages: list[Message], learned: Sequence[int]) -> Iterator[tuple[list[int], int]]:
    """Ids of what leads to each learned turn, then of the turn, and whether they are learned."""
    done = ""
    for k in learned:
        before = _rendered(tokenizer, messages[:k], add_generation_prompt=True)
        after = _rendered(tokenizer, messages[: k + 1])
        if not (before.startswith(done) and after.startswith(before)):
            remedy = "give one whose template has {% generation %} marks, or prompt and completion"
            raise UserError(f"the chat template rewrites earlier turns (at message {k}); {remedy}")
        yield _ids(tokenizer, before[len(done) :]), 0
        answer = _ids(tokenizer, after[len(before) :])
        end = answer.index(tokenizer.eos_token_id) + 1 if tokenizer.eos_token_id in answer else len(answer)
        yield answer[:end], 1
        yield answer[end:], 0
        done = after


def _rendered(tokenizer: Any, messages: list[Message], **options: Any) -> str:
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, **options))
    except Exception as error:  # jinja's own: a role that the template refuses, a key that it lacks
        raise UserError(f"the chat template does not take it ({first_line(error)})") from error


def messages_of(value: Any) -> list[Message]:
    """A list of messages with the texts ``role`` and ``content``."""
    if not isinstance(value, (list, tuple)) or not value:
        raise UserError(f"{str(value)[:40]!r} is no list of messages, each with role and content")
    for message in value:
        told = isinstance(message, Mapping) and all(isinstance(message.get(k), str) for k in ("role", "content"))
        if not told:
            raise UserError(f"the message {str(message)[:60]} lacks the text 'role' or 'content'")
    return list(value)


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str) or not value.strip():
        what = "is empty" if isinstance(value, str) else f"is no text but {type(value).__name__}"
        raise UserError(f"{name!r} {what}")
    return check_characters(str(value), name, "")


def _ids(tokenizer: Any, text: str, *, first: bool = False) -> list[int]:
    """Tokens of a part; the ``first`` one brings the tokenizer's own opening token, if it has one."""
    return list(tokenizer(text, add_special_tokens=first)["input_ids"]) if text else []


def _ended(tokenizer: Any, text: str, *, first: bool = False) -> list[int]:
    """Tokens of a part, and the one that ends it, if it is not there."""
    ids = _ids(tokenizer, text, first=first)
    return ids if ids[-1:] == [tokenizer.eos_token_id] else [*ids, tokenizer.eos_token_id]


def _joined(parts: Sequence[tuple[list[int], int]]) -> Encoded:
    ids = [i for part, _ in parts for i in part]
    return ids, [learned for part, learned in parts for _ in part]
