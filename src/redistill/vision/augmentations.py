"""Random changes of training images that keep their class, drawn row by row from the run's own random numbers."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from redistill.core import Progress, Slot
from redistill.core.method import Batch
from redistill.core.types import CountOrZero, ShareBelow1


class Augmentation(Slot):
    """Images [B, C, H, W] -> changed images of the same shape; every row has its own random numbers from ``now``."""

    def __call__(self, image: Tensor, now: Progress) -> Tensor:
        raise NotImplementedError

    def rows(self, batch: Batch, now: Progress) -> Batch:
        """``batch`` with its ``image`` changed: what ``fit(..., augment=...)`` takes."""
        return {**batch, "image": self(batch["image"], now)}


class CropFlipJitter(Augmentation):
    """A crop of the image padded by pixels of its edge, mirrored half of the time, with brightness, contrast and (of
    three channels) saturation multiplied by factors from 1 - ``jitter`` to 1 + ``jitter``.
    """

    def __init__(
        self,
        border: CountOrZero = 4,  # pixels added at each edge before the crop
        flip: bool = True,  # mirror half of the images
        jitter: ShareBelow1 = 0.0,  # of brightness, contrast and saturation
    ) -> None:
        self.border, self.flip, self.jitter = border, flip, jitter

    def __call__(self, image: Tensor, now: Progress) -> Tensor:
        image = shifted(image, now.randint(0, 2 * self.border + 1, len(image), 2), self.border)
        if self.flip:
            mirrored = now.rand(len(image)).to(image.device) < 0.5
            image = torch.where(mirrored[:, None, None, None], image.flip(-1), image)
        if self.jitter:
            factors = 1 + self.jitter * (2 * now.rand(len(image), 3) - 1)
            image = coloured(image, factors.to(image))
        return image


def shifted(image: Tensor, offset: Tensor, border: int) -> Tensor:
    """Crops of the size of ``image`` [B, C, H, W] from the image padded by ``border`` pixels of its edge; ``offset``
    [B, 2] in 0..2 border: the crop's upper left corner, ``border`` for the image itself."""
    count, channels, height, width = image.shape
    padded = pad(image, (border,) * 4, mode="replicate")
    offset = offset.to(image.device)
    down = offset[:, :1] + torch.arange(height, device=image.device)  # [B, H]
    across = offset[:, 1:] + torch.arange(width, device=image.device)  # [B, W]
    rows = torch.arange(count, device=image.device)[:, None, None, None]
    channel = torch.arange(channels, device=image.device)[:, None, None]
    return padded[rows, channel, down[:, None, :, None], across[:, None, None, :]]


def coloured(image: Tensor, factors: Tensor) -> Tensor:
    """Brightness, contrast and saturation of images [B, C, H, W] multiplied by ``factors`` [B, 3]: towards black, the
    image's mean and its grey copy. Images of other than three channels have no saturation."""
    brightness, contrast, saturation = factors[:, :, None, None, None].unbind(1)
    image = image * brightness
    mean = image.mean((1, 2, 3), keepdim=True)
    image = mean + contrast * (image - mean)
    if image.shape[1] != 3:
        return image
    grey = image.mean(1, keepdim=True)
    return grey + saturation * (image - grey)
