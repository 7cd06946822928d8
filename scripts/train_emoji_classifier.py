"""The shipped emoji classifier (beds/weights/emoji_classifier), whose features judge samples of the faces bed.

    OMP_NUM_THREADS=1 python scripts/train_emoji_classifier.py runs/emoji_classifier

All four artists' neutral emoji at 32 pixels, by artist and by subgroup. A tenth of the emoji (all their drawings) is
held out and only measures. Batches are shifted by up to two pixels and rows made noisy, so that features forgive what
the eye forgives.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from redistill.beds import emoji
from redistill.beds.faces import SUBGROUPS, Classifier
from redistill.core import Batch, Loss, Method, Plan, Progress, fit

SHIFT, NOISE = 2, 0.15


class Classify(Method):
    """Cross-entropy of both heads on shifted, noisy rows."""

    needs = ("image", "artist", "subgroup")

    def __init__(self, student: Classifier) -> None:
        super().__init__()
        self.student = student

    def loss(self, turn: str, batch: Batch, now: Progress) -> Loss:
        """Means over the rows."""
        x = batch["image"]
        down, right = (now.shared_randint(0, 2 * SHIFT + 1) for _ in range(2))
        x = F.pad(x, (SHIFT,) * 4, value=1.0)[..., down : down + 32, right : right + 32]
        x = x + NOISE * now.rand(len(x))[:, None, None, None] * now.randn(len(x), *x.shape[1:])
        seen = self.student(x)
        heads = {"artist": self.student.artist, "subgroup": self.student.subgroup}
        return Loss({name: F.cross_entropy(head(seen), batch[name]) for name, head in heads.items()})


def table() -> tuple[dict[str, Tensor], list[str], np.ndarray]:
    """Images with both labels, the names of the subgroups, and which rows are held out."""
    bed = emoji.load("all", 32)
    names, subgroup = np.unique(bed.column("subgroup"), return_inverse=True)
    assert len(names) == SUBGROUPS, len(names)
    codes, code = np.unique(bed.column("code"), return_inverse=True)
    held = np.random.default_rng(0).random(len(codes))[code] < 0.1
    return {"image": bed.image, "artist": bed.label, "subgroup": torch.from_numpy(subgroup)}, names.tolist(), held


@torch.no_grad()
def measure(net: Classifier, data: dict[str, Tensor]) -> dict[str, float]:
    """Accuracy of each head."""
    seen = net.eval()(data["image"])
    heads = {"artist": net.artist, "subgroup": net.subgroup}
    return {name: round(float((head(seen).argmax(1) == data[name]).float().mean()), 4) for name, head in heads.items()}


def main() -> None:
    """Train, measure on held-out emoji, write weights and provenance."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--epochs", type=int, default=25)
    given = parser.parse_args()
    data, names, held = table()
    torch.manual_seed(0)
    plan = Plan(
        epochs=given.epochs, batch_size=128, lr=2e-3, weight_decay=0.05, schedule="cosine", warmup=50, device="cpu"
    )  # fmt: skip
    fitted = fit(Classify(Classifier()), {k: v[~held] for k, v in data.items()}, plan)
    accuracy = measure(fitted.student, {k: v[held] for k, v in data.items()})
    given.folder.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in fitted.student.state_dict().items()}, given.folder / "model.safetensors")
    record = {
        "recipe": "scripts/train_emoji_classifier.py", "data": "beds/data/emoji, 32 pixels, without skin tones",
        "seed": 0, "epochs": given.epochs, "seconds": round(fitted.seconds), "rows": int((~held).sum()),
        "held_out_rows": int(held.sum()), "held_out_accuracy": accuracy, "subgroups": names,
    }  # fmt: skip
    (given.folder / "provenance.json").write_text(json.dumps(record, indent=1) + "\n")
    print(record["seconds"], accuracy)


if __name__ == "__main__":
    main()
