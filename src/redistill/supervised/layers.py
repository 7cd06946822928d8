"""What named layers put out while a classifier answers a batch, and the shapes to build adapters and heads for."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from redistill.core import UserError
from redistill.core.method import Batch
from redistill.core.modes import evaluating
from redistill.models.features import features, tapped
from redistill.supervised.classifier import logits


def logits_and_features(network: nn.Module, batch: Batch, layers: Sequence[str]) -> tuple[Tensor, list[Tensor]]:
    """Scores [B, C] of the rows of ``batch`` and what each of ``layers`` put out, in the order of ``layers``."""
    with tapped(network, layers) as found:
        z = logits(network, batch)
    return z, [found[name] for name in layers]


@torch.no_grad()
def feature_shapes(network: nn.Module, layers: Sequence[str], input_shape: Sequence[int]) -> list[tuple[int, ...]]:
    """Shapes of the features of ``layers`` without the batch axis, from one forward pass in evaluation mode.

    ``input_shape``: of one row, as [3, 32, 32]; one number is a length in tokens where the network embeds tokens.
    Raises :class:`UserError` for a name that is no layer or is not reached, and for maps with their channels last.
    """
    parameter = next(network.parameters())
    tokens = len(input_shape) == 1 and any(isinstance(part, nn.Embedding) for part in network.modules())
    row = torch.zeros(1, *input_shape, device=parameter.device, dtype=torch.int64 if tokens else parameter.dtype)
    with evaluating(network):
        shapes = [tuple(f.shape[1:]) for f in features(network, layers, row)[1]]
    for layer, shape in zip(layers, shapes):
        if len(shape) == len(input_shape) == 3 and _channels_last(shape, input_shape[1] / input_shape[2]):
            raise UserError(f"{layer!r} gives maps {list(shape)} with channels last; name a layer that gives [D, H, W]",
                            place="layers")  # fmt: skip
    return shapes


def _channels_last(shape: Sequence[int], aspect: float) -> bool:
    """Whether the first two numbers, not the last two, have the image's aspect (up to the rounding of strides)."""
    return abs(shape[1] - aspect * shape[2]) > 1 and abs(shape[0] - aspect * shape[1]) <= 1


def pooled(feature: Tensor) -> Tensor:
    """One vector [B, D] a row: the mean over pixels of [B, D, H, W], over tokens of [B, T, D]; [B, D] as it is."""
    if feature.ndim == 4:
        return feature.mean((2, 3))
    return feature.mean(1) if feature.ndim == 3 else feature


def width(shape: Sequence[int]) -> int:
    """D of a feature's shape [D], [T, D] or [D, H, W] (without the batch axis)."""
    return shape[0] if len(shape) == 3 else shape[-1]
