"""The faces bed: the shipped teacher of 390 face emoji, and the features with which samples are judged.

Data: ``emoji.load("faces")``; class = artist, ``NULL`` = none. Teacher: ``scripts/train_teacher.py faces``. Features: a
classifier of all emoji by artist and by subgroup, ``scripts/train_emoji_classifier.py``.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import as_file, files
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from redistill.beds import metrics
from redistill.beds.emoji import ARTISTS, FACE_ARTISTS
from redistill.core.errors import UserError, need
from redistill.diffusion.denoiser import Denoiser
from redistill.models.nets import convnet

NULL = len(FACE_ARTISTS)
SUBGROUPS, FEATURES = 99, 64
WEIGHTS = files("redistill.beds").joinpath("weights")


class Classifier(nn.Module):
    """Artist and subgroup of an emoji [B, 3, 32, 32] in [-1, 1], from 64 shared features of mean 0 and variance 1."""

    def __init__(self) -> None:
        super().__init__()
        stages = convnet(3, 1, (24, 48, 96, 64))[:-3]  # up to [B, 64, 4, 4]: where things are matters in a face
        norm = nn.LayerNorm(FEATURES, elementwise_affine=False)
        self.body = nn.Sequential(*stages, nn.Flatten(), nn.Linear(64 * 16, FEATURES), norm)
        self.artist, self.subgroup = nn.Linear(FEATURES, len(ARTISTS)), nn.Linear(FEATURES, SUBGROUPS)

    def forward(self, x: Tensor) -> Tensor:
        """The features [B, 64] that both heads read."""
        return self.body(x)


def teacher() -> Denoiser:
    """The shipped multi-step teacher (flow path, 0.95 M parameters), a fresh copy, frozen."""
    try:
        from diffusers import UNet2DModel
    except ImportError as error:
        raise need("diffusion", "diffusers") from error
    with as_file(WEIGHTS / "faces") as folder:
        net = UNet2DModel.from_pretrained(folder, local_files_only=True)
    return Denoiser(net).eval().requires_grad_(False)


@cache
def classifier() -> Classifier:
    """The shipped classifier, frozen."""
    from safetensors.torch import load

    net = Classifier()
    net.load_state_dict(load((WEIGHTS / "emoji_classifier/model.safetensors").read_bytes()))
    return net.eval().requires_grad_(False)


def features(x: Tensor, rows: int = 256) -> Tensor:
    """Features [N, 64] of pictures [N, 3, 32, 32] in [-1, 1]; what lies outside is clipped, as it is when shown."""
    if x.ndim != 4 or x.shape[1:] != (3, 32, 32):
        raise UserError(f"pictures of shape {tuple(x.shape)}; the features of faces need [N, 3, 32, 32]")
    return torch.cat([classifier()(part) for part in x.detach().float().cpu().clamp(-1, 1).split(rows)])


def artist(x: Tensor) -> Tensor:
    """Which of the three face artists each picture looks like, int64 [N]."""
    return classifier().artist(features(x))[:, : len(FACE_ARTISTS)].argmax(1)


def shares(x: Tensor) -> Tensor:
    """Share of the pictures that look like each artist's, float32 [3]."""
    return F.one_hot(artist(x), len(FACE_ARTISTS)).float().mean(0)


def compare(real: Tensor, fake: Tensor, label: Tensor | None = None, k: int = 3) -> dict[str, Any]:
    """Samples against faces: ``frechet``, ``precision``, ``recall`` on features, ``shares``, with ``label`` ``obeyed``.

    ``obeyed``: the share of samples that look like the artist they were asked for.
    """
    a, b = features(real), features(fake)
    overlap = metrics.precision_recall(a, b, k)
    found = {"frechet": metrics.frechet(a, b), "precision": overlap.precision, "recall": overlap.recall}
    found["shares"] = shares(fake).tolist()
    return found if label is None else found | {"obeyed": float((artist(fake) == label.cpu()).float().mean())}
