"""Small generators (latent [B, L] -> image in [-1, 1]) and discriminators (image -> logit [B, 1], high for "real").

No generator here normalises its rows one by one: what a latent's length says would be lost.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from redistill.core.errors import UserError


def mlp_generator(
    latent: int, shape: Sequence[int], hidden: Sequence[int] = (256, 256), norm: bool = True
) -> nn.Sequential:
    """Leaky layers of the widths ``hidden``, with batch norm or without, then an image [B, *shape]."""
    layers: list[nn.Module] = []
    for a, b in pairwise([latent, *hidden]):
        layers += [nn.Linear(a, b), *([nn.BatchNorm1d(b)] if norm else []), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Linear(hidden[-1], math.prod(shape)), nn.Tanh(), nn.Unflatten(1, tuple(shape)))


def mlp_discriminator(inputs: int, hidden: Sequence[int] = (256, 128), dropout: float = 0.3) -> nn.Sequential:
    """Leaky layers with dropout on flattened images of ``inputs`` numbers."""
    layers = [
        part for a, b in pairwise([inputs, *hidden])
        for part in (nn.Linear(a, b), nn.LeakyReLU(0.2), nn.Dropout(dropout))
    ]  # fmt: skip
    return nn.Sequential(nn.Flatten(), *layers, nn.Linear(hidden[-1], 1))


def dcgan_generator(latent: int, channels: int, size: int = 32, width: int = 128) -> nn.Sequential:
    """A map of size / 4, doubled twice, each time with a 3x3 convolution and batch norm (Radford et al. 2016, with
    resizing for transposed convolutions)."""
    side = _quarter(size)
    layers: list[nn.Module] = [nn.Linear(latent, width * side**2), nn.Unflatten(1, (width, side, side))]
    layers.append(nn.BatchNorm2d(width))
    for a, b in pairwise((width, width, width // 2)):
        layers += [
            nn.Upsample(scale_factor=2),
            nn.Conv2d(a, b, 3, padding=1),
            nn.BatchNorm2d(b, 0.8),
            nn.LeakyReLU(0.2),
        ]
    return nn.Sequential(*layers, nn.Conv2d(width // 2, channels, 3, padding=1), nn.Tanh())


def dcgan_discriminator(
    channels: int, size: int = 32, widths: Sequence[int] = (16, 32, 64, 128), dropout: float = 0.25
) -> nn.Sequential:
    """Strided 3x3 convolutions with dropout of whole maps. No batch norm: real and generated rows come in batches of
    their own, and running statistics would mix what a trained norm keeps apart."""
    layers: list[nn.Module] = []
    for a, b in pairwise([channels, *widths]):
        layers += [nn.Conv2d(a, b, 3, stride=2, padding=1), nn.LeakyReLU(0.2), nn.Dropout2d(dropout)]
    side = math.ceil(size / 2 ** len(widths))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(widths[-1] * side**2, 1))


def _quarter(size: int) -> int:
    if size < 4 or size % 4:
        raise UserError(f"size={size}; this generator doubles twice, so give a multiple of 4", place="size")
    return size // 4
