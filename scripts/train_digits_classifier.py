"""The shipped classifier of MNIST digits (beds/weights/mnist_classifier), whose features judge generated digits.

    OMP_NUM_THREADS=1 python scripts/train_digits_classifier.py runs/mnist_classifier

A tenth of the digits is held out and only measures. Training rows come six times, each time with noise of another
strength, so that features forgive what the eye forgives.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from redistill.beds import mnist
from redistill.beds.mnist_samples import fresh_classifier
from redistill.core import Plan, fit
from redistill.supervised.classifier import Classification
from redistill.supervised.predict import predict
from redistill.supervised.targets import LabelSmoothing

COPIES, NOISE = 6, 0.3


def noisy(image: torch.Tensor, label: torch.Tensor) -> dict[str, torch.Tensor]:
    """The rows as they are and with noise."""
    strength = NOISE * torch.rand(COPIES, len(image), 1, 1, 1)
    strength[0] = 0
    copies = (image + strength * torch.randn(COPIES, *image.shape)).flatten(0, 1)
    return {"image": copies, "label": label.repeat(COPIES)}


def main() -> None:
    """Train, measure on held-out digits, write weights and provenance."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--epochs", type=int, default=4)
    given = parser.parse_args()
    bed = mnist.load()
    held = np.random.default_rng(0).random(len(bed.label)) < 0.1
    parts = [{"image": torch.from_numpy(2 * bed.image[rows] - 1), "label": torch.from_numpy(bed.label[rows])}
             for rows in (~held, held)]  # fmt: skip
    torch.manual_seed(0)
    parts[0] = noisy(**parts[0])
    method = Classification(fresh_classifier(), rectifier=LabelSmoothing(0.05))
    plan = Plan(epochs=given.epochs, batch_size=64, lr=2e-3, weight_decay=0.05, schedule="cosine", device="cpu")
    fitted = fit(method, parts[0], plan)
    p, label = predict(fitted.student, parts[1])
    given.folder.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in fitted.student.state_dict().items()}, given.folder / "model.safetensors")
    record = {
        "recipe": "scripts/train_digits_classifier.py", "data": "beds/data/mnist.npz", "seed": 0,
        "epochs": given.epochs, "rows": int((~held).sum()), "held_out_rows": int(held.sum()),
        "held_out_accuracy": round(float((p.argmax(1) == label).float().mean()), 4),
    }  # fmt: skip
    (given.folder / "provenance.json").write_text(json.dumps(record, indent=1) + "\n")
    print(record)


if __name__ == "__main__":
    main()
