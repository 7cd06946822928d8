"""What a trained classifier says about rows that it does not learn from."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from redistill.core import UserError
from redistill.core.modes import evaluating
from redistill.core.source import table
from redistill.supervised.classifier import logits


@torch.no_grad()
def predict(network: nn.Module, data: Any, *, batch_size: int = 256) -> tuple[Tensor, Tensor]:
    """Probabilities [N, C] and labels [N] of all rows of ``data`` (as :func:`redistill.core.fit` takes them), on the
    CPU in float64. The network answers in evaluation mode, where it lies, and is left in the mode it was in."""
    rows, device = table(data), next(network.parameters()).device
    if len(rows) == 0 or "label" not in rows.__getitems__([0]):
        raise UserError("held-out rows need a 'label' each, and at least one row", place="held_out")

    probabilities, labels = [], []
    with evaluating(network):
        for part in torch.arange(len(rows)).split(batch_size):
            batch = rows.__getitems__(part.tolist())
            on_device = {name: value.to(device) for name, value in batch.items() if isinstance(value, Tensor)}
            probabilities.append(logits(network, on_device).double().softmax(1).cpu())
            labels.append(batch["label"].cpu())
    return torch.cat(probabilities), torch.cat(labels)
