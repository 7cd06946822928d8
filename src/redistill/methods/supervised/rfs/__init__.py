"""RFS: an embedding network is taught, on the images of all base classes as one problem, by the frozen network of the
generation before, half labels and half softened probabilities; new classes then get a logistic regression on it.

    L = gamma CE(z_S, y) + alpha T^2 KL(softmax(z_T / T) || softmax(z_S / T)),    T <- S, S re-initialised
    new task:  argmin over W, b of sum_i CE(W f(x_i) / |f(x_i)| + b, y_i) + |W|^2 / (2 C)     (Tian, Wang et al. 2020)

Roles: student (trained: a classifier of the base classes; f is what its last linear layer reads), teacher (frozen,
evaluation mode, sees the same augmented images). Generation 0 has no teacher: ``gamma=1, alpha=0``. The network is
never tuned on a new task, and answers it in evaluation mode, so queries do not help one another.

Differs from the paper: the code's optional terms beside L (hints, attention, contrast), by default off there, are left
out; ``redistill.rivals`` has them. Crops are padded by edge pixels. The head by cosines compares a query with the mean
of each class; the released one takes the label of the nearest support row.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from redistill.core import Plan, Progress, UserError, fit
from redistill.core.method import Batch, bare_progress
from redistill.core.types import NonNegative, Positive
from redistill.methods.supervised.rfs.heads import embed, fit_logistic, unit
from redistill.models.features import classifier_layer, scores_and_embedding
from redistill.supervised.classifier import Distillation
from redistill.supervised.temperature import Constant
from redistill.vision.augmentations import Augmentation


class Rfs(Distillation):
    """One generation. Both networks see the same images (``fit(..., augment=...)`` changes them)."""

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module | None = None,
        *,
        tau: Positive = 4.0,  # T
        gamma: NonNegative = 0.5,  # weight of the labels
        alpha: NonNegative = 0.5,  # weight of the teacher
    ) -> None:
        if gamma == alpha == 0:
            raise UserError("gamma and alpha are both 0; give one above", place="rfs")
        if teacher is None and alpha:
            raise UserError("no teacher; give one, or gamma=1 and alpha=0 for generation 0", place="models.teacher")
        super().__init__(student, teacher, temperature=Constant(tau), hard_weight=gamma, soft_weight=alpha)


def generations(
    make: Callable[[int], nn.Module], data: Any, plan: Plan, count: int = 1, *, tau: float = 4.0, gamma: float = 0.5,
    alpha: float = 0.5, augment: Callable[[Batch, Progress], Batch] | None = None,
) -> list[nn.Module]:  # fmt: skip
    """``count`` + 1 networks, oldest first, frozen, in evaluation mode; each ``make(k)`` trains for the whole ``plan``.

    Which one to use is to be chosen on validation classes: neither base classes nor those of the test episodes.
    """
    networks: list[nn.Module] = []
    for k in range(count + 1):
        method = (
            Rfs(make(k), networks[-1], tau=tau, gamma=gamma, alpha=alpha)
            if networks
            else Rfs(make(k), gamma=1.0, alpha=0.0)
        )
        networks.append(fit(method, data, plan, augment=augment).student.eval().requires_grad_(False))
    return networks


class FewShot(nn.Module):
    """A classifier of new classes: a frozen copy of a network, and the logistic regression on its normalised
    embedding."""

    weight: Tensor
    bias: Tensor

    def __init__(self, network: nn.Module, weight: Tensor, bias: Tensor, head: str) -> None:
        super().__init__()
        self.network, self.head = copy.deepcopy(network).eval().requires_grad_(False), head
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)

    def forward(self, image: Tensor) -> Tensor:
        """Scores [B, N] of images [B, C, H, W]."""
        found = scores_and_embedding(self.network, self.head, image)[1]
        return nn.functional.normalize(found.to(self.weight), dim=1) @ self.weight + self.bias

    def train(self, mode: bool = True) -> FewShot:
        """Stays in evaluation mode."""
        return super().train(False)


def few_shot(
    network: nn.Module, image: Tensor, label: Tensor, *, head: str | None = None, augment: Augmentation | None = None,
    copies: int = 5, C: float = 1.0, seed: int = 0,
) -> FewShot:  # fmt: skip
    """A classifier of the classes 0..N-1 from a few images [M, C, H, W] with labels [M]; ``network`` stays as it is.

    ``augment``: the regression sees ``copies`` changed images of each instead of the images; ``head``: the layer whose
    input is the embedding, the last linear one if left out. Raises :class:`UserError` where a class has no image.
    """
    _check_support(image, label, copies)
    if augment is not None:
        image = torch.cat([augment(image, bare_progress(k, seed=seed)) for k in range(copies)])
        label = label.repeat(copies)
    head = head or classifier_layer(network)
    probe = fit_logistic(unit(embed(network, image, head=head)), np.asarray(label.cpu()), C=C)
    device = next(network.parameters()).device
    weight, bias = (torch.from_numpy(part).float().to(device) for part in (probe.weight, probe.bias))
    return FewShot(network, weight, bias, head)


def _check_support(image: Tensor, label: Tensor, copies: int) -> None:
    known = label.unique().tolist()
    if label.is_floating_point() or known != list(range(len(known))) or len(known) < 2:
        raise UserError(f"labels {known}; number two or more classes from 0, each with an image", place="label")
    if label.shape != image.shape[:1]:
        raise UserError(f"labels {tuple(label.shape)} for {len(image)} images; give one each", place="label")
    if copies < 1:
        raise UserError(f"copies={copies}; give 1 or more", place="copies")
