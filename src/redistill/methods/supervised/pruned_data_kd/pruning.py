"""Which training rows to keep: scores of the rows, and the rows that a score keeps.

Every score gives one number a row, [N]; larger means harder (for :func:`herding`, :func:`distance_to_centre`: further
from the middle of its class). Scores come from networks and training rows alone, never from the test set.
"""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from redistill.core import Method, Progress
from redistill.core.errors import unknown
from redistill.core.modes import evaluating
from redistill.core.types import PositiveShare, checked

Array = np.ndarray
Order = Literal["hard", "easy", "moderate"]


def chance(rows: int, seed: int) -> Array:
    """Uniform random numbers: pruning without a look at the data."""
    return np.random.default_rng(seed).random(rows)


def el2n(probabilities: Array, label: Array) -> Array:
    """Mean over short runs of |p - onehot(y)|_2 (Paul, Ganguli and Dziugaite 2021): [R, N, C] or [N, C] -> [N]."""
    error = probabilities - np.eye(probabilities.shape[-1])[label]
    return np.linalg.norm(error, axis=-1).reshape(-1, len(label)).mean(0)


def grand(network: nn.Module, image: Tensor, label: Tensor, *, chunk: int = 64) -> Array:
    """Norm of the gradient of each row's cross-entropy in all weights (GraNd, same paper); average it over networks at
    or shortly after their initialisation. ``chunk`` rows are held at a time."""
    weights = {name: p.detach() for name, p in network.named_parameters()}
    buffers = dict(network.named_buffers())

    def row_loss(weights: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return nn.functional.cross_entropy(functional_call(network, (weights, buffers), (x[None],)), y[None])

    def squared_norm(x: Tensor, y: Tensor) -> Tensor:
        return sum((g.square().sum() for g in grad(row_loss)(weights, x, y).values()), torch.zeros(()))

    with evaluating(network):  # batch statistics would mix the rows
        return vmap(squared_norm, chunk_size=chunk)(image, label).sqrt().numpy()


def forgetting(correct: Array) -> Array:
    """How often a row went from right to wrong in a run; infinite for one never learnt (Toneva et al. 2019).

    ``correct`` [E, N], bool: whether the row was right at each of E looks, see :class:`Watch`.
    """
    lost = (correct[:-1] & ~correct[1:]).sum(0).astype(np.float64)
    return np.where(correct.any(0), lost, np.inf)


class Watch:
    """An observer for :func:`redistill.core.fit` that looks which training rows are right, whenever a line is logged
    (``log_every`` = steps of an epoch: at each epoch's end). The paper looks when a row is trained on."""

    def __init__(self, image: Tensor, label: Tensor) -> None:
        self.image, self.label = image, label
        self.looks: list[Array] = []

    @torch.no_grad()
    def __call__(self, now: Progress, row: dict[str, Any], method: Method) -> None:
        student = method.get_submodule("student")
        with evaluating(student):
            hit = [student(part).argmax(1) for part in self.image.to(now.device).split(512)]
        self.looks.append((torch.cat(hit).cpu() == self.label).numpy())

    @property
    def correct(self) -> Array:
        """All looks, [E, N]."""
        return np.stack(self.looks)


def margin(probabilities: Array) -> Array:
    """Minus the distance between the two most probable classes, from [N, C]."""
    top = np.sort(probabilities, axis=1)[:, -2:]
    return top[:, 0] - top[:, 1]


def entropy(probabilities: Array) -> Array:
    """Entropy of the probabilities [N, C], in nats."""
    return -(probabilities * np.log(np.maximum(probabilities, np.finfo(np.float64).tiny))).sum(1)


def herding(features: Array, label: Array) -> Array:
    """The place [N] at which herding takes a row of its class: each time the row that brings the mean of those taken
    nearest to the class mean (Welling 2009). Keep "easy": what is taken first. ``features`` [N, d]."""
    place = np.empty(len(label))
    for rows in _classes(label):
        place[rows] = _herded(np.float64(features[rows]))
    return place


def _herded(x: Array) -> Array:
    mean, square, taken = x.mean(0), (x**2).sum(1), np.zeros(x.shape[1])
    place = np.empty(len(x))
    for k in range(len(x)):
        distance = square - 2 * x @ ((k + 1) * mean - taken)  # |x - ((k + 1) mean - taken)|^2 up to a constant
        row = int(distance.argmin())
        taken, square[row], place[row] = taken + x[row], np.inf, k
    return place


def distance_to_centre(features: Array, label: Array) -> Array:
    """Distance [N] of a row's features [N, d] to its class mean; keep "moderate" for moderate coresets (Xia et al.
    2023)."""
    distance = np.empty(len(label))
    for rows in _classes(label):
        distance[rows] = np.linalg.norm(features[rows] - features[rows].mean(0), axis=1)
    return distance


@checked
def kept_rows(
    score: Array, label: Array, fraction: PositiveShare, *, order: Order = "hard", balanced: bool = True
) -> Array:
    """The rows that pruning keeps, in rising order: ``fraction`` of all N rows, and when ``balanced`` of every class,
    whose shares are rounded to the whole by their largest remainders. Every class keeps a row at least, so where there
    are more classes than rows to keep, more than the fraction is kept.

    ``order``: "hard" keeps the highest scores, "easy" the lowest, "moderate" those nearest to the (class) median. Equal
    scores go by row number.
    """
    if order not in get_args(Order):
        raise unknown("order", order, get_args(Order), place="pruning")
    groups = _classes(label) if balanced else [np.arange(len(label))]
    counts = _shares(np.array([len(rows) for rows in groups]), fraction)
    return np.sort(np.concatenate([rows[_first(score[rows], n, order)] for rows, n in zip(groups, counts)]))


def _shares(sizes: Array, fraction: float) -> Array:
    """``fraction`` of groups of these ``sizes``, in whole rows, at least one of each."""
    exact = fraction * sizes
    counts = np.maximum(np.floor(exact).astype(int), 1)
    missing = max(0, math.floor(exact.sum() + 0.5) - counts.sum())
    counts[np.argsort(counts - exact, kind="stable")[:missing]] += 1
    return counts


def _first(score: Array, count: int, order: Order) -> Array:
    key = {"hard": -score, "easy": score}.get(order)
    if key is None:
        key = np.abs(score - np.median(score[np.isfinite(score)]))
    return np.argsort(key, kind="stable")[:count]


def _classes(label: Array) -> list[Array]:
    return [np.flatnonzero(label == c) for c in np.unique(label)]
