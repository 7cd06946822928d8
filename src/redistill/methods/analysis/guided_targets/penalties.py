"""Penalties on the weights that no optimiser has as an option."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from redistill.core.errors import UserError


def sum_of_norms(module: nn.Module) -> Tensor:
    """The sum of the norms of all parameters, not squared: it pulls every one with the same force, whatever its size.

    Raises :class:`UserError` for sharded weights: a rank holds a part of each, and the parts do not add up to a norm.
    """
    weights = list(module.parameters())
    if any(isinstance(w, DTensor) for w in weights):
        raise UserError("norms of sharded weights; set plan.parallel to replicate, or penalty to 0", place="penalty")
    return torch.stack([w.norm() for w in weights]).sum()
