"""A soft label taken apart: how sure the teacher is, which classes it confuses, and what is particular to the row.

Each part gets soft labels q [N, C] (softened probabilities), labels y [N] and a generator, and gives soft labels of
which only something is left. Rows sum to 1.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from redistill.supervised.targets import one_hot

Part = Callable[[Tensor, Tensor, torch.Generator], Tensor]


def whole(q: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
    """Everything."""
    return q


def confidence(q: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
    """The probability of the label, row by row; the rest is spread evenly over the other classes."""
    return _rest_even(q.gather(1, y[:, None]), y, q)


def shuffled(q: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
    """The probability of the label, and the others in an order drawn anew for every row: no similarity of classes."""
    label = one_hot(y, q).bool()
    others = q[~label].view(len(q), -1)  # [N, C - 1], in the order of the classes
    order = torch.rand(others.shape, generator=generator).argsort(1)
    return q.masked_scatter(~label, others.gather(1, order))


def average(q: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
    """The mean soft label of the row's class: similarity of classes, nothing of the row."""
    member = one_hot(y, q)  # [N, C]
    means = (member.T @ q) / member.sum(0).clamp_min(1)[:, None]  # [C, C]
    return means[y]


def smoothed(q: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
    """The mean confidence of all rows and an even rest: label smoothing as strong as the teacher is unsure."""
    mean = q.gather(1, y[:, None]).mean().expand(len(q), 1)
    return _rest_even(mean, y, q)


PARTS: dict[str, Part] = {f.__name__: f for f in (whole, confidence, shuffled, average, smoothed)}


def _rest_even(sure: Tensor, y: Tensor, like: Tensor) -> Tensor:
    """``sure`` [N, 1] for the label, the same for each other class."""
    return torch.where(one_hot(y, like).bool(), sure, (1 - sure) / (like.shape[1] - 1))
