"""Blocks of DINO-like self-distillation: a head with prototypes, and how far a teacher follows its student."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from redistill.core import Progress, Slot
from redistill.core.types import ShareBelow1


class DinoHead(nn.Module):
    """Features [B, d] -> scores [B, K] of K prototypes (Caron et al. 2021).

    GELU layers, a linear bottleneck, its output and the prototypes scaled to length 1: every score is a cosine. The
    paper's sizes are the defaults. ``depth``: number of GELU layers.
    """

    def __init__(
        self, inputs: int, prototypes: int = 65536, *, hidden: int = 2048, bottleneck: int = 256, depth: int = 2
    ) -> None:
        super().__init__()
        widths = [inputs] + [hidden] * depth
        layers = [part for a, b in pairwise(widths) for part in (nn.Linear(a, b), nn.GELU())]
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], bottleneck))
        self.weight = nn.Parameter(torch.empty(prototypes, bottleneck))  # any length; only its direction counts
        for module in self.layers:
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        nn.init.trunc_normal_(self.weight, std=0.02)

    @property
    def prototypes(self) -> Tensor:
        """The prototypes [K, bottleneck], of length 1."""
        return nn.functional.normalize(self.weight, dim=1)

    def forward(self, features: Tensor) -> Tensor:
        """Cosines [B, K] of ``features`` [B, d], passed through the layers, with every prototype."""
        return nn.functional.normalize(self.layers(features), dim=1) @ self.prototypes.T


class Following(Slot):
    """How much of the teacher stays after a step: 1 leaves it as it is, 0 replaces it with the student."""

    def __call__(self, now: Progress) -> float:
        raise NotImplementedError


class Never(Following):
    """The teacher stays what it was: random, or pretrained."""

    def __call__(self, now: Progress) -> float:
        return 1.0


class EveryStep(Following):
    """The teacher is an exponential moving average of the student."""

    def __init__(self, decay: ShareBelow1 = 0.996) -> None:
        self.decay = decay

    def __call__(self, now: Progress) -> float:
        return self.decay


class EveryEpoch(Following):
    """The teacher is the student at the end of the last epoch."""

    def __call__(self, now: Progress) -> float:
        return 0.0 if now.ends_epoch else 1.0
