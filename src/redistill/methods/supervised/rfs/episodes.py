"""Learning new classes from a few examples: episodes, embeddings, the heads that compete on them, and the rival that is
trained on episodes.

An episode names N ways (classes), K shots (support rows a class, to learn from) and queries (rows to be named). A head
takes support [M, d] with labels [M] in 0..N-1 and queries [Q, d], and gives scores [Q, N].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import stats
from scipy.spatial.distance import cdist
from torch import Tensor, nn

from redistill.core import Loss, Method, Progress, UserError
from redistill.core.errors import unknown
from redistill.core.method import Batch, bare_progress
from redistill.core.modes import evaluating
from redistill.core.progress import seed_of
from redistill.models.features import classifier_layer, scores_and_embedding
from redistill.supervised.probe import fit_probe

Array = np.ndarray


@dataclass(frozen=True)
class Episode:
    """Rows of the data set, class by class: ``support`` [N K], ``query`` [N Q]; their labels count from 0."""

    support: Array
    support_label: Array
    query: Array
    query_label: Array


def draw_episode(
    label: Array, index: int, *, ways: int = 5, shots: int = 5, queries: int = 15, seed: int = 0,
    groups: Array | None = None,
) -> Episode:  # fmt: skip
    """Episode number ``index`` of the rows with classes ``label`` [N]: the same for the same (``seed``, ``index``).

    ``groups`` [N]: rows of one group show the same thing (one emoji by several artists): the support rows of a class
    are of different groups, and no query is of a support row's group. Raises :class:`UserError` where there are too few
    classes, or a class has too few rows.
    """
    rng = np.random.default_rng(seed_of(seed, "episode", index))
    groups = np.arange(len(label)) if groups is None else groups
    classes = rng.permutation(np.unique(label))[:ways]
    if len(classes) < ways:
        raise UserError(f"{ways} ways; the rows have {len(classes)} classes", place="episodes")
    drawn = [_rows_of_class(np.flatnonzero(label == c), groups, shots, queries, rng) for c in classes]
    support, query = (np.concatenate(part) for part in zip(*drawn))
    return Episode(support, np.repeat(np.arange(ways), shots), query, np.repeat(np.arange(ways), queries))


def _rows_of_class(rows: Array, groups: Array, shots: int, queries: int, rng: np.random.Generator) -> tuple:
    rows = rng.permutation(rows)
    _, first = np.unique(groups[rows], return_index=True)
    support = rows[np.sort(first)[:shots]]
    query = rows[~np.isin(groups[rows], groups[support])][:queries]
    if len(support) < shots or len(query) < queries:
        raise UserError(
            f"a class of {len(rows)} rows gives {len(support)} shots and {len(query)} queries, not {shots} and "
            f"{queries}; ask for fewer or leave the class out", place="episodes",
        )  # fmt: skip
    return support, query


@torch.no_grad()
def embed(network: nn.Module, image: Tensor, *, head: str | None = None, batch_size: int = 256) -> Array:
    """What the layer ``head`` (the last linear one if left out) reads of images [N, ...]: float64 [N, d].

    The network answers in evaluation mode, where it lies, and is left in the mode it was in: batch statistics of an
    episode's queries would be help from rows that are to be named.
    """
    name, device = head or classifier_layer(network), next(network.parameters()).device
    layers = dict(network.named_modules())
    if name not in layers:
        raise unknown("layer", name, [layer for layer in layers if layer], place="head")
    with evaluating(network):
        parts = [scores_and_embedding(network, name, part.to(device))[1] for part in image.split(batch_size)]
    return torch.cat(parts).double().cpu().numpy()


def unit(embedding: Array) -> Array:
    """Rows [N, d] divided by their length; a row of zeros stays."""
    length = np.linalg.norm(embedding, axis=1, keepdims=True)
    return embedding / np.where(length > 0, length, 1)


def nearest(support: Array, label: Array, query: Array) -> Array:
    """Minus the squared distance to the nearest support row of each class."""
    distance = cdist(query, support, "sqeuclidean")
    return -np.stack([distance[:, label == c].min(1) for c in range(label.max() + 1)], 1)


def prototype(support: Array, label: Array, query: Array) -> Array:
    """Minus the squared distance to the mean of each class."""
    return -cdist(query, class_means(support, label), "sqeuclidean")


def cosine(support: Array, label: Array, query: Array) -> Array:
    """The cosine between the query and the mean of each class."""
    return unit(query) @ unit(class_means(support, label)).T


def logistic(support: Array, label: Array, query: Array, *, C: float = 1.0) -> Array:
    """Scores of a multinomial logistic regression: the minimiser of sum_i CE_i + |W|^2 / (2 C), bias free of charge."""
    return fit_logistic(support, label, C=C).logits(query)


def fit_logistic(support: Array, label: Array, *, C: float = 1.0) -> Any:
    """The :class:`~redistill.supervised.probe.Probe` behind :func:`logistic`."""
    if not C > 0:
        raise UserError(f"C={C}; give a number above 0", place="C")
    target = np.eye(label.max() + 1)[label]
    return fit_probe(support, target, 1 / (C * len(label)), iterations=1000)


def class_means(support: Array, label: Array) -> Array:
    """[N, d]."""
    return np.stack([support[label == c].mean(0) for c in range(label.max() + 1)])


def interval(accuracy: Array, level: float = 0.95) -> tuple[float, float]:
    """Mean over episodes, and half the width of its t-interval."""
    half = stats.t.ppf((1 + level) / 2, len(accuracy) - 1) * np.std(accuracy, ddof=1) / np.sqrt(len(accuracy))
    return float(np.mean(accuracy)), float(half)


class Episodes:
    """A data set for :class:`PrototypicalNetwork`: row ``i`` is episode ``i``, its ``image`` [N, K + Q, ...] class by
    class, support first. ``augment`` changes them, alike whenever the episode is read."""

    def __init__(
        self, image: Tensor, label: Array, *, count: int, ways: int = 5, shots: int = 5, queries: int = 10,
        seed: int = 0, augment: Callable[[Tensor, Progress], Tensor] | None = None,
    ) -> None:  # fmt: skip
        self.image, self.label, self.count, self.augment = image, label, count, augment
        self.sizes = {"ways": ways, "shots": shots, "queries": queries, "seed": seed}

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        found = draw_episode(self.label, index, **self.sizes)
        ways = self.sizes["ways"]
        rows = np.concatenate([part.reshape(ways, -1) for part in (found.support, found.query)], 1)  # [N, K + Q]
        image = self.image[torch.from_numpy(rows).flatten()]
        if self.augment is not None:
            image = self.augment(image, bare_progress(index, seed=self.sizes["seed"]))
        return {"image": image.unflatten(0, rows.shape)}


class PrototypicalNetwork(Method):
    """An embedding learns to name queries by the nearest class mean of their episode (Snell et al. 2017): the rival
    that is trained the way it is tested. Rows are :class:`Episodes`.

        L = mean over queries of CE(-|f(x) - c_n|^2, y),   c_n = mean of f over the K support images of class n
    """

    needs = ("image",)

    def __init__(self, student: nn.Module, *, shots: int = 5) -> None:
        super().__init__()
        self.student, self.shots = student, shots

    def loss(self, turn: str, batch: Batch, now: Progress) -> Loss:
        """``ce``: labels of the queries."""
        image = batch["image"]  # [B, N, K + Q, C, H, W]
        episodes, ways, rows = image.shape[:3]
        f = self.student(image.flatten(0, 2)).unflatten(0, (episodes, ways, rows))
        means = f[:, :, : self.shots].mean(2)  # [B, N, d]
        query = f[:, :, self.shots :].flatten(1, 2)  # [B, N Q, d], class by class
        label = torch.arange(ways, device=f.device).repeat_interleave(rows - self.shots).expand(episodes, -1)
        scores = -(query[:, :, None] - means[:, None]).square().sum(-1)  # [B, N Q, N]
        return Loss({"ce": nn.functional.cross_entropy(scores.flatten(0, 1), label.flatten())})
