"""What a turn returns: named terms to minimise, named statistics for the engine to combine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from redistill.core.errors import UserError

RESERVED = frozenset({"step", "epoch", "seconds", "rows_per_second", "lr", "grad_norm"})  # what the log itself says


@dataclass
class Loss:
    """The objective of one turn on one micro-batch.

    ``terms``: scalars, each already weighted; what is logged is what enters the gradient. Every term is a *mean* over
    ``weight`` items (rows of the micro-batch unless said otherwise; the number of valid tokens for a token mean), so
    that the engine can put micro-batches and ranks together into exactly the mean over the whole batch.
    ``average``: tensors averaged with the same weights; ``gather``: tensors concatenated along rows; both reach
    :meth:`Method.after`. ``watch``: numbers that are only logged.
    """

    terms: Mapping[str, Tensor]
    weight: Tensor | float | None = None
    average: Mapping[str, Tensor] = field(default_factory=dict)
    gather: Mapping[str, Tensor] = field(default_factory=dict)
    watch: Mapping[str, Tensor | float] = field(default_factory=dict)

    @property
    def total(self) -> Tensor:
        """The sum of the terms, a scalar."""
        return sum(list(self.terms.values())[1:], next(iter(self.terms.values())))


def checked(loss: object, turn: str) -> Loss:
    """What a method gave as the loss of ``turn``; refused where it is none, or where the log would lose a number."""
    place = f"loss of turn {turn!r}"
    if not (isinstance(loss, Loss) and loss.terms):
        found = "no terms" if isinstance(loss, Loss) else f"a {type(loss).__name__}"
        raise UserError(f"got {found}; return Loss({{'name': value}})", place=place)
    for name, value in (*loss.terms.items(), *loss.watch.items()):
        if name in RESERVED or (name in loss.terms and name in loss.watch):
            raise UserError(f"the name {name!r} is taken in the log; choose another", place=place)
        if torch.as_tensor(value).numel() != 1:
            raise UserError(f"{name!r} is more than one number; reduce it, to its mean perhaps", place=place)
    return loss


@dataclass
class Sums:
    """Weighted sums over the micro-batches of one turn."""

    weight: float | Tensor = 0.0
    numbers: dict[str, Tensor] = field(default_factory=dict)
    average: dict[str, Tensor] = field(default_factory=dict)
    gather: dict[str, list[Tensor]] = field(default_factory=dict)

    def add(self, loss: Loss, weight: float | Tensor, counts: bool) -> None:
        """Take in a micro-batch; of one that does not count the shapes alone, for 0 times NaN is NaN."""
        self.weight = self.weight + weight
        watched = {k: torch.as_tensor(v) for k, v in loss.watch.items()}
        for store, values in ((self.numbers, {**loss.terms, **watched}), (self.average, loss.average)):
            for name, value in values.items():
                held = value.detach().to(torch.promote_types(value.dtype, torch.float32))
                held = held * weight if counts else torch.zeros_like(held)
                store[name] = store[name] + held if name in store else held
        for name, rows in loss.gather.items():
            self.gather.setdefault(name, []).append(rows.detach())
