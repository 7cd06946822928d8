"""The numbers a bed reports: distances between two samples, and how good and how honest a classifier is.

Everything is float64 numpy; arrays and CPU tensors are both welcome. Samples are rows ``[N, ...]``, flattened to
``[N, d]``.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from scipy.spatial.distance import cdist, pdist

from redistill.core.errors import UserError

Array = np.ndarray


def _rows(x: Any) -> Array:
    """``x`` as float64 rows ``[N, d]``."""
    x = np.asarray(x, dtype=np.float64)
    return x.reshape(len(x), -1)


def _pair(a: Any, b: Any, *, least: int) -> tuple[Array, Array]:
    """Both samples as rows, checked: equal width, at least ``least`` rows, finite."""
    a, b = _rows(a), _rows(b)
    if a.shape[1] != b.shape[1]:
        raise UserError(f"the two samples have {a.shape[1]} and {b.shape[1]} features; compare equal features")
    if min(len(a), len(b)) < least:
        raise UserError(f"{min(len(a), len(b))} rows are too few for this distance; give at least {least}")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise UserError("the samples hold NaN or infinity; look at what made them")
    return a, b


def _centred_factor(x: Array) -> tuple[Array, Array]:
    """Mean and R with R^T R = covariance (the triangle of a QR, so no matrix square root is needed)."""
    mean = x.mean(0)
    return mean, np.linalg.qr((x - mean) / np.sqrt(len(x) - 1), mode="r")


def frechet(a: Any, b: Any) -> float:
    """Squared Frechet distance of the Gaussians fitted to features ``[N, d]``, ``[M, d]`` (FID, Heusel et al. 2017).

    |m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^{1/2}); the last trace is the nuclear norm of R_a R_b^T, which is exact
    for singular covariances too.
    """
    a, b = _pair(a, b, least=2)
    (mean_a, r_a), (mean_b, r_b) = _centred_factor(a), _centred_factor(b)
    cross = np.linalg.norm(r_a @ r_b.T, ord="nuc")
    return float(((mean_a - mean_b) ** 2).sum() + (r_a**2).sum() + (r_b**2).sum() - 2 * cross)


class PrecisionRecall(NamedTuple):
    """``precision``: share of the fakes that look real; ``recall``: share of the reals that the fakes cover."""

    precision: float
    recall: float


def _covered(points: Array, centres: Array, k: int) -> float:
    """Share of ``points`` inside the ball of at least one centre; its radius is the distance to its k-th neighbour."""
    radius = np.partition(cdist(centres, centres), k, axis=1)[:, k]  # entry 0 of a sorted row is the centre itself
    return float((cdist(points, centres) <= radius).any(1).mean())


def precision_recall(real: Any, fake: Any, k: int = 3) -> PrecisionRecall:
    """Improved precision and recall on features ``[N, d]``, ``[M, d]`` (Kynkaanniemi et al. 2019, equation 1)."""
    real, fake = _pair(real, fake, least=k + 1)
    return PrecisionRecall(_covered(fake, real, k), _covered(real, fake, k))


def mmd(a: Any, b: Any, bandwidth: float | None = None) -> float:
    """Unbiased squared maximum mean discrepancy with the kernel exp(-|x-y|^2 / 2h^2) (Gretton et al. 2012, equation 3).

    ``bandwidth`` h defaults to the median distance inside ``a``: give the reference first, so that several ``b`` share
    one kernel. Being unbiased it scatters around zero, also below, when the two distributions are equal.
    """
    a, b = _pair(a, b, least=2)
    within_a, within_b = pdist(a, "sqeuclidean"), pdist(b, "sqeuclidean")
    h2 = bandwidth**2 if bandwidth is not None else np.median(within_a)
    if not h2 > 0:
        raise UserError("the kernel's bandwidth is 0 (half of the pairs in the reference are equal); pass bandwidth=")
    mean_kernel = [np.exp(-d2 / (2 * h2)).mean() for d2 in (within_a, within_b, cdist(a, b, "sqeuclidean"))]
    return float(mean_kernel[0] + mean_kernel[1] - 2 * mean_kernel[2])


def _wasserstein2_sorted(a: Array, b: Array) -> Array:
    """Exact squared W2 between the columns of two sorted tables ``[N, P]``, ``[M, P]``; N and M may differ."""
    n, m = len(a), len(b)
    edges = np.union1d(np.arange(1, n + 1) * m, np.arange(1, m + 1) * n)  # levels times n m: integers
    share = np.diff(edges, prepend=0) / (n * m)
    return share @ (a[(edges - 1) // m] - b[(edges - 1) // n]) ** 2  # [P]


def sliced_wasserstein(a: Any, b: Any, projections: int = 128, seed: int = 0) -> float:
    """Sliced 2-Wasserstein distance: root mean squared W2 of projections on random directions (Bonneel et al. 2015)."""
    a, b = _pair(a, b, least=1)
    directions = np.random.default_rng(seed).standard_normal((a.shape[1], projections))
    directions /= np.linalg.norm(directions, axis=0)
    squared = _wasserstein2_sorted(np.sort(a @ directions, axis=0), np.sort(b @ directions, axis=0))
    return float(np.sqrt(squared.mean()))


# ---- classifiers: probabilities [N, C], labels [N] ----


def _classified(probabilities: Any, labels: Any) -> tuple[Array, Array]:
    """Checked ``probabilities`` [N, C] (rows sum to 1) and integer ``labels`` [N]."""
    p, y = np.asarray(probabilities, dtype=np.float64), np.asarray(labels)
    if p.ndim != 2 or y.shape != p.shape[:1] or len(p) == 0:
        raise UserError(f"probabilities {p.shape} and labels {y.shape} do not fit; give [N, C] and [N]")
    if not np.allclose(p.sum(1), 1, atol=1e-4):
        raise UserError("the rows of the probabilities do not sum to 1; apply softmax to logits first")
    return p, y


def accuracy(probabilities: Any, labels: Any) -> float:
    """Share of rows whose most probable class is the label."""
    p, y = _classified(probabilities, labels)
    return float((p.argmax(1) == y).mean())


def nll(probabilities: Any, labels: Any) -> float:
    """Mean of -log p(label), in nats (infinite if a label has probability 0)."""
    p, y = _classified(probabilities, labels)
    with np.errstate(divide="ignore"):
        return float(-np.log(p[np.arange(len(y)), y]).mean())


def ece(probabilities: Any, labels: Any, bins: int = 10) -> float:
    """Expected calibration error with equal-width bins of the top probability (Guo et al. 2017, equation 3)."""
    p, y = _classified(probabilities, labels)
    confidence, correct = p.max(1), p.argmax(1) == y
    bin_of = np.minimum((confidence * bins).astype(int), bins - 1)  # confidence 1 belongs to the last bin
    gap = np.bincount(bin_of, weights=correct - confidence, minlength=bins)
    return float(np.abs(gap).sum() / len(y))


def _risk_coverage(errors: Array) -> float:
    """Mean over the coverages 1/N .. N/N of the error rate among the rows kept, rows in order of falling confidence."""
    return float((np.cumsum(errors) / np.arange(1, len(errors) + 1)).mean())


def aurc(probabilities: Any, labels: Any) -> float:
    """Area under the risk-coverage curve, confidence = top probability (Geifman et al. 2019).

    Rows of equal confidence share their mean error, so the order of the rows does not matter.
    """
    p, y = _classified(probabilities, labels)
    _, group, size = np.unique(-p.max(1), return_inverse=True, return_counts=True)
    mean_error = np.bincount(group, weights=p.argmax(1) != y) / size
    return _risk_coverage(np.repeat(mean_error, size))


def e_aurc(probabilities: Any, labels: Any) -> float:
    """AURC minus the least that a ranking of the same errors can have: 0 when every error ranks below every hit."""
    p, y = _classified(probabilities, labels)
    return aurc(p, y) - _risk_coverage(np.sort((p.argmax(1) != y).astype(np.float64)))


def classification(probabilities: Any, labels: Any) -> dict[str, float]:
    """``accuracy``, ``nll`` and ``ece`` of a classifier together."""
    return {f.__name__: f(probabilities, labels) for f in (accuracy, nll, ece)}
