"""CS-KD: a row's answer is compared with that of another row of its class (Yun et al. 2020).

    L = CE + weight tau^2 KL(softmax(z' / tau) || softmax(z / tau)),   z' of another row, without gradient

(arXiv 2003.13964.) Roles: student (trained), which teaches itself.

Differs from the paper: the other row is the next one of the class in the batch (:func:`partners`) instead of one drawn
for the purpose, so a step costs one forward pass; a row that is alone has none.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from redistill.core import Loss, Method, Progress
from redistill.core.method import Batch
from redistill.core.types import NonNegative, Positive
from redistill.supervised.classifier import logits
from redistill.supervised.matches import Kd
from redistill.supervised.targets import cross_entropy

kd = Kd()


class ClassWise(Method):
    """The student is its own teacher, at another row of the class."""

    needs = ("label",)

    def __init__(self, student: nn.Module, *, tau: Positive = 4.0, weight: NonNegative = 1.0) -> None:
        super().__init__()
        self.student, self.tau, self.weight = student, tau, weight

    def loss(self, turn: str, batch: Batch, now: Progress) -> Loss:
        """``ce``: the labels; ``class``: the partner's answer."""
        z = logits(self.student, batch)
        pair = z.detach()[partners(batch["label"])]
        terms = {"ce": cross_entropy(z, batch["label"]), "class": self.weight * kd(z, pair, None, self.tau).mean()}
        return Loss(terms)


def partners(label: Tensor) -> Tensor:
    """For every row [B] the next row of the same class, the first one for the last; the row itself where it is
    alone."""
    order = label.argsort(stable=True)
    found = torch.arange(len(label), device=label.device)
    for rows in order.split(label.unique(return_counts=True)[1].tolist()):
        found[rows] = rows.roll(-1)
    return found
