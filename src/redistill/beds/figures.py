"""The panels that studies draw, declared as data: ``Figure("arms", (bars("accuracy"), curves("loss")))``."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from redistill.core.study import Results

Panel = Callable[[Any, Results, Sequence[str]], None]  # (axis, results, all arms)


def bars(
    metric: str,
    title: str = "",
    *,
    ours: Collection[str] = (),
    arms: Sequence[str] = (),
    scale: float = 100.0,
    dots: str = "",
) -> Panel:
    """A bar an arm: mean and deviation over seeds of ``metric`` (in percent by default), ``ours`` in orange. ``dots``:
    the mean of a second metric on top. Arms that do not measure it are left out."""

    def draw(axis: Any, results: Results, every: Sequence[str]) -> None:
        shown = _with(metric, results, arms or every)
        values = scale * np.array([results.values(arm, metric) for arm in shown])  # [A, seeds]
        colours = ["tab:orange" if arm in ours else "tab:gray" for arm in shown]
        axis.barh(shown, np.nanmean(values, 1), xerr=np.nanstd(values, 1), color=colours)
        axis.invert_yaxis()

        low, high = float(np.nanmin(values)), float(np.nanmax(values))
        spread = high - low or 1.0
        axis.set_xlim(min(0, low) if low < 2 * spread else low - spread / 2, high + spread / 4)
        if dots:
            axis.plot([scale * np.nanmean(results.values(arm, dots)) for arm in shown], shown, "ko", markersize=4)
        unit = ", %" if scale == 100 else ""
        axis.set_title(title or metric.replace("_", ": ", 1) + unit, fontsize=10)
        axis.tick_params(axis="y", labelsize=8)

    return draw


def curves(
    array: str,
    title: str = "",
    *,
    arms: Sequence[str] = (),
    x: str = "",
    each: bool = False,
    scale: float = 1.0,
    **axes: Any,
) -> Panel:
    """A line an arm: the kept ``array`` [P] against the kept ``x`` [P] (1 to P by default); the mean over seeds, or
    ``each`` seed. ``axes``: labels, limits and scales."""

    def draw(axis: Any, results: Results, every: Sequence[str]) -> None:
        for number, arm in enumerate(arms or every):
            seeds = [s for s in results.seeds if array in results.cells[arm, s].arrays]  # some may have diverged
            if not seeds:
                continue
            found = scale * np.array([results.array(arm, seed, array) for seed in seeds])  # [seeds, P]
            at = results.array(arm, seeds[0], x) if x else np.arange(1, found.shape[1] + 1)
            for k, line in enumerate(found if each else found.mean(0, keepdims=True)):
                axis.plot(at, line, color=f"C{number}", label=None if k else arm)
        axis.set_title(title or array.replace("_", ": ", 1), fontsize=10)
        axis.set(**axes)
        axis.legend(fontsize=8)

    return draw


def points(x: str, y: str, title: str = "", *, arms: Sequence[str] = (), scale: float = 100.0) -> Panel:
    """One metric against another: an arm a colour, a seed a dot."""

    def draw(axis: Any, results: Results, every: Sequence[str]) -> None:
        for arm in _with(x, results, _with(y, results, arms or every)):
            axis.scatter(scale * results.values(arm, x), scale * results.values(arm, y), label=arm, alpha=0.8)
        axis.set_title(title, fontsize=10)
        axis.set(xlabel=x, ylabel=y)
        axis.legend(fontsize=8)

    return draw


def tiles(array: str, rows: int = 1, title: str = "", *, arms: Sequence[str] = ()) -> Panel:
    """Pictures [N, C, H, W] in [-1, 1] that the first seed kept, ``rows`` rows of them an arm."""

    def draw(axis: Any, results: Results, every: Sequence[str]) -> None:
        pages = [results.array(arm, results.seeds[0], array) for arm in arms or every]
        x = np.clip((np.concatenate(pages) + 1) / 2, 0, 1)
        channels, height, width = x.shape[1:]
        grid = x.reshape(rows * len(pages), -1, channels, height, width).transpose(0, 3, 1, 4, 2)  # [R, H, n, W, C]
        axis.imshow(grid.reshape(rows * len(pages) * height, -1, channels).squeeze(), cmap="gray")
        axis.set_title(title or array, fontsize=10)
        axis.axis("off")

    return draw


def _with(metric: str, results: Results, arms: Sequence[str]) -> list[str]:
    return [arm for arm in arms if np.isfinite(results.values(arm, metric)).any()]  # a seed may have diverged


@dataclass(frozen=True)
class Figure:
    """One picture of a study: panels from left to right, ``columns`` in a row (all by default)."""

    file: str
    panels: tuple[Panel, ...]
    columns: int = 0

    def draw(self, results: Results, arms: Sequence[str], folder: Path) -> None:
        """Write ``folder/file.png``."""
        from matplotlib.figure import Figure as Page

        columns = self.columns or len(self.panels)
        rows = -(-len(self.panels) // columns)
        page = Page(figsize=(4.4 * columns, 3.8 * rows), layout="constrained")
        axes = page.subplots(rows, columns, squeeze=False).flat
        for axis, panel in zip(axes, self.panels):
            panel(axis, results, arms)
        for axis in axes[len(self.panels) :]:
            axis.axis("off")
        page.savefig(folder / f"{self.file}.png", dpi=100)
