"""The mnist bed: 5,000 MNIST digits of 28x28 pixels, 500 of each class (provenance, licence: ``data/mnist.json``)."""

from __future__ import annotations

from importlib.resources import files

import numpy as np
import torch

from redistill.beds.images import Images, corrupt


def load() -> Images:
    """All digits: ``image`` [5000, 1, 28, 28] in [0, 1], ten classes."""
    with files("redistill.beds").joinpath("data/mnist.npz").open("rb") as file:
        arrays = np.load(file, allow_pickle=False)
        image, label = arrays["image"], arrays["label"]
    return Images(np.float32(image / 255)[:, None], label.astype(np.int64), classes=10)


def digits(seed: int, *sizes: int, wrong: float = 0.0, side: int = 28) -> tuple[Images, ...]:
    """Disjoint sets of digits of the given ``sizes``; the first has a share of ``wrong`` labels. ``side`` 14 or 7
    averages pixels."""
    first, *others = load().split(*sizes, seed=seed)[: len(sizes)]
    parts = [Images(first.image, corrupt(first.label, wrong, 10, seed), 10), *others]
    return tuple(_pooled(part, 28 // side) for part in parts)


def _pooled(images: Images, factor: int) -> Images:
    pixels = torch.nn.functional.avg_pool2d(torch.from_numpy(images.image), factor).numpy()
    return Images(pixels, images.label, images.classes)
