"""Self-distillation under wrong labels: a student learns its teacher's answers with a weight that may exceed 1.

Who teaches: a first model, fitted to the noisy labels. On what: the same rows. Match: squared error or cross-entropy.

    t = xi p_T + (1 - xi) y,      L = logsumexp(z) - <t, z>,  dL/dz = softmax(z) - t       (Das and Sanghavi 2023)

Above 1 the given label counts *against* the student. For ridge regression (X = U diag(s) V^T, y = X theta* + noise of
variance gamma^2, t_j = <v_j, theta*>) the weight of least estimation error has a closed form:

    xi* = sum_j s_j^2 (gamma^2 - lam t_j^2) / (s_j^2 + lam)^3
          / ( lam sum_j s_j^2 (s_j^2 t_j^2 + gamma^2) / (s_j^2 + lam)^4 )

It exceeds 1 once noise dominates and is 0 where lam is already the best one. Three ways to use it: :func:`best_weight`
(ridge), :class:`ImitationProbe` (softmax on frozen features), :func:`distil_through_noise` (any network).
Roles: teacher (frozen), student (trained, from scratch). The temperature is 1, because answers mix with labels.

Differs from the paper: the probe is fitted by L-BFGS to the end and its bias is not penalised.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import nn

from redistill.core import Plan, UserError, fit
from redistill.supervised.classifier import Classification, Distillation
from redistill.supervised.predict import predict
from redistill.supervised.probe import Probe, fit_probe
from redistill.supervised.targets import Imitation
from redistill.supervised.temperature import Constant
from redistill.theory.ridge import Truth, distil, shrinkage

Array = np.ndarray
WEIGHTS = (0.0, 0.5, 1.0, 1.25, 1.5, 2.0)


def estimation_error(truth: Truth, lam: float, xi: float = 0.0) -> float:
    """E |theta_S - theta*|^2 of the ridge student with weight ``xi`` (0: the teacher itself)."""
    h = distil(shrinkage(truth.s, lam), [xi])
    return float((((1 - h) * truth.t) ** 2 + (truth.sigma * h / truth.s) ** 2).sum())


def best_weight(truth: Truth, lam: float) -> float:
    """xi*, the weight of least :func:`estimation_error` at the penalty ``lam``: any real number."""
    square, noise = truth.s**2, truth.sigma**2
    above = (square * (noise - lam * truth.t**2) / (square + lam) ** 3).sum()
    return float(above / (lam * (square * (square * truth.t**2 + noise) / (square + lam) ** 4).sum()))


class ImitationProbe(ClassifierMixin, BaseEstimator):
    """A softmax head on features, fitted to the labels and then again to xi (its answers) + (1 - xi) (the labels).

    ``lam``: penalty lam / 2 |W|^2 beside the mean loss, in both fits. Fitted: ``teacher_`` and ``student_``.
    """

    def __init__(self, lam: float = 0.01, xi: float = 1.0) -> None:
        self.lam, self.xi = lam, xi

    def fit(self, X: Array, y: Array) -> ImitationProbe:
        """Fit to features ``X`` [n, d] and labels ``y`` [n]."""
        X, y = self._checked(X, y)
        return self._distil(X, y, fit_probe(X, self._one_hot(y), self.lam))

    def _checked(self, X: Array, y: Array) -> tuple[Array, Array]:
        X, y = validate_data(self, X, y, dtype=np.float64)
        check_classification_targets(y)
        self.classes_ = np.unique(y)
        if len(self.classes_) < 2:
            raise UserError(f"one class only, {self.classes_[0]!r}; give two or more", place="y")
        return X, y

    def _one_hot(self, y: Array) -> Array:
        return (y[:, None] == self.classes_).astype(np.float64)

    def _distil(self, X: Array, y: Array, teacher: Probe) -> ImitationProbe:
        if not math.isfinite(self.xi):
            raise UserError(f"xi={self.xi}; give a finite number", place="ImitationProbe")
        target = self.xi * teacher.probabilities(X) + (1 - self.xi) * self._one_hot(y)  # may be negative
        self.teacher_ = teacher
        self.student_ = fit_probe(X, target, self.lam, start=teacher) if self.xi else teacher
        return self

    def predict_proba(self, X: Array) -> Array:
        """The student's probabilities [N, C] for features ``X`` [N, d]."""
        check_is_fitted(self)
        return self.student_.probabilities(validate_data(self, X, dtype=np.float64, reset=False))

    def predict(self, X: Array) -> Array:
        """The student's most probable labels [N]."""
        first = self.predict_proba(X).argmax(1)
        return self.classes_[first]


