"""A softmax head on frozen features, fitted to targets of any sign: a convex problem with one answer."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import logsumexp, softmax
from sklearn.exceptions import ConvergenceWarning

from redistill.core.errors import UserError

Array = np.ndarray


@dataclass(frozen=True)
class Probe:
    """``weight`` [d, C] and ``bias`` [C]."""

    weight: Array
    bias: Array

    def logits(self, features: Array) -> Array:
        """Scores [N, C] of ``features`` [N, d]."""
        return features @ self.weight + self.bias

    def probabilities(self, features: Array) -> Array:
        """softmax of the scores, [N, C]."""
        return softmax(self.logits(features), axis=1)


def probe_loss(probe: Probe, features: Array, target: Array, lam: float) -> tuple[float, Probe]:
    """mean_i [logsumexp(z_i) - <t_i, z_i>] + (lam / 2) |W|^2 and its gradient, for targets [N, C] that sum to 1 a row.

    Convex for targets of any sign; with ``lam`` = 0 a negative target may leave it unbounded below.
    """
    z = probe.logits(features)
    value = np.mean(logsumexp(z, axis=1) - (target * z).sum(1)) + 0.5 * lam * (probe.weight**2).sum()
    residual = (softmax(z, axis=1) - target) / len(z)
    return float(value), Probe(features.T @ residual + lam * probe.weight, residual.sum(0))


def fit_probe(
    features: Array, target: Array, lam: float, *, start: Probe | None = None, iterations: int | None = None
) -> Probe:
    """The minimiser of :func:`probe_loss` by L-BFGS in float64; the bias is not penalised.

    ``features`` [N, d], ``target`` [N, C]. ``start`` (instead of zeros) changes the time, not the answer;
    ``iterations`` stop early. Warns with scikit-learn's ``ConvergenceWarning`` where 2,000 do not reach the minimum.
    Raises :class:`UserError` for a penalty that is not above 0.
    """
    if not lam > 0:
        raise UserError(f"lam={lam}; give a number above 0", place="probe")
    features, target = np.asarray(features, np.float64), np.asarray(target, np.float64)
    shape = (features.shape[1] + 1, target.shape[1])
    first = np.zeros(shape) if start is None else np.vstack([start.weight, start.bias])

    def objective(flat: Array) -> tuple[float, Array]:
        value, slope = probe_loss(_unpacked(flat, shape), features, target, lam)
        return value, np.vstack([slope.weight, slope.bias]).ravel()

    most = iterations or 2000
    options = {"maxiter": most, "maxfun": 10 * most, "gtol": 1e-7, "ftol": 0.0, "maxcor": 20}
    found = minimize(objective, first.ravel(), jac=True, method="L-BFGS-B", options=options)
    if iterations is None and not found.success:
        said = f"the probe is not at its minimum ({found.message}); standardise the features"
        warnings.warn(said, ConvergenceWarning, stacklevel=2)
    return _unpacked(found.x, shape)


def _unpacked(flat: Array, shape: tuple[int, int]) -> Probe:
    stacked = flat.reshape(shape)
    return Probe(stacked[:-1], stacked[-1])
