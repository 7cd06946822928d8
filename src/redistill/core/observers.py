"""Who watches a run: a progress display, a log of JSON lines, trackers; any callable ``(now, row, method)``."""

from __future__ import annotations

import json
import math
import os
import time
from pathlib import Path
from typing import Any, Protocol, TextIO

from redistill.core.method import Method
from redistill.core.progress import Progress

Row = dict[str, Any]


class Observer(Protocol):
    """Called after every logged step with the row of numbers; ``close`` (if there is one) when the run ends."""

    def __call__(self, now: Progress, row: Row, method: Method) -> None: ...


class JsonLines:
    """Appends every row to ``log.jsonl``; a resumed run first drops the rows after its checkpoint and a torn line."""

    def __init__(self, file: Path, step: int) -> None:
        self.file, self.step = file, step
        self.stream: TextIO | None = None  # opened by the first row: a refused run leaves nothing

    def __call__(self, now: Progress, row: Row, method: Method) -> None:
        self.stream = self.stream or self._open()
        self.stream.write(json.dumps(row) + "\n")

    def _open(self) -> TextIO:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        lines = self.file.read_text(errors="replace").splitlines() if self.file.exists() else []
        beside = self.file.with_name(f".{self.file.name}")  # a kill while this is written costs no row
        beside.write_text("".join(line + "\n" for line in lines if _step(line) <= self.step))
        os.replace(beside, self.file)
        return self.file.open("a", buffering=1)

    def close(self) -> None:
        """Close the file."""
        if self.stream:
            self.stream.close()


def _step(line: str) -> float:
    """The step of a logged row; past all others where a kill tore the line."""
    try:
        return json.loads(line)["step"]
    except (json.JSONDecodeError, KeyError, TypeError):
        return math.inf


class Display:
    """A Rich progress bar with the loss terms, rows per second and the time left."""

    def __init__(self, title: str) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = ("[bold]{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self.bar = Progress(*columns, TextColumn("{task.fields[speed]}"), TextColumn("[dim]{task.fields[terms]}"))
        self.task = self.bar.add_task(title, total=None, terms="", speed="")
        self.bar.start()

    def __call__(self, now: Progress, row: Row, method: Method) -> None:
        quiet = {"step", "epoch", "seconds", "rows_per_second"}
        terms = "  ".join(f"{k} {v:.4g}" for k, v in row.items() if k not in quiet and not k.startswith("lr"))
        speed = f"{row['rows_per_second']:.0f} rows/s"
        self.bar.update(self.task, completed=now.step + 1, total=now.length, terms=terms, speed=speed)

    def close(self) -> None:
        """Leave the bar as it stands."""
        self.bar.stop()


class Tracker:
    """Sends the rows to one of Accelerate's trackers (tensorboard, trackio, wandb)."""

    def __init__(self, name: str, folder: Path) -> None:
        from accelerate import tracking

        from redistill.core.errors import need

        cls = tracking.LOGGER_TYPE_TO_CLASS[name]
        if not tracking.get_available_trackers() or name not in [str(t) for t in tracking.get_available_trackers()]:
            raise need("trackers" if name == "tensorboard" else name, name)
        self.tracker = cls(folder.name, logging_dir=folder) if cls.requires_logging_directory else cls(folder.name)
        self.tracker.start()

    def __call__(self, now: Progress, row: Row, method: Method) -> None:
        self.tracker.log({k: v for k, v in row.items() if k != "step"}, step=row["step"])

    def close(self) -> None:
        """Finish the tracker's run."""
        self.tracker.finish()


class Window:
    """Means of the numbers since the last logged row, and the speed."""

    def __init__(self) -> None:
        self.sums: dict[str, list[float]] = {}
        self.rows, self.since, self.begin = 0, time.perf_counter(), time.perf_counter()

    def add(self, numbers: dict[str, float], rows: int) -> None:
        """Take in one turn."""
        self.rows += rows
        for name, value in numbers.items():
            self.sums.setdefault(name, []).append(value)

    def flush(self, **extra: Any) -> Row:
        """The row of means; begins anew."""
        clock = time.perf_counter()
        speed = self.rows / max(clock - self.since, 1e-9)
        means = {name: sum(values) / len(values) for name, values in self.sums.items()}
        self.sums, self.rows, self.since = {}, 0, clock
        return {**extra, **means, "rows_per_second": speed, "seconds": clock - self.begin}
