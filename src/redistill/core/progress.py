"""Where a run is, and its only source of randomness."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from redistill.core import noise


def seed_of(*parts: object) -> int:
    """A 63-bit seed that depends on all ``parts`` and on nothing else (same on every machine and in every process)."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()) >> 1


@contextmanager
def own_generators(seed: int | None = None) -> Iterator[None]:
    """Leave the global generators of torch, numpy and Python as they were; within, they begin at ``seed`` if given."""
    devices = range(torch.cuda.device_count()) if seed is None and torch.cuda.is_initialized() else ()
    here, there = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices):
            if seed is not None:
                torch.default_generator.manual_seed(seed)
                random.seed(seed)
                np.random.seed(seed % 2**32)
            yield
    finally:
        random.setstate(here)
        np.random.set_state(there)


@dataclass(frozen=True)
class Rows:
    """The rows ``[start, stop)`` of a global batch of ``total`` rows that this micro-batch holds."""

    start: int
    stop: int
    total: int


@dataclass
class Progress:
    """``now``: step, epoch, turn and the random numbers of this turn. ``ends_epoch``: its batch is the epoch's last.

    The numbers are a function of (seed, step, position of the turn, number of the call, row of the global batch): a
    resumed run, a batch cut into micro-batches and a batch spread over ranks all see the same ones, and each draws
    those of its own rows alone, on its device (:mod:`redistill.core.noise`). State to save: none.
    """

    seed: int = 0
    step: int = 0
    steps: int = 1
    epoch: int = 0
    epochs: int = 1
    ends_epoch: bool = False
    turn: str = ""
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    rows: Rows | None = None
    asked: bool = False  # for the length of the run: one whose method asks cannot be made longer
    _stream: tuple[object, ...] = field(default=(), init=False, repr=False)  # the names of the stream drawn from
    _calls: int = field(default=0, init=False, repr=False)  # how often it was

    def __getattribute__(self, name: str) -> Any:
        if name in ("steps", "epochs"):
            object.__setattr__(self, "asked", True)
        return object.__getattribute__(self, name)

    @property
    def length(self) -> int:
        """Steps of the whole run, for who watches it: nothing that is trained may depend on it."""
        return int(self.__dict__["steps"])

    @property
    def fraction(self) -> float:
        """Share of the run that is done, in [0, 1)."""
        return self.step / max(self.steps, 1)

    def reseed(self, *key: object) -> None:
        """Begin the stream of random numbers named by ``key`` (the engine does before every turn and micro-batch).

        The global generators, which dropout inside a network draws from, know nothing of rows: there every micro-batch
        gets its own stream, named by its first row as well, or all would drop the same units.
        """
        self._stream, self._calls = (self.seed, self.step, *key), 0
        part = ("from row", self.rows.start) if self.rows is not None and self.rows.start else ()
        seed = seed_of(*self._stream, *part)
        # torch.manual_seed would also queue a call, with a stack trace, for every accelerator that is not in use: 60
        # times slower, and felt in short steps
        torch.default_generator.manual_seed(seed)
        if torch.cuda.is_initialized():
            torch.cuda.manual_seed_all(seed)
        elif self.device.type not in ("cpu", "cuda"):
            torch.get_device_module(self.device).manual_seed(seed)

    def randn(self, rows: int, *shape: int) -> Tensor:
        """Standard normal numbers [rows, *shape]."""
        numbers = noise.normal(self._key(), self._mine(rows), math.prod(shape), self.device)
        return numbers.reshape(rows, *shape)

    def rand(self, rows: int, *shape: int) -> Tensor:
        """Uniform numbers in [0, 1), [rows, *shape]."""
        numbers = noise.uniform(self._key(), self._mine(rows), math.prod(shape), self.device)
        return numbers.reshape(rows, *shape)

    def randint(self, low: int, high: int, rows: int, *shape: int) -> Tensor:
        """Integers in [low, high), [rows, *shape]."""
        key, size = self._key(), math.prod(shape)
        numbers = noise.integers(key, low, high, self._mine(rows), size, self.device)
        return numbers.reshape(rows, *shape)

    def shared_rand(self) -> float:
        """One uniform number that all rows and ranks share."""
        return float(noise.uniform(self._key(), range(1), 1, torch.device("cpu")))

    def shared_randint(self, low: int, high: int) -> int:
        """One integer in [low, high) that all rows and ranks share."""
        return int(noise.integers(self._key(), low, high, range(1), 1, torch.device("cpu")))

    def _key(self) -> int:
        """A key of its own for every call: two calls of a turn never share a number."""
        if not self._stream:  # in somebody's own loop: one row block, named by (seed, step)
            self.reseed("own loop")
        self._calls += 1
        return seed_of(*self._stream, "call", self._calls)

    def _mine(self, rows: int) -> range:
        """The rows of the global batch that numbers are asked for."""
        if self.rows is None:
            return range(rows)
        assert rows == self.rows.stop - self.rows.start, "ask for as many rows as the micro-batch has"
        return range(self.rows.start, self.rows.stop)
