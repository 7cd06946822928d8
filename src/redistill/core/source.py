"""Where batches come from: any table of rows, in an order that is a pure function of (seed, batch number)."""

from __future__ import annotations

import itertools
import signal
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map
from torch.utils.data import DataLoader, default_collate

from redistill.core.errors import UserError, reading
from redistill.core.plan import Plan
from redistill.core.progress import Rows, own_generators, seed_of
from redistill.core.world import World


class Columns:
    """Equally long tensors or arrays, row by row."""

    def __init__(self, columns: Mapping[str, Any]) -> None:
        self.columns: dict[str, Tensor] = {}
        for name, given in columns.items():
            with reading(f"column {name!r} is no tensor", place="data", remedy="give numbers of a type torch has"):
                self.columns[name] = given if isinstance(given, Tensor) else torch.as_tensor(np.asarray(given))
        lengths = {name: len(c) for name, c in self.columns.items()}
        if len(set(lengths.values())) != 1:
            raise UserError(f"columns of unequal length: {lengths}", place="data")

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitems__(self, index: list[int]) -> dict[str, Any]:
        return {name: column[index] for name, column in self.columns.items()}


class Items:
    """A map-style data set whose items are dicts (or pairs: image, label)."""

    def __init__(self, data: Any) -> None:
        self.data = data
        self.collate = getattr(data, "collate", default_collate)

    def __len__(self) -> int:
        return len(self.data)

    def __getitems__(self, index: list[int]) -> dict[str, Any]:
        return self.collate([_as_dict(self.data[i]) for i in index])


class NoData:
    """Rows without columns, for methods that need none."""

    def __len__(self) -> int:
        return 2**31

    def __getitems__(self, index: list[int]) -> dict[str, Any]:
        return {}


def _as_dict(item: Any) -> dict[str, Any]:
    if isinstance(item, Mapping):
        return dict(item)
    if isinstance(item, (tuple, list)) and len(item) == 2:
        return {"image": item[0], "label": item[1]}
    raise UserError(f"a row must be a dict or a pair (image, label), not {type(item).__name__}", place="data")


def table(data: Any) -> Any:
    """``data`` as a table that gives rows by index: a dict of columns, a map-style data set, or None."""
    if data is None:
        return NoData()
    if isinstance(data, Mapping):
        return Columns(data)
    if hasattr(data, "__getitems__") and hasattr(data, "columns"):
        return data
    if hasattr(data, "__getitem__") and hasattr(data, "__len__"):
        return Items(data)
    raise UserError(f"cannot take rows from {type(data).__name__}; give a dict of columns or a data set", place="data")


class Batches:
    """The endless stream of this rank's parts of the global batches, from any batch number on."""

    def __init__(self, data: Any, plan: Plan, world: World) -> None:
        self.table, self.plan, self.world = table(data), plan, world
        if len(self.table) == 0:
            raise UserError("the data set is empty", place="data")
        self.size = min(plan.batch_size, len(self.table))
        whole, rest = divmod(len(self.table), self.size)
        self.per_epoch = whole + (rest > 0 and not plan.drop_last)
        short = rest if self.per_epoch > whole and not isinstance(self.table, NoData) else 0
        self._reach(world.size, short)
        if plan.epochs and isinstance(self.table, NoData):
            raise UserError("without a data set there are no epochs; give steps", place="plan.epochs")
        self._order = (-1, torch.empty(0))  # an epoch, and the order of its rows

    def _reach(self, ranks: int, short: int) -> None:
        """Refuse what would leave a rank without a row: it would wait for the others, and they for it."""
        if self.size < ranks:
            what = f"{len(self.table)} rows" if self.size == len(self.table) else f"a batch of {self.size} rows"
            raise UserError(f"{what} cannot be spread over {ranks} processes; start fewer", place="plan.batch_size")
        if 0 < short < ranks:
            what = f"the last batch of an epoch has {short} row{'s' if short > 1 else ''} for {ranks} processes"
            raise UserError(f"{what}; set drop_last, or another batch_size", place="plan.batch_size")

    def index(self, number: int) -> Tensor:
        """The rows of global batch ``number``, int64."""
        epoch, position = divmod(number, self.per_epoch)
        if isinstance(self.table, NoData):
            return torch.arange(number * self.size, (number + 1) * self.size)
        if self._order[0] != epoch:
            generator = torch.Generator().manual_seed(seed_of(self.plan.seed, "order", epoch))
            self._order = (epoch, torch.randperm(len(self.table), generator=generator))
        return self._order[1][position * self.size : (position + 1) * self.size]

    def since(self, number: int) -> Iterator[tuple[Rows, dict[str, Any]]]:
        """Batches from ``number`` on: which rows of the global batch they are, and the columns with ``index``."""
        if not self.plan.workers:
            while True:
                yield self._load(number)
                number += 1
        numbered, workers = _Numbered(self, number), self.plan.workers
        yield from DataLoader(
            numbered, batch_size=None, num_workers=workers, persistent_workers=True, worker_init_fn=_hear_no_signal
        )

    def _load(self, number: int) -> tuple[Rows, dict[str, Any]]:
        index = self.index(number)
        rows = self.world.rows(len(index))
        mine = index[rows.start : rows.stop]
        draws = not isinstance(self.table, (Columns, NoData))  # rows of a data set may draw: transforms of images do
        seed = seed_of(self.plan.seed, "load", number, rows.start)
        with own_generators(seed) if draws else nullcontext():
            return rows, {**self.table.__getitems__(mine.tolist()), "index": mine}


class _Numbered(torch.utils.data.IterableDataset):
    """Splits batch numbers over loader processes; DataLoader gives them back in order."""

    def __init__(self, batches: Batches, start: int) -> None:
        self.batches, self.start = batches, start

    def __iter__(self) -> Iterator[tuple[Rows, dict[str, Any]]]:
        info = torch.utils.data.get_worker_info()
        assert info is not None
        number = self.start + info.id
        while True:
            yield self.batches._load(number)
            number += info.num_workers


def _hear_no_signal(_: int) -> None:
    """Ctrl-C and launchers signal the loader processes too; they end with the run, which finishes its step first."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def cut(rows: Rows, batch: dict[str, Any], parts: int) -> list[tuple[Rows, dict[str, Any]]]:
    """A batch in at most ``parts`` micro-batches of nearly equal size.

    Over ranks with unequal shares, ``parts`` must not exceed the least share: all ranks then get ``parts`` of them, as
    the collective calls of a sharded network demand. Columns may lie in dicts and lists; a list as long as there are
    rows is a column.
    """
    size = rows.stop - rows.start
    marks = sorted({size * i // parts for i in range(parts + 1)})
    cuts, at = itertools.pairwise(marks), rows.start
    return [(Rows(at + a, at + b, rows.total), _part(batch, slice(a, b), size)) for a, b in cuts]


def _part(batch: dict[str, Any], part: slice, size: int) -> dict[str, Any]:
    return tree_map(lambda v: v[part], batch, is_leaf=lambda v: isinstance(v, (list, tuple)) and len(v) == size)
