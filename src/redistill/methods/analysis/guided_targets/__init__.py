"""Guided targets: a model is refitted round after round to a mixture of its last predictions and the true targets.

Who teaches: the fit of the round before. On what: the same rows. Match: squared error.

    f_t = argmin  alpha_t/2 |f(X) - Y|^2 + (1 - alpha_t)/2 |f(X) - Y_{t-1}|^2 + lam/2 |f|_H^2,   Y_t = f_t(X), Y_0 = Y

In the eigenbasis of the kernel Y_t = V B_t V^T Y with B_t = A ((1 - alpha_t) B_{t-1} + alpha_t), A = D (D + lam)^-1.
Without true targets (alpha = 0) B_t = A^t falls to 0; with them the rounds end in one fit with the penalty lam / alpha.
Predictions are linear in alpha_t, so its best value on held-out rows is a projection: with p_a the fit to Y and p_b the
fit to Y_{t-1},  alpha* = <Y_v - p_b, p_a - p_b> / |p_a - p_b|^2            (Borup and Andersen 2021, arXiv 2102.13088)

:class:`GuidedRidge` does this exactly; ``rounds.guided_rounds`` does it to networks, where p_a is the first network and
p_b one extra training a round. Here alpha is the weight of the *true targets*; other papers weigh the teacher.

Differs from the paper: rounds count from 1, the fit to the labels. The networks' error is a mean over classes.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from sklearn.base import BaseEstimator, MultiOutputMixin, RegressorMixin
from sklearn.metrics.pairwise import pairwise_kernels
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import nn

from redistill.core import Loss, Method, Progress, UserError
from redistill.core.method import Batch
from redistill.core.types import NonNegative, Share
from redistill.methods.analysis.guided_targets import kernel as spectral
from redistill.methods.analysis.guided_targets.penalties import sum_of_norms
from redistill.supervised.classifier import check_classes, logits
from redistill.supervised.targets import one_hot
from redistill.theory.ridge import check_targets

Array = np.ndarray
Weights = float | Sequence[float]


class GuidedRidge(MultiOutputMixin, RegressorMixin, BaseEstimator):
    """Kernel ridge regression after ``rounds`` rounds of self-distillation with the weight ``alpha`` on the targets.

    ``alpha``: one number in [0, 1], or one a round (the first is without effect). ``rounds``: from 1, plain kernel
    ridge, to ``math.inf``. ``kernel``, ``gamma``: as in scikit-learn. ``landmarks``: rows that stand for all in a
    Nystroem approximation, for more than about 20,000 rows. No intercept.
    """

    def __init__(
        self,
        lam: float = 1.0,
        alpha: Weights = 1.0,
        rounds: float = 1,
        kernel: Any = "rbf",
        gamma: float | None = None,
        landmarks: int | None = None,
        seed: int = 0,
    ) -> None:
        self.lam, self.alpha, self.rounds = lam, alpha, rounds
        self.kernel, self.gamma, self.landmarks, self.seed = kernel, gamma, landmarks, seed

    def fit(self, X: Array, y: Array) -> GuidedRidge:
        """Fit to ``X`` [n, d] and ``y`` [n] or [n, m]: one eigendecomposition, whatever the rounds."""
        X, y = validate_data(self, X, y, multi_output=True, y_numeric=True, dtype=np.float64)
        if not self.lam > 0:
            raise UserError(f"lam={self.lam}; give a number above 0", place="GuidedRidge")
        self.spectrum_ = spectral.nystroem_spectrum(X, self._between, self.landmarks, self.seed)
        self.components_ = self.spectrum_.V.T @ np.asarray(y, dtype=np.float64)  # [r] or [r, m]
        return self._settle()

    def _between(self, X: Array, Z: Array) -> Array:
        options = {} if callable(self.kernel) else {"gamma": self.gamma, "filter_params": True}
        return pairwise_kernels(X, Z, metric=self.kernel, **options)

    def _settle(self) -> GuidedRidge:
        self.mixture_ = spectral.mixture(self.spectrum_.d, self.lam, self.alpha, self.rounds)
        return self

    def spectrum(self, rounds: int) -> Array:
        """B [n] after ``rounds`` rounds with the present ``alpha``, in the order of the rising ``spectrum_.d``."""
        check_is_fitted(self)
        d = self.spectrum_.d
        if rounds == 0:
            return np.ones_like(d)
        return spectral.shrinkage(d, self.lam) * spectral.mixture(d, self.lam, self.alpha, rounds)

    def predict(self, X: Array) -> Array:
        """Predictions for ``X`` [N, d]: [N] or [N, m]."""
        check_is_fitted(self)
        return self._predict(validate_data(self, X, dtype=np.float64, reset=False), self.mixture_)

    def _predict(self, X: Array, mixture: Array) -> Array:
        basis = self.spectrum_
        directions = self._between(X, basis.rows) @ basis.across  # [N, r]
        return (directions * (mixture / (basis.d + self.lam))) @ self.components_

    def iterate(
        self, alpha: Weights | Literal["optimal"], rounds: int, X_val: Array | None = None, y_val: Array | None = None,
        *, clip: bool = True,
    ) -> GuidedRidge:  # fmt: skip
        """Go to the end of ``rounds`` rounds without another decomposition. ``"optimal"``: each round's weight is
        alpha* on the validation rows, in [0, 1] if ``clip``; ``alpha`` then holds them."""
        if isinstance(alpha, str) and alpha == "optimal":
            alpha = self._best(rounds, X_val, y_val, clip)
        return self.set_params(alpha=alpha, rounds=rounds)._settle()

    def limit(self, alpha: float) -> GuidedRidge:
        """Go to where endless rounds with ``alpha`` lead: a fit with the penalty lam / alpha (0 for alpha = 0)."""
        if alpha == 0:
            warnings.warn("without true targets endless rounds end in the zero function", stacklevel=2)
        return self.iterate(alpha, math.inf)

    def _best(self, rounds: int, X_val: Array | None, y_val: Array | None, clip: bool) -> tuple[float, ...]:
        if X_val is None or y_val is None or rounds == math.inf:
            raise UserError("the best alpha needs X_val and y_val, and a finite number of rounds", place="iterate")
        X_val, y_val = validate_data(self, X_val, y_val, multi_output=True, y_numeric=True, reset=False)
        check_targets(y_val, self.components_)
        d, alphas = self.spectrum_.d, [1.0]
        labels = self._predict(X_val, np.ones_like(d))
        while len(alphas) < rounds:
            alone = spectral.mixture(d, self.lam, [*alphas, 0.0], len(alphas) + 1)
            share = spectral.best_share(y_val, labels, self._predict(X_val, alone))
            alphas.append(min(max(share, 0.0), 1.0) if clip else share)
        return tuple(alphas)


class GuidedTargets(Method):
    """One round for a classifier: squared errors of the probabilities, from the labels and from a frozen teacher.

        L = alpha MSE(p, onehot(y)) + (1 - alpha) MSE(p, p_T) + penalty * sum over parameters |w|

    The norms are not squared, as in the authors' code. Without a ``teacher`` the labels have the whole weight.
    """

    needs = ("label",)

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module | None = None,
        *,
        alpha: Share = 0.6,  # weight of the labels
        penalty: NonNegative = 1e-4,  # weight of the norms
    ) -> None:
        super().__init__()
        self.student, self.teacher = student, teacher
        self.alpha, self.penalty = (1.0 if teacher is None else alpha), penalty

    def prepare(self, batch: Batch, now: Progress) -> Batch:
        """Add the teacher's probabilities [B, C]."""
        return batch if self.teacher is None else {**batch, "said": logits(self.teacher, batch).softmax(1)}

    def loss(self, turn: str, batch: Batch, now: Progress) -> Loss:
        """``labels``, ``teacher``: squared errors, a mean over classes; ``penalty``: norms of the parameters."""
        p = logits(self.student, batch).softmax(1)
        terms = {"labels": self.alpha * (p - one_hot(batch["label"], p)).square().mean()}
        if self.teacher is not None:
            check_classes(p, batch["said"])
            terms["teacher"] = (1 - self.alpha) * (p - batch["said"]).square().mean()
        if self.penalty:
            terms["penalty"] = self.penalty * sum_of_norms(self.student)
        return Loss(terms)
