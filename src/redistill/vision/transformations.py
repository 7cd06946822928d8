"""Transformed copies of images whose labels are pairs (class, transformation), and how their scores are put together.

Rows are image-major throughout: row b * M + m is copy m of image b, and the joint label of class y is y * M + m
(Lee, Hwang and Shin 2020). Copy 0 is the image itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations
from typing import Literal

import torch
from torch import Tensor

from redistill.core import Slot, UserError
from redistill.core.types import Count


class Transformations(Slot):
    """M ways to change images [B, C, H, W] that one can tell from one another; ``count`` is M."""

    count: int

    def views(self, image: Tensor) -> Sequence[Tensor]:
        """The M copies of all images, each [B, C, H, W]; the first is ``image``."""
        raise NotImplementedError

    def __call__(self, image: Tensor) -> Tensor:
        """All copies of all images as rows [B * M, C, H, W], image-major."""
        return torch.stack(tuple(self.views(image)), 1).flatten(0, 1)


class Rotations(Transformations):
    """Quarter turns (``count`` 4) or half turns (2) of square images."""

    def __init__(self, count: Literal[2, 4] = 4) -> None:
        self.count = count

    def views(self, image: Tensor) -> Sequence[Tensor]:
        if image.shape[-1] != image.shape[-2]:
            raise UserError(
                f"images of {image.shape[-2]}x{image.shape[-1]} pixels; crop them to squares to rotate them",
                place="rotations",
            )
        return [torch.rot90(image, m * 4 // self.count, (-2, -1)) for m in range(self.count)]


class ColourOrders(Transformations):
    """All orders of the three colour channels (``count`` 6) or the cyclic ones (3). Nothing to learn on grey images."""

    def __init__(self, count: Literal[3, 6] = 6) -> None:
        self.count = count

    def views(self, image: Tensor) -> Sequence[Tensor]:
        if image.shape[1] != 3:
            raise UserError(f"images of {image.shape[1]} channels; colour orders need 3", place="colour_orders")
        cyclic = [(0, 1, 2), (1, 2, 0), (2, 0, 1)]
        return [image[:, order] for order in (cyclic if self.count == 3 else list(permutations(range(3))))]


class Product(Transformations):
    """Each of ``first`` followed by each of ``second``: their product, the identity first."""

    def __init__(self, first: Transformations, second: Transformations) -> None:
        self.first, self.second = first, second
        self.count = first.count * second.count

    def views(self, image: Tensor) -> Sequence[Tensor]:
        return [view for changed in self.first.views(image) for view in self.second.views(changed)]


class Same(Transformations):
    """``count`` equal copies: a control that must not help; with one copy there is no second label."""

    def __init__(self, count: Count = 1) -> None:
        self.count = count

    def views(self, image: Tensor) -> Sequence[Tensor]:
        return [image] * self.count


def joint_labels(label: Tensor, count: int) -> Tensor:
    """Labels [B] -> joint labels y * M + m of all copies, [B * M]."""
    return (label[:, None] * count + torch.arange(count, device=label.device)).flatten()


def matching_scores(joint: Tensor, count: int) -> Tensor:
    """Joint scores [B * M, N * M] -> [B, M, N]: what copy m says of the pairs (class, m)."""
    scores = joint.unflatten(1, (-1, count)).unflatten(0, (-1, count))  # [B, M (copy), N, M (label)]
    return scores.diagonal(dim1=1, dim2=3).transpose(1, 2)


def aggregated_scores(joint: Tensor, count: int) -> Tensor:
    """s_i = (1/M) sum_m W f(t_m x)_{i, m}: joint scores [B * M, N * M] -> class scores [B, N]. A mean of scores, not of
    probabilities; nothing is normalised before."""
    return matching_scores(joint, count).mean(1)


def class_log_probabilities(joint: Tensor, count: int) -> Tensor:
    """Joint scores [R, N * M] -> log-probabilities [R, N] of the classes, whatever the transformation."""
    return joint.log_softmax(1).unflatten(1, (-1, count)).logsumexp(2)
