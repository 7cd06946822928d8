"""Born-again networks: a network of the same kind is taught by the generation before (Furlanello et al. 2018).

    L = CE(z, y) + weight KL(p_last || p),    temperature 1,    last <- the network that it made

(arXiv 1805.04770.) Roles: student (trained from new weights), the last generation (frozen); the paper's ensemble
of generations is :class:`Ensemble`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from redistill.core import Plan, fit
from redistill.core.types import NonNegative
from redistill.supervised.classifier import Classification, Distillation
from redistill.supervised.temperature import Constant


def next_generation(student: nn.Module, last: nn.Module, weight: NonNegative = 1.0) -> Distillation:
    """One generation, taught by the ``last`` one."""
    return Distillation(student, last, temperature=Constant(1.0), hard_weight=1.0, soft_weight=weight)


def born_again(make: Callable[[int], nn.Module], data: Any, plan: Plan, generations: int) -> list[nn.Module]:
    """``generations`` + 1 networks: ``make(0)`` learns the labels, ``make(k)`` labels and network k - 1. All come in
    evaluation mode, oldest first; each trains for the whole ``plan``."""
    networks = [fit(Classification(make(0)), data, plan).student.eval()]
    for k in range(1, generations + 1):
        networks.append(fit(next_generation(make(k), networks[-1]), data, plan).student.eval())
    return networks


class Ensemble(nn.Module):
    """Logarithm [B, C] of the members' mean probability: what an ensemble says, usable as a teacher's logits."""

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, *inputs: Tensor) -> Tensor:
        return torch.stack([member(*inputs).softmax(-1) for member in self.members]).mean(0).log()
