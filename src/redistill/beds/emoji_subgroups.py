"""The emoji bed as a classification task: name the Unicode subgroup of a picture."""

from __future__ import annotations

from collections import Counter

import numpy as np
import torch

from redistill.beds import emoji
from redistill.beds.images import Images


def subgroups(count: int = 20, *, first: int = 0, side: int = 16) -> tuple[Images, np.ndarray]:
    """The ``count`` largest subgroups, after skipping ``first``: pictures [N, 3, side, side] (side 8, 16 or 32) of all
    artists, and the number [N] of the emoji that a picture shows (artists draw the same emoji). No picture is there
    twice: of those that agree in every pixel (two emoji, two artists) the first one stays."""
    found = emoji.load("all", 32)
    names = [name for name, _ in Counter(found.column("subgroup")).most_common(first + count)[first:]]
    found = found.take([row for row, name in enumerate(found.column("subgroup")) if name in names])
    label = np.array([names.index(name) for name in found.column("subgroup")])
    pixels = torch.nn.functional.avg_pool2d(found.image, 32 // side).numpy() / 2 + 0.5
    own = np.sort(np.unique(pixels.reshape(len(pixels), -1), axis=0, return_index=True)[1])
    code = np.unique(np.array(found.column("code"))[own], return_inverse=True)[1]
    return Images(pixels[own], label[own], count), code


def split(seed: int, count: int = 20, *shares: float, side: int = 16) -> tuple[Images, ...]:
    """Disjoint parts of the given ``shares`` and, last, the rest: no emoji is in two parts, by any artist,
    and no picture."""
    images, code = subgroups(count, side=side)
    place = np.random.default_rng(seed).permutation(code.max() + 1)[code] / (code.max() + 1)  # [N] in [0, 1)
    part = np.digitize(place, np.cumsum(shares or (0.6,)))
    return tuple(images.take(np.flatnonzero(part == k)) for k in range(len(shares or (0.6,)) + 1))
