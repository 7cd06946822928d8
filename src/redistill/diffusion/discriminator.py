"""Small heads that turn the bottleneck features of a denoiser into one logit per sample: log p_real / p_fake at x_t.

The features come from the critic (DMD2, arXiv 2405.14867, section 4.3) or from a frozen network; a head never owns
them.
"""

from __future__ import annotations

from math import gcd

from torch import Tensor, nn

from redistill.core.errors import UserError

LEAST_WIDTH = 4


class ConvHead(nn.Module):
    """Head on a feature map [B, C, H, W]: two strided 4x4 convolutions, group norm and SiLU, then 1x1 to a logit [B].

    An 8x8 map shrinks to one position; of a larger map the mean over positions is taken. ``group_norm`` makes
    statistics per sample, so that rows do not depend on each other; a group has four channels or more, for at one
    position fewer would be normalised to nothing or to signs.
    """

    def __init__(self, channels: int, width: int | None = None) -> None:
        super().__init__()
        width = width or channels
        if width < LEAST_WIDTH:
            raise UserError(f"{width} channels are too few to normalise; give {LEAST_WIDTH} or more", place="width")
        groups = gcd(32, width // LEAST_WIDTH) if width % LEAST_WIDTH == 0 else 1
        self.layers = nn.Sequential(
            nn.Conv2d(channels, width, 4, stride=2, padding=1),
            nn.GroupNorm(groups, width),
            nn.SiLU(),
            nn.Conv2d(width, width, 4, stride=4),
            nn.GroupNorm(groups, width),
            nn.SiLU(),
            nn.Conv2d(width, 1, 1),
        )

    def forward(self, features: Tensor) -> Tensor:
        return self.layers(features).mean((1, 2, 3))  # [B]


class TokenHead(nn.Module):
    """Head on tokens [B, N, C] or vectors [B, C]: a two-layer perceptron, mean over tokens, a logit [B]."""

    def __init__(self, channels: int, width: int | None = None) -> None:
        super().__init__()
        width = width or channels
        self.layers = nn.Sequential(nn.LayerNorm(channels), nn.Linear(channels, width), nn.SiLU(), nn.Linear(width, 1))

    def forward(self, features: Tensor) -> Tensor:
        return self.layers(features).flatten(1).mean(1)  # [B]


def head_for(features: Tensor) -> nn.Module:
    """The head that fits ``features``, an example of what the denoiser's bottleneck gives ([B, C, H, W], [B, N, C] or
    [B, C])."""
    if features.ndim in (2, 3):
        return TokenHead(features.shape[-1])
    if features.ndim != 4 or min(features.shape[2:]) < 8:
        shape = list(features.shape[1:])
        raise UserError(f"no discriminator head fits features of shape {shape}; need [C], [N, C] or [C, >=8, >=8]")
    return ConvHead(features.shape[1])
