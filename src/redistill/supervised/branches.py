"""Classifiers on the way: a branch after each named stage, as deep as the stages that follow it.

``Branches(stage_shapes(net, layers, input_shape), outputs)`` builds them; ``logits_and_features(net, batch, layers)``
feeds them. A method holds them beside the student and trains both; the student itself stays as it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from redistill.core import UserError
from redistill.models.features import tapped
from redistill.models.nets import conv_block
from redistill.supervised.layers import feature_shapes, pooled, width

Shape = Sequence[int]


class Branches(nn.Module):
    """Stage l of L gets L - l blocks like the stages that remain, the mean over pixels or tokens, and a linear head.

    ``shapes``: of the features of the stages, without the batch axis, from shallow to deep. ``outputs``: of every head.
    ``on``: how many stages, from the shallowest, get a branch; all of them by default. Norms are the branches' own.
    """

    def __init__(self, shapes: Sequence[Shape], outputs: int, on: int | None = None) -> None:
        super().__init__()
        count = len(shapes) if on is None else on
        self.bodies = nn.ModuleList(_body(shapes[stage:]) for stage in range(count))
        self.heads = nn.ModuleList(nn.Linear(width(shapes[-1]), outputs) for _ in range(count))

    def forward(self, features: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Scores [B, outputs] and embeddings [B, width of the last stage] of every branch, from shallow to deep.

        ``features``: of the stages that have a branch; more are not read.
        """
        embeddings = [pooled(body(feature)) for body, feature in zip(self.bodies, features)]
        return [head(e) for head, e in zip(self.heads, embeddings)], embeddings


def stage_shapes(network: nn.Module, layers: Sequence[str], input_shape: Sequence[int]) -> list[tuple[int, ...]]:
    """:func:`feature_shapes` of stages from shallow to deep. Raises :class:`UserError` for another order."""
    with tapped(network, layers) as found:
        shapes = feature_shapes(network, layers, input_shape)
    if list(found) != list(layers):
        raise UserError(f"the network reaches these stages as {list(found)}; name them from shallow to deep",
                        place="layers")  # fmt: skip
    return shapes


def _body(shapes: Sequence[Shape]) -> nn.Sequential:
    return nn.Sequential(*[_block(before, after) for before, after in pairwise(shapes)])


def _block(before: Shape, after: Shape) -> nn.Module:
    """From a feature of one shape towards the next: a strided convolution between maps, else a linear layer."""
    if len(before) == len(after) == 3:
        return conv_block(before[0], after[0], max(1, round(before[1] / after[1])))
    leave_pixels = [nn.AdaptiveAvgPool2d(1), nn.Flatten()] if len(before) == 3 else []
    return nn.Sequential(*leave_pixels, nn.Linear(width(before), width(after)), nn.ReLU())
