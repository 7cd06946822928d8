"""A teacher's answers to a fixed data set: computed once, kept on disk, read row by row.

The file is one ``.npy`` array [N, C] (float16 by default: 2 C bytes a row) that is mapped, not loaded, and a ``.json``
beside it that says whose answers they are. Only for rows that are the same every time: an augmented view is another
question, and needs the teacher.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from redistill import files
from redistill.core.errors import UserError, reading
from redistill.core.source import table

COLUMN = "teacher_logits"
Ask = Callable[[nn.Module, dict[str, Any]], Tensor]


def fingerprint(network: nn.Module) -> str:
    """A short hash of the network's weights and buffers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


@torch.no_grad()
def write_signals(
    teacher: nn.Module, rows: Any, file: str | Path, *, ask: Ask, batch_size: int = 256,
    dtype: Literal["float16", "float32"] = "float16",
) -> Path:  # fmt: skip
    """Ask ``teacher`` (in evaluation mode) about every row once and write its answers [N, C] to ``file`` (``.npy``).

    ``rows``: whatever :func:`redistill.fit` takes. ``ask(teacher, batch)`` gives [B, C]; for a classifier that is
    ``redistill.supervised.classifier.logits``. Nothing is left behind when it fails half-way.
    """
    file, source = _named(file), table(rows)
    teacher.eval()
    device = next((p.device for p in teacher.parameters()), torch.device("cpu"))
    beside, answers = file.with_name(f".{os.getpid()}.{file.name}"), None
    try:
        for start in range(0, len(source), batch_size):
            numbers = list(range(start, min(start + batch_size, len(source))))
            batch = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in source.__getitems__(numbers).items()}
            part = ask(teacher, batch).float().cpu().numpy()  # [B, C]
            if answers is None:
                shape = (len(source), *part.shape[1:])
                answers = np.lib.format.open_memmap(beside, mode="w+", dtype=dtype, shape=shape)
            answers[numbers] = part
        assert answers is not None, "no rows"
        answers.flush()
        about = {"rows": len(source), "teacher": fingerprint(teacher), "dtype": dtype, "shape": list(answers.shape)}
        file.with_suffix(".json").write_text(json.dumps(about) + "\n")
        os.replace(beside, file)
    finally:
        beside.unlink(missing_ok=True)
    return file


def read_signals(file: str | Path, rows: int, teacher: nn.Module | None = None) -> np.ndarray:
    """The answers in ``file``, mapped from the disk. Raises :class:`UserError` when it is missing, made for another
    number of rows, or (where ``teacher`` is given) by another teacher."""
    file = _named(file)
    with reading(f"{file} holds no teacher's answers", place=COLUMN, remedy="write_signals makes them"):
        made_by = json.loads(file.with_suffix(".json").read_text())["teacher"]
        answers = np.load(file, mmap_mode="r", allow_pickle=False)
    if len(answers) != rows:
        raise UserError(f"{file} answers {len(answers)} rows, the data has {rows}; remove it", place=COLUMN)
    if teacher is not None and made_by != fingerprint(teacher):
        raise UserError(f"{file} holds another teacher's answers; remove it or name another file", place=COLUMN)
    return answers


class WithSignals:
    """Rows of a data set with the teacher's answers beside them, read from the disk as they are needed."""

    def __init__(self, rows: Any, answers: np.ndarray) -> None:
        self.rows, self.answers = table(rows), answers
        self.columns = (COLUMN,)  # tells the engine that rows are taken many at a time
        assert len(self.rows) == len(answers), "one answer a row"

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, index: list[int]) -> dict[str, Any]:
        answers = torch.from_numpy(self.answers[index].astype(np.float32))
        return {**self.rows.__getitems__(index), COLUMN: answers}


def with_teacher(teacher: nn.Module, rows: Any, file: str | Path, *, ask: Ask, **options: Any) -> WithSignals:
    """``rows`` with the answers of ``teacher`` as column ``teacher_logits``: read from ``file``, or asked once and
    written there."""
    count = len(table(rows))
    if not _named(file).exists():
        write_signals(teacher, rows, file, ask=ask, **options)
    return WithSignals(rows, read_signals(file, count, teacher))


def _named(file: str | Path) -> Path:
    file = Path(file)
    if file.suffix != ".npy":
        raise UserError(f"{file} must end in .npy", place=COLUMN)
    files.folder(file.parent, COLUMN)
    return file
