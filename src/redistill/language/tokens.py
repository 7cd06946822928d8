"""Which token positions count: masks over completions, prompts joined with completions, padded batches of rows."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from redistill.losses.precision import raised

IGNORED = -100


def pad_left(rows: Sequence[Sequence[int]], pad: int) -> tuple[Tensor, Tensor]:
    """Ids and mask [B, longest] of ragged ``rows``, filled up on the left (prompts, so that completions begin
    together).
    """
    width = max(map(len, rows))
    ids = torch.tensor([[pad] * (width - len(r)) + list(r) for r in rows])
    mask = torch.tensor([[0] * (width - len(r)) + [1] * len(r) for r in rows])
    return ids, mask


def pad_right(rows: Sequence[Sequence[int]], pad: int) -> tuple[Tensor, Tensor]:
    """Ids and mask [B, longest] of ragged ``rows``, filled up on the right (completions)."""
    width = max(map(len, rows))
    ids = torch.tensor([list(r) + [pad] * (width - len(r)) for r in rows])
    mask = torch.tensor([[1] * len(r) + [0] * (width - len(r)) for r in rows])
    return ids, mask


def until_end(ids: Tensor, ends: Sequence[int]) -> Tensor:
    """Mask [B, T] (int64) of the tokens up to and including the first of the ids ``ends``."""
    ended = torch.isin(ids, torch.tensor(ends, device=ids.device)).long()
    return ((ended.cumsum(1) - ended) == 0).long()  # [B, T]


def skip_first(mask: Tensor, count: int) -> Tensor:
    """``mask`` [B, T] of a completion without its first ``count`` valid tokens."""
    return mask * (mask.cumsum(1) > count)


def predicting(prompt: Tensor, active: Tensor) -> Tensor:
    """Where in ``[prompt; completion]`` the ``active`` [B, T] tokens are predicted: bool [B, P + T], one to the left
    of each.
    """
    rows, width = prompt.shape
    keep = torch.zeros(rows, width + active.shape[1], dtype=torch.bool, device=prompt.device)
    keep[:, width - 1 : -1] = active.bool()
    return keep


def laid_out(values: Tensor, active: Tensor) -> Tensor:
    """``values`` [N] of the ``active`` [B, T] tokens at their places, [B, T]; 0 elsewhere."""
    return values.new_zeros(active.shape).masked_scatter(active.bool(), values)


def log_prob_of(logits: Tensor, ids: Tensor) -> Tensor:
    """Log-probabilities [...] of ``ids`` [...] under ``logits`` [..., V], at least in float32."""
    logits = raised(logits)
    return logits.gather(-1, ids[..., None])[..., 0] - logits.logsumexp(-1)
