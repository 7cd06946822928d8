"""CRD: a student's embedding of a row is told from the teacher's embeddings of other rows, and the other way round.

    L = CE + contrast_weight (NCE(u_S(x_i); V_T) + NCE(u_T(x_i); V_S)),
    V[i] <- unit(momentum V[i] + (1 - momentum) u(x_i))

Roles: student (trained), two linear embeddings u of unit length (trained), teacher (frozen). V are memory banks of one
row a training row, read with the row's number; negatives are drawn from all rows, those of the same class left out
(Tian, Krishnan and Isola 2020, arXiv 1910.10699).

Differs from the paper's code: the constant Z is that of random directions in closed form instead of an estimate from
the first batch, and a negative of the same class is skipped instead of drawn again; m counts those that are left. A
row's class is known from its first batch on; until then the row is a random direction in the bank, and a negative.
"""

from __future__ import annotations

import math

import torch
from scipy.special import hyp0f1
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, normalize

from redistill.core import Loss, Progress, UserError
from redistill.core.method import Batch
from redistill.core.types import Count, NonNegative, Positive, Share
from redistill.supervised.features import BesideFeatures
from redistill.supervised.layers import pooled, width
from redistill.supervised.targets import check_fits

UNSEEN = -1  # class of a bank row that no batch has held yet


class ContrastiveDistillation(BesideFeatures):
    """Contrastive representation distillation between one layer of each network, usually the last before the head."""

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        *,
        layer: str,
        input_shape: list[Count],  # of one row
        rows: Count,  # size of the training set
        teacher_layer: str | None = None,  # where the teacher's name differs
        size: Count = 128,  # of the space that both are compared in
        negatives: Count = 256,  # m, drawn for every row and step (the paper: 16,384)
        tau: Positive = 0.07,
        momentum: Share = 0.5,  # of the bank
        contrast_weight: NonNegative = 0.8,
    ) -> None:
        super().__init__(
            student, teacher, [layer], [teacher_layer or layer], input_shape, hard_weight=1.0, soft_weight=0.0
        )
        log_normaliser(1 / tau, size)  # refuses one that is too small before any step
        self.negatives, self.tau, self.momentum, self.contrast_weight = negatives, tau, momentum, contrast_weight
        self.train_beside("embeddings", nn.ModuleList(nn.Linear(width(shape), size) for shape in self.shapes[0]))
        self.banks: Tensor
        self.classes: Tensor
        random = torch.randn(2, rows, size, generator=torch.Generator().manual_seed(0))
        self.register_buffer("banks", normalize(random, dim=-1))  # [student and teacher, rows, size]
        self.register_buffer("classes", torch.full((rows,), UNSEEN))

    def compare(self, student: list[Tensor], teacher: list[Tensor], batch: Batch, now: Progress) -> Loss:
        """``contrast``: both directions."""
        index, label = batch["index"], batch["label"]
        anchors = [normalize(e(pooled(f)), dim=1) for e, f in zip(self.embeddings, (student[0], teacher[0]))]
        drawn = now.randint(0, len(self.classes), len(index), self.negatives)  # [B, m]
        counts = (self.classes[drawn] != label[:, None]) & (drawn != index[:, None])  # unseen: a random direction
        parts = [
            noise_contrastive(anchor, bank[index], bank[drawn], self.tau, counts)
            for anchor, bank in zip(anchors, self.banks.flip(0).to(anchors[0]))  # each meets the other's bank
        ]
        gather = {"index": index, "label": label, "embedded": torch.stack(anchors, 1).detach()}  # [B, 2, size]
        return Loss({"contrast": self.contrast_weight * (parts[0] + parts[1]).mean()}, gather=gather)

    def after(self, turn: str, stats: dict[str, Tensor], now: Progress) -> None:
        """Move the banks' rows of this batch towards what the networks say now."""
        index, fresh = stats["index"], stats["embedded"].transpose(0, 1).to(self.banks)
        self.banks[:, index] = normalize(self.momentum * self.banks[:, index] + (1 - self.momentum) * fresh, dim=-1)
        self.classes[index] = stats["label"]

    def check(self, batch: Batch) -> None:
        """Also refuse a row that the banks have no place for."""
        super().check(batch)
        check_fits(batch["index"], len(self.classes), "rows")


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
