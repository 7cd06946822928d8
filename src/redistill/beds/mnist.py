"""The mnist bed: 5,000 MNIST digits of 28x28 pixels, 500 of each class (provenance, licence: ``data/mnist.json``)."""

from __future__ import annotations

from importlib.resources import files

import numpy as np

from redistill.beds.images import Images


def load() -> Images:
    """All digits: ``image`` [5000, 1, 28, 28] in [0, 1], ten classes."""
    with files("redistill.beds").joinpath("data/mnist.npz").open("rb") as file:
        arrays = np.load(file, allow_pickle=False)
        image, label = arrays["image"], arrays["label"]
    return Images(np.float32(image / 255)[:, None], label.astype(np.int64), classes=10)
