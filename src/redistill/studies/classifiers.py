"""What the classification studies share: splits, one way of training at equal budget, probabilities on test rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from redistill.beds import mnist
from redistill.beds.images import Images, corrupt
from redistill.core import Method, Plan, Progress, fit
from redistill.core.method import Batch
from redistill.supervised.classifier import Classification


def digits(seed: int, *sizes: int, wrong: float = 0.0, side: int = 28) -> tuple[Images, ...]:
    """Disjoint sets of MNIST digits of the given ``sizes``; the first has a share of ``wrong`` labels. ``side`` 14 or 7
    averages pixels."""
    first, *others = mnist.load().split(*sizes, seed=seed)[: len(sizes)]
    parts = [Images(first.image, corrupt(first.label, wrong, 10, seed), 10), *others]
    return tuple(_pooled(part, 28 // side) for part in parts)


def _pooled(images: Images, factor: int) -> Images:
    pixels = torch.nn.functional.avg_pool2d(torch.from_numpy(images.image), factor).numpy()
    return Images(pixels, images.label, images.classes)


def rows(images: Images, **more: Tensor) -> dict[str, Tensor]:
    """Columns for :func:`fit`."""
    return {"image": torch.from_numpy(images.image), "label": torch.from_numpy(images.label), **more}


def train(
    method: Method, images: Images, seed: int, augment: Callable[[Batch, Progress], Batch] | None = None, **plan: Any
) -> nn.Module:
    """Fit on the CPU by SGD (rate 0.05, momentum 0.9, batches of 64, cosine) unless ``plan`` says otherwise; returns
    the student in evaluation mode. ``epochs`` or ``steps`` must be given."""
    common = {"optimizer": "sgd", "lr": 0.05, "schedule": "cosine", "batch_size": 64, "device": "cpu"}
    fit(method, rows(images), Plan(**{**common, "log_every": 1000, "seed": seed, **plan}), augment=augment)
    return method.export().eval()


def train_on_labels(net: nn.Module, images: Images, seed: int, **plan: Any) -> nn.Module:
    """The network after plain training; frozen, to be a teacher."""
    return train(Classification(net), images, seed, **plan).requires_grad_(False)


@torch.no_grad()
def probabilities(net: nn.Module, images: Images | np.ndarray) -> np.ndarray:
    """Probabilities [N, C] in evaluation mode, float64."""
    image = images.image if isinstance(images, Images) else images
    parts = torch.from_numpy(image).split(512)
    return torch.cat([net(part).double().softmax(1) for part in parts]).numpy()
