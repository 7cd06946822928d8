"""Where a run is, and its only source of randomness."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor


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

    The numbers are a function of (seed, step, position of the turn, row of the global batch): a resumed run, a batch
    cut into micro-batches and a batch spread over ranks all see the same ones. State to save: none.
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
    generator: torch.Generator | None = None

    @property
    def fraction(self) -> float:
        """Share of the run that is done, in [0, 1)."""
        return self.step / max(self.steps, 1)

    def reseed(self, *key: object) -> None:
        """Begin the stream of random numbers named by ``key`` (the engine does before every turn and micro-batch).

        The global generators, which dropout inside a network draws from, know nothing of rows: there every micro-batch
        gets its own stream, named by its first row as well, or all would drop the same units.
        """
        seed = seed_of(self.seed, self.step, *key)
        self.generator = torch.Generator("cpu").manual_seed(seed)
        if self.rows is not None and self.rows.start:
            seed = seed_of(self.seed, self.step, *key, "from row", self.rows.start)
        # torch.manual_seed would also queue a call, with a stack trace, for every accelerator that is not in use: 60
        # times slower, and felt in short steps
        torch.default_generator.manual_seed(seed)
        if torch.cuda.is_initialized():
            torch.cuda.manual_seed_all(seed)
        elif self.device.type not in ("cpu", "cuda"):
            torch.get_device_module(self.device).manual_seed(seed)

    def randn(self, rows: int, *shape: int) -> Tensor:
        """Standard normal numbers [rows, *shape]."""
        return self._mine(torch.randn(self._total(rows), *shape, generator=self._stream()))

    def rand(self, rows: int, *shape: int) -> Tensor:
        """Uniform numbers in [0, 1), [rows, *shape]."""
        return self._mine(torch.rand(self._total(rows), *shape, generator=self._stream()))

    def randint(self, low: int, high: int, rows: int, *shape: int) -> Tensor:
        """Integers in [low, high), [rows, *shape]."""
        return self._mine(torch.randint(low, high, (self._total(rows), *shape), generator=self._stream()))

    def shared_rand(self) -> float:
        """One uniform number that all rows and ranks share."""
        return float(torch.rand((), generator=self._stream()))

    def shared_randint(self, low: int, high: int) -> int:
        """One integer in [low, high) that all rows and ranks share."""
        return int(torch.randint(low, high, (), generator=self._stream()))

    def _stream(self) -> torch.Generator:
        if self.generator is None:  # in somebody's own loop: one row block, seeded by (seed, step)
            self.reseed("own loop")
        assert self.generator is not None
        return self.generator

    def _total(self, rows: int) -> int:
        if self.rows is None:
            return rows
        assert rows == self.rows.stop - self.rows.start, "ask for as many rows as the micro-batch has"
        return self.rows.total

    def _mine(self, numbers: Tensor) -> Tensor:
        mine = numbers if self.rows is None else numbers[self.rows.start : self.rows.stop]
        return mine.to(self.device)
