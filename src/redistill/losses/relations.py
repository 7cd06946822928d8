"""How far the structure among a student's rows is from that among a teacher's: one number for the whole batch.

Vectors are f [B, D]; widths of student and teacher may differ, rows correspond. All of them relate rows to each other,
so they depend on how a batch is cut into micro-batches.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize, smooth_l1_loss

from redistill.core.errors import UserError
from redistill.losses.precision import in_float32


def distances(f: Tensor, eps: float = 1e-12) -> Tensor:
    """Euclidean distances [B, B], divided by the mean of those above zero.

    Differs from the released RKD: two rows that coincide are at distance 0, count in no mean and give no gradient;
    there they are 1e-6 apart and count.
    """
    squared = (f[:, None] - f[None]).square().sum(-1)
    apart = squared > eps
    d = torch.where(apart, squared, torch.ones_like(squared)).sqrt() * apart
    return d / (d.sum() / apart.sum().clamp_min(1)).clamp_min(eps)


def angles(f: Tensor) -> Tensor:
    """Cosines [B, B, B] of the angle at row i between the directions to rows j and k; 0 where two of them coincide."""
    direction = normalize(f[None] - f[:, None], dim=2)  # [i, j, D] from i to j
    return direction @ direction.transpose(1, 2)


@in_float32
def distance_relation(student: Tensor, teacher: Tensor) -> Tensor:
    """Smooth L1 between both matrices of :func:`distances`, mean over pairs (RKD-D, Park et al. 2019, equation 5)."""
    return smooth_l1_loss(distances(_rows(student, 2)), distances(_rows(teacher, 2)))


@in_float32
def angle_relation(student: Tensor, teacher: Tensor) -> Tensor:
    """Smooth L1 between both tables of :func:`angles`, mean over triples (RKD-A, Park et al. 2019, equation 8)."""
    return smooth_l1_loss(angles(_rows(student, 3)), angles(_rows(teacher, 3)))


def similarities(f: Tensor) -> Tensor:
    """Inner products [B, B], each row divided by its length (similarity-preserving KD, Tung and Mori 2019)."""
    return normalize(f @ f.T, dim=1)


@in_float32
def similarity_relation(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over pairs of the squared difference of :func:`similarities` (Tung and Mori 2019, equation 4)."""
    return (similarities(student) - similarities(teacher)).square().mean()


@in_float32
def centred_alignment(student: Tensor, teacher: Tensor) -> Tensor:
    """Linear CKA in [0, 1]: |S^T T|^2 / (|S^T S| |T^T T|) of centred columns (Kornblith et al. 2019); 1 = equal up to
    rotation, translation and scale."""
    s, t = student - student.mean(0), teacher - teacher.mean(0)
    return (s.T @ t).norm().square() / ((s.T @ s).norm() * (t.T @ t).norm()).clamp_min(1e-12)


def _rows(f: Tensor, least: int) -> Tensor:
    if len(f) < least:
        said = f"{len(f)} rows are too few to relate; give batches of {least} or more, or set drop_last: true"
        raise UserError(said, place="plan.batch_size")
    return f
