"""A row's own partner against partners of other rows, scored by inner products of unit vectors."""

from __future__ import annotations

import math

import torch
from scipy.special import hyp0f1
from torch import Tensor
from torch.nn.functional import logsigmoid

from redistill.core.errors import UserError


def noise_contrastive(
    anchor: Tensor, positive: Tensor, negatives: Tensor, tau: float, counts: Tensor | float = 1.0
) -> Tensor:
    """-log h(u, v+) - sum over negatives of log(1 - h(u, v-)), one number [B] (Tian et al. 2020, equations 17, 18).

        h(u, v) = p / (p + m P_n),    p = e^{u.v / tau} / Z,    P_n = 1 / n

    ``anchor``, ``positive`` [B, D] and ``negatives`` [B, M, D] have length 1; ``counts`` [B, M] is 0 for a negative
    that does not count, else 1, and m [B] their sum. n rows of no common direction have Z = n E[e^{u.v / tau}], so n
    cancels.
    """
    counts = torch.as_tensor(counts).to(anchor).expand(negatives.shape[:2])
    m = counts.sum(1, keepdim=True).clamp(min=1)  # [B, 1]
    offset = m.log() + log_normaliser(1 / tau, anchor.shape[1])  # h is the sigmoid of log p - log(m P_n)
    hit = (anchor * positive).sum(-1, keepdim=True) / tau - offset  # [B, 1]
    miss = torch.einsum("bd,bmd->bm", anchor, negatives) / tau - offset
    return -logsigmoid(hit[:, 0]) - (counts * logsigmoid(-miss)).sum(-1)


def log_normaliser(kappa: float, size: int) -> float:
    """log E[e^{kappa t}], t one coordinate of a uniform point on the unit sphere in ``size`` dimensions: the confluent
    hypergeometric limit 0F1(size / 2; kappa^2 / 4). Raises :class:`UserError` where it is beyond a float."""
    mean = float(hyp0f1(size / 2, kappa**2 / 4))
    if not math.isfinite(mean):
        raise UserError(f"{1 / kappa:.2g} is too small for {size} dimensions; the usual one is 0.07", place="tau")
    return math.log(mean)
