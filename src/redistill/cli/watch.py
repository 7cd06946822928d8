"""What ``redistill run`` sees of a run under way: held-out numbers, the best weights, grids of samples.

Observers: they leave the weights, the modes and the random numbers of the run as they were, so a run
that is watched and one that is not end in the same bits.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from redistill.cli.judges import Judge
from redistill.core import Fitted, Method, Progress, UserError
from redistill.core.observers import Row
from redistill.core.progress import own_generators
from redistill.core.world import whole

LOOKS = 20  # at the held-out rows in a run that does not say how many
PREFIX = "held_out/"


def main_process() -> bool:
    """Whether this process writes files."""
    return not (dist.is_available() and dist.is_initialized()) or dist.get_rank() == 0


class Due:
    """Whether a logged row is one to look at: the first from every ``every`` updates on, and the last of
    the run; without ``every`` a twentieth of the run lies between two."""

    def __init__(self, every: int | None, log_every: int) -> None:
        self.every, self.log_every = every, log_every

    def __call__(self, now: Progress, row: Row) -> bool:
        every = self.every or max(1, now.length // LOOKS)
        return row["step"] == now.length or row["step"] % every < min(self.log_every, every)


class HeldOut:
    """Adds the numbers of ``judge`` to the rows that are due, as ``held_out/<name>``."""

    def __init__(self, judge: Judge, due: Due) -> None:
        self.judge, self.due = judge, due

    def __call__(self, now: Progress, row: Row, method: Method) -> None:
        if self.due(now, row):
            with own_generators():
                found = _of_main(self.judge.numbers(method, now), now)
            row |= {PREFIX + name: value for name, value in found.items()}


def _of_main(found: dict[str, float], now: Progress) -> dict[str, float]:
    """The numbers of rank 0 on every rank: what depends on them must go alike."""
    if not (dist.is_available() and dist.is_initialized()):
        return found
    values = torch.tensor(list(found.values()), dtype=torch.float32, device=now.device)
    dist.broadcast(values, 0)
    return dict(zip(found, values.tolist()))


class Best:
    """Keeps in ``file`` what the run changed of the student, as it was at the best held-out number.

    A run that was killed and goes on meets the same numbers again, so a record that lies ahead of the
    checkpoint is the one it will come to: only what is better replaces it.
    """

    def __init__(self, file: Path, judge: Judge, student: nn.Module, rows: int) -> None:
        if not judge.goal:
            said = "the method trains several networks, and no held-out number says which student is best"
            raise UserError(f"{said}; leave it out", place="keep")
        self.file, self.judge = file, judge
        self.about = {"number": judge.goal, "rows": str(rows)}
        self.changing = {name for name, p in student.named_parameters() if p.requires_grad}
        self.changing |= {name for name, _ in student.named_buffers()}
        self.step, self.value = self._record()

    def _record(self) -> tuple[int, float | None]:
        """Step and number of an earlier part of this run."""
        if not self.file.exists():
            return 0, None
        try:
            with safe_open(self.file, "pt") as stored:
                said = stored.metadata() or {}
            if {name: said.get(name) for name in self.about} != self.about:
                raise UserError(f"{self.file} was chosen by other held-out rows; name another out", place="keep")
            return int(said["step"]), float(said["value"])
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(f"{self.file} is damaged; remove it", place="keep") from error

    def __call__(self, now: Progress, row: Row, method: Method) -> None:
        value = row.get(PREFIX + self.judge.goal)
        if value is None or (self.value is not None and self.judge.sign * (value - self.value) <= 0):
            return
        self.step, self.value = row["step"], value
        state = method.export().state_dict().items()
        tensors = {name: whole(t).contiguous().clone() for name, t in state if name in self.changing}
        if main_process():
            about = {**self.about, "step": str(self.step), "value": repr(value)}
            self.file.parent.mkdir(parents=True, exist_ok=True)
            beside = self.file.with_name(f".{self.file.name}")
            save_file(tensors, beside, metadata=about)
            os.replace(beside, self.file)

    def give(self, student: nn.Module) -> int:
        """Put the best weights into ``student``; returns their step, 0 where none were looked at."""
        if self.value is None:  # a run that was stopped early
            return 0
        student.load_state_dict(load_file(self.file), strict=False)
        return self.step


def summary(file: Path, done: Fitted, step: int, **more: Any) -> None:
    """Write what the run ended with as JSON: its last row, every held-out number as [updates, value]
    pairs, and the ``step`` of the weights that are exported."""
    names = dict.fromkeys(name for row in done.history for name in row if name.startswith(PREFIX))
    curves = {n.removeprefix(PREFIX): [[r["step"], r[n]] for r in done.history if n in r] for n in names}
    found = {
        **more,
        "seconds": done.seconds,
        "last": done.history[-1] if done.history else {},
        "held_out": curves,
        "student_of_step": step,
    }
    file.write_text(json.dumps(found, indent=1) + "\n")
