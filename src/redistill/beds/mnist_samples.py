"""The mnist bed for generators: a shipped teacher that draws digits, and the features with which samples are judged.

Data: ``mnist.load()``, in [-1, 1]; class = digit, ``NULL`` = none. Teacher: ``scripts/train_teacher.py mnist``.
Features: the last ones of a small classifier of digits, ``scripts/train_digits_classifier.py``.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import as_file, files
from typing import Any

import torch
from torch import Tensor, nn

from redistill.beds import metrics, mnist
from redistill.core.errors import UserError, need
from redistill.diffusion.denoiser import Denoiser
from redistill.models.nets import convnet

CLASSES = NULL = 10
FEATURES = 64
WEIGHTS = files("redistill.beds").joinpath("weights")


def digits() -> dict[str, Tensor]:
    """All 5,000 digits as a denoiser wants them: ``image`` [5000, 1, 28, 28] in [-1, 1], ``label`` [5000]."""
    found = mnist.load()
    return {"image": 2 * torch.from_numpy(found.image) - 1, "label": torch.from_numpy(found.label)}


def teacher() -> Denoiser:
    """The shipped multi-step teacher (flow path, 0.5 M parameters), a fresh copy, frozen."""
    try:
        from diffusers import UNet2DModel
    except ImportError as error:
        raise need("diffusion", "diffusers") from error
    with as_file(WEIGHTS / "mnist") as folder:
        net = UNet2DModel.from_pretrained(folder, local_files_only=True)
    return Denoiser(net).eval().requires_grad_(False)


def fresh_classifier() -> nn.Sequential:
    """The classifier before training: pictures [B, 1, 28, 28] -> logits [B, 10]."""
    stages = convnet(1, 1, (16, 32, 64))[:-3]  # up to [B, 64, 7, 7]: where a stroke is matters
    norm = nn.LayerNorm(FEATURES, elementwise_affine=False)  # features of mean 0 and variance 1
    return nn.Sequential(*stages, nn.Flatten(), nn.Linear(64 * 49, FEATURES), norm, nn.Linear(FEATURES, CLASSES))


@cache
def classifier() -> nn.Sequential:
    """The shipped classifier, frozen."""
    from safetensors.torch import load

    net = fresh_classifier()
    net.load_state_dict(load((WEIGHTS / "mnist_classifier/model.safetensors").read_bytes()))
    return net.eval().requires_grad_(False)


def features(x: Tensor, rows: int = 256) -> Tensor:
    """Features [N, 64] of pictures [N, 1, 28, 28] in [-1, 1]; what lies outside is clipped, as it is when shown."""
    if x.ndim != 4 or x.shape[1:] != (1, 28, 28):
        raise UserError(f"pictures of shape {tuple(x.shape)}; the features of digits need [N, 1, 28, 28]")
    return torch.cat([classifier()[:-1](part) for part in x.detach().float().cpu().clamp(-1, 1).split(rows)])


def digit(x: Tensor) -> Tensor:
    """Which digit each picture looks like, int64 [N]."""
    return classifier()[-1](features(x)).argmax(1)


def compare(real: Tensor, fake: Tensor, label: Tensor | None = None, k: int = 3) -> dict[str, Any]:
    """Samples against digits, on features: ``frechet``, ``precision``, ``recall``; ``shares`` of the ten digits; with
    ``label`` also ``obeyed``, the share of samples that look like the digit they were asked for."""
    a, b = features(real), features(fake)
    overlap, looks = metrics.precision_recall(a, b, k), classifier()[-1](b).argmax(1)
    return {
        "frechet": metrics.frechet(a, b), "precision": overlap.precision, "recall": overlap.recall,
        "shares": torch.bincount(looks, minlength=CLASSES).div(len(looks)).tolist(),
        **({} if label is None else {"obeyed": float((looks == label.cpu()).float().mean())}),
    }  # fmt: skip
