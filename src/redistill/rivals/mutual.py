"""DML: K peers learn the labels and each other's answers, in turn on the same batch (Zhang et al. 2018).

    L_k = CE(z_k, y) + weight mean over l != k of KL(p_l || p_k),   p_l without gradient, as peer l answers now

(arXiv 1706.00384.) Roles: student and peers, all trained, each in a turn of its own.

Differs from the paper: a peer that teaches is in evaluation mode.
"""

from __future__ import annotations

import torch
from torch import nn

from redistill.core import Loss, Method, Progress, UserError
from redistill.core.method import Again, Batch
from redistill.core.types import NonNegative
from redistill.supervised.classifier import logits
from redistill.supervised.matches import Kd
from redistill.supervised.targets import cross_entropy

kd = Kd()


class MutualLearning(Method):
    """``student`` is the first peer; all train, the student is what comes out."""

    needs = ("label",)

    def __init__(self, student: nn.Module, *peers: nn.Module, weight: NonNegative = 1.0) -> None:
        super().__init__()
        self.weight = weight
        if not peers:
            raise UserError("mutual learning needs two peers or more", place="models")
        self.student = student
        names = ["student"] + [f"peer{k}" for k in range(1, len(peers) + 1)]
        for name, peer in zip(names[1:], peers):
            self.add_module(name, peer)
        self.trains = {name: [name] for name in names}  # type: ignore[misc]

    def turns(self, now: Progress) -> tuple[str, ...]:
        """The student draws the batch, its peers learn from the same one."""
        first, *others = self.trains
        return (first, *map(Again, others))

    def loss(self, turn: str, batch: Batch, now: Progress) -> Loss:
        """``ce``: the labels; ``peers``: mean divergence from the others."""
        z = logits(self.get_submodule(turn), batch)
        with torch.no_grad():
            others = [logits(self.get_submodule(name), batch) for name in self.trains if name != turn]
        parts = [kd(z, other, None, 1.0).mean() for other in others]
        return Loss(
            {"ce": cross_entropy(z, batch["label"]), "peers": self.weight * sum(parts[1:], parts[0]) / len(parts)}
        )
