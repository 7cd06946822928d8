"""The learning curves of a run, drawn from its log when it ends, however it ends."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from redistill.cli.watch import PREFIX, main_process
from redistill.core import Method, Progress
from redistill.core.observers import Row

QUIET = {"step", "epoch", "seconds", "rows_per_second"}
MOST = 24  # panels


class Curves:
    """An observer that draws every number of ``log`` over the updates into ``picture`` (PNG): a panel a
    number, what was held out first and in orange."""

    def __init__(self, log: Path, picture: Path) -> None:
        self.log, self.picture = log, picture

    def __call__(self, now: Progress, row: Row, method: Method) -> None:
        """Nothing: the log has the rows, also those of an earlier part of the run."""

    def close(self) -> None:
        """Draw."""
        if main_process() and self.log.exists():
            draw(_rows(self.log.read_text().splitlines()), self.picture)


def _rows(lines: list[str]) -> list[Row]:
    found = []
    for line in lines:
        with suppress(json.JSONDecodeError):  # a kill tears the last one
            found.append(json.loads(line))
    return found


def draw(rows: list[Row], picture: Path) -> None:
    """A panel for every number that ``rows`` hold, against their ``step``."""
    from matplotlib.figure import Figure

    numbers = dict.fromkeys(name for row in rows for name in row if name not in QUIET)
    names = sorted(numbers, key=lambda name: not name.startswith(PREFIX))[:MOST]
    if not names:
        return
    columns = min(3, len(names))
    lines = -(-len(names) // columns)
    page = Figure(figsize=(4.4 * columns, 2.8 * lines), layout="constrained")
    axes = page.subplots(lines, columns, squeeze=False).flat
    for axis, name in zip(axes, names):
        _panel(axis, name, [(row["step"], row[name]) for row in rows if name in row])
    for axis in list(axes)[len(names) :]:
        axis.axis("off")
    page.savefig(picture, dpi=100)


def _panel(axis: Any, name: str, points: list[tuple[int, float]]) -> None:
    steps, values = zip(*points)
    held = name.startswith(PREFIX)
    marker = "o" if held or len(points) == 1 else ""
    axis.plot(steps, values, color="tab:orange" if held else "tab:blue", marker=marker, markersize=3)
    if min(values) > 0 and max(values) > 20 * min(values):
        axis.set_yscale("log")
    axis.set_title(name.replace("held_out/", "held out: ").replace("_", " "), fontsize=10)
    axis.set_xlabel("updates", fontsize=8)
    axis.tick_params(labelsize=8)
