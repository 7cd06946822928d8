"""Learning new classes from a few examples: embeddings, and the heads that compete on them.

A head takes support [M, d] with labels [M] in 0..N-1 and queries [Q, d], and gives scores [Q, N].
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy import stats
from scipy.spatial.distance import cdist
from torch import Tensor, nn

from redistill.core import UserError
from redistill.core.errors import unknown
from redistill.core.modes import evaluating
from redistill.models.features import classifier_layer, scores_and_embedding
from redistill.supervised.probe import fit_probe

Array = np.ndarray


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
