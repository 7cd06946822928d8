"""What frozen features are worth: linear and nearest-neighbour probes, alike for every encoder; the encoder stays as
it is."""

from __future__ import annotations

import copy

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from redistill.core.modes import evaluating

Array = np.ndarray
PENALTIES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)  # scikit-learn's C: larger is weaker


@torch.no_grad()
def embed(encoder: nn.Module, image: Tensor, *, batch: int = 512) -> Array:
    """Features [N, d] of ``image`` [N, ...] in evaluation mode, flattened; the encoder is left in its mode."""
    with evaluating(encoder):
        embedding = torch.cat([encoder(part).flatten(1) for part in image.split(batch)])
    return embedding.double().cpu().numpy()


def with_statistics(net: nn.Module, image: Tensor, *, batch: int = 512) -> nn.Module:
    """A copy in evaluation mode whose batch-norm layers hold the mean and variance of ``image``; weights as they are.
    A random network needs them, or its outputs saturate."""
    net = copy.deepcopy(net)
    update_bn(list(image.split(batch)), net)
    return net.eval()


def linear_probe(train: Array, label: Array, test: Array, test_label: Array, *, seed: int = 0) -> float:
    """Accuracy of a logistic regression on standardised features [N, d]; a fifth of the training rows chooses its
    penalty, then all of them fit it."""
    scaler = StandardScaler().fit(train)
    train, test = scaler.transform(train), scaler.transform(test)
    held, used = np.split(np.random.default_rng(seed).permutation(len(label)), [max(1, len(label) // 5)])

    def fitted(C: float, rows: Array) -> LogisticRegression:
        return LogisticRegression(C=C, max_iter=300).fit(train[rows], label[rows])

    best = max(PENALTIES, key=lambda C: fitted(C, used).score(train[held], label[held]))
    return float(fitted(best, np.arange(len(label))).score(test, test_label))


def knn_probe(train: Array, label: Array, test: Array, test_label: Array, *, k: int = 20) -> float:
    """Accuracy of the majority of the ``k`` nearest training rows by standardised features [N, d]."""
    scaler = StandardScaler().fit(train)
    neighbours = KNeighborsClassifier(k).fit(scaler.transform(train), label)
    return float(neighbours.score(scaler.transform(test), test_label))


def effective_rank(features: Array) -> float:
    """exp of the entropy of the normalised singular values of the centred features [N, d] (Roy and Vetterli 2007): from
    1, one direction, to d."""
    s = np.linalg.svd(features - features.mean(0), compute_uv=False)
    p = s[s > 0] / s.sum()
    return float(np.exp(-(p * np.log(p)).sum()))
