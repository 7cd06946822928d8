"""One state of a run in two files: tensors (safetensors) and numbers (JSON), renamed when whole; never unpickled."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from redistill.core.errors import UserError

_TENSORS, _NUMBERS = "state.safetensors", "state.json"


class Broken(ValueError):
    """A checkpoint that cannot be used, and why."""


@dataclass(frozen=True)
class Checkpoint:
    """What :func:`write` saved: ``tensors`` by name and JSON ``numbers``."""

    tensors: dict[str, Tensor]
    numbers: dict[str, Any]


def plain(value: Any, place: str) -> Any:
    """``value`` as it comes back from a checkpoint: keys are texts there, tuples lists. Refuses what JSON lacks."""
    try:
        return json.loads(json.dumps(value))
    except (TypeError, ValueError) as error:
        raise UserError(f"a checkpoint cannot hold it ({error}); give plain values", place=place) from error


def write(folder: Path, step: int, tensors: dict[str, Tensor], numbers: dict[str, Any], *, keep: int) -> Path:
    """Save as ``folder/step-<n>``; it appears whole or not at all. Keeps the last ``keep``."""
    target, beside = folder / f"step-{step:09d}", folder / f".writing-{step:09d}"
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    save_file({k: t.contiguous().clone() for k, t in tensors.items()}, beside / _TENSORS)
    numbers = {**numbers, "step": step, "sha256": _digest(beside / _TENSORS)}
    (beside / _NUMBERS).write_text(json.dumps(numbers, indent=1))
    for file in (*beside.iterdir(), beside):
        _flush(file)
    shutil.rmtree(target, ignore_errors=True)
    os.replace(beside, target)
    _flush(folder)
    for old in [path for path in steps(folder) if path <= target][:-keep]:  # later ones were passed over
        shutil.rmtree(old)
    return target


def steps(folder: Path) -> list[Path]:
    """The checkpoints in ``folder``, oldest first."""
    return sorted(folder.glob("step-*")) if folder.is_dir() else []


def read(path: Path) -> Checkpoint:
    """Load and verify one checkpoint; raises :class:`Broken` with the reason."""
    try:
        numbers = json.loads((path / _NUMBERS).read_text())
        if _digest(path / _TENSORS) != numbers["sha256"]:
            raise Broken(f"{path}: {_TENSORS} is damaged (checksum differs)")
        return Checkpoint(load_file(path / _TENSORS), numbers)
    except (OSError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise Broken(f"{path}: not a whole checkpoint ({error})") from error


def latest(
    folder: Path, expect: Mapping[str, Any], shapes: Mapping[str, Sequence[int]]
) -> tuple[Checkpoint | None, list[str]]:
    """The newest usable checkpoint, and one line for each newer one that is damaged or from another run.

    ``expect``: numbers that must agree (method, options, seed). ``shapes``: of the tensors, optimisers left out.
    """
    passed: list[str] = []
    for path in reversed(steps(folder)):
        try:
            return _checked(path, expect, shapes), passed
        except Broken as reason:
            passed.append(str(reason))
    return None, passed


def _checked(path: Path, expect: Mapping[str, Any], shapes: Mapping[str, Sequence[int]]) -> Checkpoint:
    checkpoint = read(path)
    if not {"window", "plan"} <= checkpoint.numbers.keys():
        raise Broken(f"{path}: has an older format")
    differ = [line for key, value in expect.items() for line in _differences(key, checkpoint.numbers.get(key), value)]
    if differ:
        raise Broken(f"{path}: from another run ({', '.join(differ)})")
    saved = {k: list(t.shape) for k, t in checkpoint.tensors.items() if not k.startswith("optim.")}
    other = sorted(k for k in saved.keys() | shapes.keys() if saved.get(k) != list(shapes.get(k, [-1])))
    if other:
        raise Broken(f"{path}: has other tensors than this run ({', '.join(other[:3])})")
    return checkpoint


def _differences(name: str, was: Any, here: Any) -> Iterator[str]:
    """What differs, the options of a table one by one."""
    if isinstance(was, Mapping) and isinstance(here, Mapping):
        for key in {**was, **here}:
            yield from _differences(f"{name}.{key}", was.get(key), here.get(key))
    elif was != here:
        yield f"{name} was {was!r}, is {here!r} here"


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _flush(path: Path) -> None:
    """Push a file or folder to the disk, so that the rename that follows cannot come before its content."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class Pace:
    """When a checkpoint is due by the clock: a crash costs time, and no number of steps says how much."""

    def __init__(self) -> None:
        self.since, self.cost = time.monotonic(), 0.0

    def due(self) -> bool:
        """Ten minutes after the last one, or later where saving is slow: it takes a fiftieth of the time at most."""
        return time.monotonic() - self.since >= max(600.0, 50 * self.cost)

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Measures what is done within, and begins anew."""
        begin = time.monotonic()
        yield
        self.since = time.monotonic()
        self.cost = self.since - begin


@contextmanager
def graceful() -> Iterator[threading.Event]:
    """SIGTERM or Ctrl-C asks for a checkpoint and an exit after the step that is under way; a second Ctrl-C does what
    the first one did before."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def interrupt(*_: object) -> None:
        stop.set()
        signal.signal(signal.SIGINT, before[signal.SIGINT])
        with suppress(OSError):  # not print: the signal may have come in the midst of one
            os.write(2, b"\nfinishing the step; Ctrl-C again ends at once\n")

    handlers = {signal.SIGTERM: lambda *_: stop.set(), signal.SIGINT: interrupt}
    heard = [number for number in handlers if signal.getsignal(number) is not signal.SIG_IGN]  # nohup stays nohup
    before = {number: signal.signal(number, handlers[number]) or signal.SIG_DFL for number in heard}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
