"""One state of a run in two files: tensors (safetensors) and numbers (JSON), renamed when whole; never unpickled."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from redistill.core.build import validated
from redistill.core.errors import UserError

_TENSORS, _NUMBERS = "state.safetensors", "state.json"
_FORMAT: Literal[2] = 2
_HEAD = len('{"sha256": "",') + 64  # bytes of the first line


class Broken(Exception):
    """A checkpoint that cannot be used, and why."""


class Numbers(BaseModel):
    """The JSON of a checkpoint."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    format: Literal[2] = _FORMAT
    tensors: str = Field(description="checksum of their file")
    run: dict[str, Any] = Field(description="what must agree: method, options, rows, plan")
    step: int = Field(ge=0, lt=2**62)
    drawn: int = Field(ge=0, lt=2**62, description="global batches")
    history: list[dict[str, Any]] = Field(description="logged rows")
    asked: bool = Field(description="whether the method asked how long the run is")
    silent: dict[str, list[str]] = Field(description="turn -> networks that no gradient has reached yet")
    sums: dict[str, list[float]] = Field(description="numbers since the last logged row")
    seen: int = Field(ge=0, lt=2**62, description="rows since then")

    @model_validator(mode="after")
    def _leads_here(self) -> Self:
        marks: list[Any] = [0, *(row.get("step") for row in self.history)]
        whole = all(type(mark) is int for mark in marks)
        if not whole or marks != sorted(set(marks)) or marks[-1] > self.step:
            raise ValueError(f"history does not lead to step {self.step}")
        return self


@dataclass(frozen=True)
class Checkpoint:
    """What :func:`write` saved."""

    tensors: dict[str, Tensor]
    numbers: Numbers


@dataclass(frozen=True)
class Expected:
    """What a checkpoint of this run may hold. ``tensors``: all but the optimisers', by name. ``slots``: what the
    optimiser of ``optim.<turn>.<i>`` keeps of a parameter, once it was updated."""

    run: Mapping[str, Any]
    steps: int
    trains: Mapping[str, Sequence[str]]
    tensors: Mapping[str, Tensor]
    slots: Mapping[str, Mapping[str, Tensor]]


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
    numbers = {"format": _FORMAT, "tensors": _digest(beside / _TENSORS), "step": step, **numbers}
    (beside / _NUMBERS).write_bytes(sealed(json.dumps(numbers, indent=1).encode()[1:]))
    for file in (*beside.iterdir(), beside):
        _flush(file)
    shutil.rmtree(target, ignore_errors=True)
    os.replace(beside, target)
    _flush(folder)
    for old in [path for path in steps(folder) if _step(path) <= step][:-keep]:  # later ones were passed over
        shutil.rmtree(old)
    return target


def sealed(body: bytes) -> bytes:
    """A JSON table, of which ``body`` is all but the opening brace, with the checksum of ``body`` before it."""
    return b'{"sha256": "%s",' % hashlib.sha256(body).hexdigest().encode() + body


def steps(folder: Path) -> list[Path]:
    """The checkpoints in ``folder``, oldest first; what else lies there (a copy called step-best) is none."""
    return sorted((path for path in folder.glob("step-*") if path.is_dir() and _step(path) >= 0), key=_step)


def last_step(folder: Path) -> int:
    """The step of the newest checkpoint in ``folder``."""
    return _step(steps(folder)[-1])


def _step(path: Path) -> int:
    """The step in a checkpoint's name; -1 in any other."""
    name = re.fullmatch(r"step-(\d{9,18})", path.name, re.ASCII)
    return int(name[1]) if name else -1


def read(path: Path) -> Checkpoint:
    """Load and verify one checkpoint; raises :class:`Broken` with the reason."""
    try:
        raw = (path / _NUMBERS).read_bytes()
        if raw != sealed(raw[_HEAD:]):
            raise Broken(f"{path}: {_NUMBERS} is damaged (checksum differs)")
        given = json.loads(b"{" + raw[_HEAD:])
        if given.get("format") != _FORMAT:
            raise Broken(f"{path}: has another format ({given.get('format')}, not {_FORMAT})")
        numbers = validated(Numbers, given, place=f"{path}: {_NUMBERS}")
        if _digest(path / _TENSORS) != numbers.tensors:
            raise Broken(f"{path}: {_TENSORS} is damaged (checksum differs)")
        return Checkpoint(load_file(path / _TENSORS), numbers)
    except UserError as error:
        raise Broken(str(error)) from error
    except (OSError, ValueError, RecursionError, SafetensorError) as error:
        raise Broken(f"{path}: not a whole checkpoint ({error})") from error


