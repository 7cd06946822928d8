"""The contract of a system that trains by gradient: networks, turns, a loss per turn, what happens after a step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from redistill.core.errors import UserError, nearest
from redistill.core.loss import Loss
from redistill.core.progress import Progress
from redistill.core.slot import Configured

Batch = dict[str, Any]


class Again(str):
    """A turn that gets the batch of the turn before it (and what :meth:`Method.prepare` made of it) instead of a
    fresh one. Never the first of a step: a checkpoint holds no batch."""


class Method(Configured, nn.Module):
    """One published algorithm.

    Constructor: networks are positional, options keyword-only, typed and with defaults; the options are the recipe's
    keys. Trained networks, followers (:class:`Ema`, :class:`Snapshot`) and buffers (tables, centres, queues) are state
    and travel in checkpoints, however deep they lie. All other parameters are frozen and come from outside.
    """

    trains: ClassVar[Mapping[str, tuple[str, ...] | list[str]]] = {"student": ["student"]}
    """Turn -> names of the networks that it trains, whole. The engine freezes every other network in that turn. A
    plug-in with parameters (a :class:`Slot` that is also a module) joins every turn that trains ``student``."""

    needs: ClassVar[tuple[str, ...]] = ()
    """Keys that every batch must have."""

    def turns(self, now: Progress) -> tuple[str, ...]:
        """The turns of one step, in order; each gets a fresh batch unless it is :class:`Again`."""
        return tuple(self.trains)

    def meet(self, rows: Any) -> None:
        """Called once before the first step with all that the run trains on (what :func:`fit` takes, or a table of
        it), for what no batch shows. A run that is resumed then reads its checkpoint."""

    def prepare(self, batch: Batch, now: Progress) -> Batch:
        """Called once on every fresh micro-batch, without gradient: rollouts, teacher signals."""
        return batch

    def loss(self, turn: str, batch: Batch, now: Progress) -> Loss:
        """The objective of ``turn``. No device, no optimiser, no logging; randomness only from ``now``."""
        raise NotImplementedError

    def after(self, turn: str, stats: dict[str, Tensor], now: Progress) -> None:
        """After the optimiser's step, without gradient: moving averages, centres, tables, from combined statistics."""

    def export(self) -> nn.Module:
        """The student, clean of scaffolding."""
        return self.get_submodule("student")

    def networks(self) -> dict[str, nn.Module]:
        """All child networks by name."""
        return dict(self.named_children())

    def check(self, batch: Batch) -> None:
        """Raise a :class:`UserError` when ``batch`` lacks a key that the method needs."""
        for key in self.needs:
            if key not in batch:
                columns = [k for k in batch if k != "index"]
                what = f"{type(self).__name__} needs {key!r} in every row"
                raise UserError(f"{what}; {nearest(key, columns)}", place="data")


def bare_progress(step: int = 0, *, seed: int = 0, turn: str = "student", device: str = "cpu") -> Progress:
    """A :class:`Progress` for one call of :meth:`Method.loss` in somebody's own loop."""
    return Progress(seed=seed, step=step, steps=step + 1, turn=turn, device=torch.device(device))
