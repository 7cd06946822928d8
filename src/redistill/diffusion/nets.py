"""A small denoising network for points: the laboratory animal of the exact beds."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from redistill.core.slot import Configured


class Fourier(nn.Module):
    """sin and cos of 2 pi f t at ``count`` frequencies from 1/2 to 16, [B] -> [B, 2 count]."""

    def __init__(self, count: int = 8) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.logspace(-1, 4, count, base=2.0), persistent=False)

    def forward(self, t: Tensor) -> Tensor:
        angle = 2 * math.pi * t[:, None] * self.frequencies
        return torch.cat([angle.sin(), angle.cos()], dim=1)


class DenoiserMlp(Configured, nn.Module):
    """``net(x [B, dim], time [B], label [B] or None) -> [B, dim]``: an MLP of ``depth`` SiLU layers; its middle one is
    ``mid_block``.

    ``time`` is expected of order 1. With ``classes`` > 0 a label is an integer in [0, classes]; ``classes`` itself, or
    None, says nothing.
    """

    def __init__(self, dim: int = 2, width: int = 128, depth: int = 3, classes: int = 0) -> None:
        super().__init__()
        self.classes, self.time = classes, Fourier()
        self.label = nn.Embedding(classes + 1, width) if classes else None
        self.inward = nn.Linear(dim + 2 * len(self.time.frequencies), width)
        layers = [nn.Sequential(nn.SiLU(), nn.Linear(width, width)) for _ in range(max(depth - 1, 1))]
        middle = len(layers) // 2
        self.down, self.mid_block, self.up = (
            nn.Sequential(*layers[:middle]),
            layers[middle],
            nn.Sequential(*layers[middle + 1 :]),
        )
        self.outward = nn.Sequential(nn.SiLU(), nn.Linear(width, dim))

    def forward(self, x: Tensor, time: Tensor, label: Tensor | None = None) -> Tensor:
        hidden = self.inward(torch.cat([x, self.time(time)], dim=1))
        if self.label is not None:
            hidden = hidden + self.label(torch.full_like(time, self.classes).long() if label is None else label)
        return self.outward(self.up(self.mid_block(self.down(hidden))))
