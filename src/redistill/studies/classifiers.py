"""One way of training at equal budget, for the studies that do not fit the bench."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from redistill.beds.bench import columns
from redistill.beds.images import Images
from redistill.core import Method, Plan, Progress, fit
from redistill.core.method import Batch
from redistill.supervised.classifier import Classification


def train(
    method: Method, images: Images, seed: int, augment: Callable[[Batch, Progress], Batch] | None = None, **plan: Any
) -> nn.Module:
    """Fit on the CPU by SGD (rate 0.05, momentum 0.9, batches of 64, cosine) unless ``plan`` says otherwise; returns
    the student in evaluation mode. ``epochs`` or ``steps`` must be given."""
    common = {"optimizer": "sgd", "lr": 0.05, "schedule": "cosine", "batch_size": 64, "device": "cpu"}
    fit(method, columns(images), Plan(**{**common, "log_every": 1000, "seed": seed, **plan}), augment=augment)
    return method.export().eval()


def train_on_labels(net: nn.Module, images: Images, seed: int, **plan: Any) -> nn.Module:
    """The network after plain training; frozen, to be a teacher."""
    return train(Classification(net), images, seed, **plan).requires_grad_(False)
