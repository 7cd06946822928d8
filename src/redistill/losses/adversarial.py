"""What a discriminator and a generator minimise: rival losses side by side, from the logits of real and of generated
rows.

A logit is high for "real". Each loss is a mean over rows; a discriminator with several heads gives [B, heads].
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor

from redistill.core.slot import Slot


class Adversarial(Slot, ABC):
    """The two sides of one game. Whose parameters move is the engine's business: it freezes networks turn by turn."""

    @abstractmethod
    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        """The discriminator's loss from its logits [B, ...] on real and on (detached) generated rows."""

    @abstractmethod
    def generator(self, fake: Tensor, real: Tensor) -> Tensor:
        """The generator's loss from the logits [B, ...] of its rows; only relativistic games look at ``real``."""


class NonSaturating(Adversarial):
    """Goodfellow et al. 2014: logistic loss; the generator minimises -log D(fake), whose gradient stays alive when D
    wins.

    At D's optimum its logit is log p_real - log p_fake, the ratio that f-distillation needs.
    """

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        return F.softplus(-real).mean() + F.softplus(fake).mean()

    def generator(self, fake: Tensor, real: Tensor | None = None) -> Tensor:
        return F.softplus(-fake).mean()


class Hinge(Adversarial):
    """Lim & Ye 2017, the loss of ADD and LADD: D stops at a margin of 1, the generator raises its logit without end."""

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        return F.relu(1 - real).mean() + F.relu(1 + fake).mean()

    def generator(self, fake: Tensor, real: Tensor | None = None) -> Tensor:
        return -fake.mean()


class Relativistic(Adversarial):
    """Jolicoeur-Martineau 2018, paired as in R3GAN (arXiv:2501.05441): row i of ``fake`` against row i of ``real``."""

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        return F.softplus(fake - real).mean()

    def generator(self, fake: Tensor, real: Tensor) -> Tensor:
        return F.softplus(real - fake).mean()


def gradient_penalty(logits: Tensor, inputs: Tensor) -> Tensor:
    """Mean over rows of ||d logit / d input||^2: R1 on real rows, R2 on generated ones (Mescheder et al. 2018).

    ``inputs`` [B, ...] must require a gradient and ``logits`` [B, ...] come from them row by row. Weigh it with gamma
    / 2.
    """
    (slope,) = torch.autograd.grad(logits.sum(), inputs, create_graph=True)
    return slope.flatten(1).square().sum(1).mean()