def latest(folder: Path, expected: Expected) -> tuple[Checkpoint | None, list[str]]:
    """The newest usable checkpoint, and one line for each newer one that is damaged or from another run."""
    passed: list[str] = []
    for path in reversed(steps(folder)):
        try:
            checkpoint = read(path)
            for fault in _faults(checkpoint, expected, _step(path)):
                raise Broken(f"{path}: {fault}")
            return checkpoint, passed
        except Broken as reason:
            passed.append(str(reason))
    return None, passed


def _faults(checkpoint: Checkpoint, expected: Expected, step: int) -> Iterator[str]:
    """Why a whole checkpoint, named after ``step``, is none of this run; the first reason says enough."""
    numbers = checkpoint.numbers
    differ = list(_differences("", numbers.run, expected.run))
    if differ and _unbound(numbers.run) == _unbound(expected.run):  # of another length alone
        yield from _bound(numbers)
    elif differ:
        yield f"from another run ({', '.join(differ)})"
    if numbers.step != step:
        yield f"holds step {numbers.step}"
    if numbers.step > expected.steps:
        yield f"step {numbers.step} of a run of {expected.steps}"
    for turn, names in numbers.silent.items():
        if turn not in expected.trains or not set(names) <= set(expected.trains[turn]):
            yield f"turn {turn!r} does not train {names}"
    nets = {name: tensor for name, tensor in checkpoint.tensors.items() if not name.startswith("optim.")}
    yield from _unlike(nets, expected.tensors)
    kept: dict[str, dict[str, Tensor]] = {}
    for name in sorted(checkpoint.tensors.keys() - nets.keys()):
        parameter, _, slot = name.rpartition(".")
        kept.setdefault(parameter, {})[slot] = checkpoint.tensors[name]
    for parameter, slots in kept.items():
        yield from _unlike(slots, expected.slots.get(parameter, {}), f"{parameter}.")
        if "step" in slots and not slots["step"] >= 1:
            yield f"{parameter}.step is {slots['step']:g}"


def _unbound(run: Mapping[str, Any]) -> dict[str, Any]:
    """What identifies a run, without its length."""
    return {**run, "plan": {k: v for k, v in run.get("plan", {}).items() if k not in ("steps", "epochs")}}


def _bound(numbers: Numbers) -> Iterator[str]:
    """Why a run cannot become longer or shorter: what it did would have been another thing."""
    plan = numbers.run["plan"]
    schedules = {optim["schedule"] for optim in plan["turns"].values()} - {"constant"}
    why = [f"its rate ({', '.join(sorted(schedules))})"] * bool(schedules) + ["its method"] * numbers.asked
    if why:
        yield (
            f"planned for {plan['steps']} steps, which {' and '.join(why)} depends on; plan the longest run and stop it"
            " with until"
        )


def _unlike(saved: Mapping[str, Tensor], here: Mapping[str, Tensor], prefix: str = "") -> Iterator[str]:
    """What lies on one side only, or has another shape or type there."""
    forms = [{name: (list(t.shape), t.dtype) for name, t in side.items()} for side in (saved, here)]
    other = [
        prefix + name for name in sorted(forms[0].keys() | forms[1].keys()) if forms[0].get(name) != forms[1].get(name)
    ]
    if other:
        yield f"has other tensors than this run ({', '.join(other[:3])})"


def _differences(name: str, was: Any, here: Any) -> Iterator[str]:
    """What differs, the options of a table one by one."""
    if isinstance(was, Mapping) and isinstance(here, Mapping):
        for key in {**was, **here}:
            yield from _differences(f"{name}.{key}".lstrip("."), was.get(key), here.get(key))
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
