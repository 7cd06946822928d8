"""Grids of a generator's samples while it trains: always the same noise, so that a grid can be laid on the next."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from redistill.cli.watch import Due, main_process
from redistill.core import Method, Progress, UserError
from redistill.core.modes import evaluating
from redistill.core.observers import Row
from redistill.core.progress import own_generators
from redistill.core.source import table
from redistill.diffusion.denoiser import Denoiser
from redistill.diffusion.score import few_step, student_times


class Samples:
    """Writes ``folder/step-<n>.png`` at the rows that are due: ``count`` samples of a few-step denoiser.

    ``rows``: where the network takes a condition, the first rows' are asked for. Raises
    :class:`UserError` for a student that draws no pictures.
    """

    def __init__(self, method: Method, rows: Any, count: int, folder: Path, due: Due) -> None:
        student, self.folder, self.due = method.export(), folder, due
        shape = getattr(method, "shape", None) or getattr(student, "shape", None)
        if not isinstance(student, Denoiser) or not shape or len(shape) != 3 or shape[0] not in (1, 3):
            what = f"makes samples of {list(shape)}" if shape else f"is a {type(student).__name__}"
            said = f"the student {what}; pictures of 1 or 3 channels come from a denoiser alone"
            raise UserError(f"{said}; leave it out", place="watch.samples")
        self.steps = int(method.arguments.get("steps", 1))
        generator = torch.Generator().manual_seed(0)
        self.noises = [torch.randn(count, *shape, generator=generator) for _ in range(self.steps)]
        self.condition = _conditions(method, rows, count)

    def __call__(self, now: Progress, row: Row, method: Method) -> None:
        if not self.due(now, row):
            return
        student = method.export()
        condition = None if self.condition is None else self.condition.to(now.device)
        with torch.no_grad(), own_generators(), evaluating(student):
            noises = [noise.to(now.device) for noise in self.noises]
            x = few_step(student, student.path, student_times(student.path, self.steps), noises, condition)
        if main_process():
            self.folder.mkdir(parents=True, exist_ok=True)
            grid(x.float().cpu()).save(self.folder / f"step-{row['step']:09d}.png")


def _conditions(method: Method, rows: Any, count: int) -> Tensor | None:
    """The conditions of the first rows, one a sample, over again where there are fewer rows."""
    name = getattr(method, "condition", None)
    if not name:
        return None
    source = table(rows)
    return source.__getitems__([k % len(source) for k in range(count)])[name]


def grid(x: Tensor) -> Image.Image:
    """Samples [N, C, H, W] in [-1, 1], C 1 or 3, side by side in rows of about the root of N."""
    count, channels, height, width = x.shape
    columns = math.ceil(math.sqrt(count))
    lines = math.ceil(count / columns)
    page = np.zeros((lines * height, columns * width, channels), np.uint8)
    pictures = ((x.clamp(-1, 1) + 1) * 127.5).round().permute(0, 2, 3, 1).numpy().astype(np.uint8)
    for k, picture in enumerate(pictures):
        top, left = k // columns * height, k % columns * width
        page[top : top + height, left : left + width] = picture
    return Image.fromarray(page.squeeze(-1) if channels == 1 else page)