def fit_imitation(
    X: Array, y: Array, X_val: Array, y_val: Array, *, lambdas: Sequence[float], weights: Sequence[float] = WEIGHTS
) -> ImitationProbe:
    """The probe whose penalty and weight give the best accuracy on validation rows, which may be noisy themselves.

    With equal noise in all classes the noisy accuracy ranks the probes as the clean one does, on average.
    ``validation_accuracy_`` holds it. Ties go to the earlier penalty and weight.
    """
    best: ImitationProbe | None = None
    for lam in lambdas:
        first = ImitationProbe(lam, 0.0).fit(X, y)
        for xi in weights:
            probe = ImitationProbe(lam, xi)
            probe._distil(*probe._checked(X, y), first.teacher_)
            probe.validation_accuracy_ = probe.score(X_val, y_val)
            if best is None or probe.validation_accuracy_ > best.validation_accuracy_:
                best = probe
    if best is None:
        raise UserError("no penalty or no weight to choose from", place="fit_imitation")
    return best


def imitate(student: nn.Module, teacher: nn.Module, xi: float) -> Distillation:
    """The method of one student for :func:`redistill.fit`: any classifier, any real ``xi``.

    With stored ``teacher_logits`` the same loss is ``Distillation(student, None, match=SoftCrossEntropy(),
    temperature=Constant(1.0), hard_weight=1 - xi, soft_weight=xi)``.
    """
    return Distillation(
        student, teacher, rectifier=Imitation(xi), temperature=Constant(1.0), hard_weight=1.0, soft_weight=0.0
    )


@dataclass(frozen=True)
class Sweep:
    """A teacher, one student a weight, and their accuracies on the held-out rows (weight 0: the teacher)."""

    teacher: nn.Module
    students: dict[float, nn.Module]
    accuracy: dict[float, float]

    @property
    def xi(self) -> float:
        """The weight of the best accuracy."""
        return max(self.accuracy, key=self.accuracy.__getitem__)

    @property
    def student(self) -> nn.Module:
        """The network of the best accuracy."""
        return self.students[self.xi]


def distil_through_noise(
    make: Callable[[int], nn.Module], data: Any, held_out: Any, plan: Plan, *, weights: Sequence[float] = WEIGHTS[1:]
) -> Sweep:
    """``make(0)`` learns the labels of ``data``, ``make(k)`` imitates it with the k-th of ``weights``; each trains for
    the whole ``plan``. ``held_out`` rows, noisy or clean, say which is best."""
    if max(weights, default=0) > 1 and plan.weight_decay == 0:
        warnings.warn("a weight above 1 without weight decay has no minimum once the rows are separable", stacklevel=2)
    teacher = fit(Classification(make(0)), data, plan).student.eval()
    students = {0.0: teacher}
    for k, xi in enumerate(weights, start=1):
        students[float(xi)] = fit(imitate(make(k), teacher, xi), data, plan).student.eval()
    return Sweep(teacher, students, {xi: accuracy(network, held_out) for xi, network in students.items()})


def accuracy(network: nn.Module, rows: Any) -> float:
    """Share of ``rows`` whose label is the network's first choice."""
    said, label = predict(network, rows)
    return float((said.argmax(1) == label).double().mean())
