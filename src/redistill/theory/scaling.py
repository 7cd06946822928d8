"""Scaling laws of language models and the compute they are planned with: pure functions, evaluated in logarithms.

N: parameters without embeddings, D: tokens, L: cross-entropy in nats a token. Fields and arguments may be arrays that
broadcast, so that one call evaluates many laws or many runs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

Array = np.ndarray
Number = Any  # a float or an array of them

# Case -> (is the teacher's inference paid for, is its training): who has to pay for the teacher
CASES = {"free": (0, 0), "inference": (1, 0), "training": (0, 1), "both": (1, 1)}


@dataclass(frozen=True)
class SupervisedLaw:
    """L(N, D) = E + (A / N^alpha + B / D^beta)^gamma."""

    E: Number
    A: Number
    alpha: Number
    B: Number
    beta: Number
    gamma: Number

    def __call__(self, N: Number, D: Number) -> Number:
        """Cross-entropy of a model of ``N`` parameters trained on the labels of ``D`` tokens."""
        return self.E + np.exp(self.gamma * _capacity_and_data(self, N, D))


@dataclass(frozen=True)
class DistillationLaw:
    """L_S = L_T + L_T^-c0 (1 + (L_T / (L~_S d1))^(1/f1))^(-c1 f1) (A / N_S^alpha + B / D_S^beta)^gamma.

    L~_S is what the student would reach without a teacher. All coefficients are above 0, so L_S > L_T. The middle
    factor is a power law in L_T / L~_S that breaks smoothly at d1: f1 is small and c1 f1 large, hence the logarithms.
    """

    A: Number
    alpha: Number
    B: Number
    beta: Number
    gamma: Number
    c0: Number
    c1: Number
    f1: Number
    d1: Number

    def __call__(self, N: Number, D: Number, L_T: Number, L_supervised: Number) -> Number:
        """Cross-entropy of the student: ``N`` parameters, ``D`` tokens, a teacher of loss ``L_T``."""
        broken = np.logaddexp(0, (np.log(L_T) - np.log(L_supervised) - np.log(self.d1)) / self.f1)
        size = self.gamma * _capacity_and_data(self, N, D)
        return L_T + np.exp(size - self.c0 * np.log(L_T) - self.c1 * self.f1 * broken)


def _capacity_and_data(law: SupervisedLaw | DistillationLaw, N: Number, D: Number) -> Number:
    """log(A / N^alpha + B / D^beta)."""
    return np.logaddexp(np.log(law.A) - law.alpha * np.log(N), np.log(law.B) - law.beta * np.log(D))


@dataclass(frozen=True)
class Laws:
    """Both laws, where they come from, and the ``ranges`` (N_S, D_S, N_T, D_T, L_T) of the runs behind them."""

    supervised: SupervisedLaw
    distillation: DistillationLaw
    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)
    source: str = ""

    def predict(self, N: Number, D: Number, L_T: Number) -> Number:
        """L_S of a student; the teacher enters through its loss alone, and with nan there is none."""
        alone, taught = self.supervised(N, D), ~np.isnan(L_T)
        return np.where(taught, self.distillation(N, D, np.where(taught, L_T, 1.0), alone), alone)[()]

    def outside(self, **values: float) -> list[str]:
        """What is extrapolated: a line for every value outside the range of its name."""
        told = []
        for name, value in values.items():
            low, high = self.ranges.get(name, (0.0, np.inf))
            if not low * (1 - 1e-9) <= value <= high * (1 + 1e-9):
                told.append(f"{name} = {value:.4g} is outside {low:.4g} to {high:.4g}, where the laws were fitted")
        return told


# Busbridge et al. 2025 (arXiv 2502.08606), coefficients from memory: one data set (C4), one tokenizer.
# Its range of L_T is what its own law gives for its smallest teacher at 20 tokens a parameter and for its largest.
_SUPERVISED = SupervisedLaw(E=1.220, A=3355, alpha=0.408, B=18186, beta=0.431, gamma=0.452)
PUBLISHED = Laws(
    _SUPERVISED,
    DistillationLaw(
        A=2243, alpha=0.321, B=24181, beta=0.637, gamma=0.764, c0=2.549, c1=522.6, f1=0.090, d1=1.315
    ),
    ranges={
        "N_S": (143e6, 12.6e9), "D_S": (20 * 143e6, 512e9), "N_T": (143e6, 7.75e9), "D_T": (20 * 143e6, 512e9),
        "L_T": (float(_SUPERVISED(7.75e9, 512e9)), float(_SUPERVISED(143e6, 20 * 143e6))),
    },
    source="published (arXiv 2502.08606): one data set (C4), one tokenizer, one family of decoders; not universal",
)  # fmt: skip


def forward_flops(N: Number) -> Number:
    """Operations of one forward pass a token, 2 N: attention over the context and the output layer are left out."""
    return 2 * N


def flops(N_S: Number, D_S: Number, N_T: Number, D_T: Number, case: str) -> dict[str, Number]:
    """What student, teacher's inference and teacher's training cost; a training step is three forward passes."""
    inference, training = CASES[case]
    return {
        "student": 3 * forward_flops(N_S) * D_S,
        "teacher_inference": inference * forward_flops(N_T) * D_S,
        "teacher_training": training * 3 * forward_flops(N_T) * D_T,
    }


@dataclass(frozen=True)
class CapacityGap:
    """The gap in closed form: the target is sum_i alpha_i phi_i; a learner knows the first few of the orthonormal
    phi_i and has coefficients of bounded norm. The teacher fits the target, the student the *teacher*.

    ``alpha`` [K], ``teacher_norm`` T, ``student_norm`` Q.
    """

    alpha: Array
    teacher_norm: float
    student_norm: float

    def teacher_error(self, m: int) -> float:
        """Squared error of the best fit on the first ``m`` functions."""
        return self._error(m, self._shrinkage(m))

    def student_error(self, m: int, n: int) -> float:
        """Squared error, against the target, of the best fit of that teacher on the first ``n`` functions."""
        k = min(m, n)
        taught = self._shrinkage(m)
        return self._error(k, taught * min(1.0, self.student_norm / (taught * np.linalg.norm(self.alpha[:k]))))

    def _shrinkage(self, m: int) -> float:
        """C = min(1, T / |alpha_1..m|): projection on a ball only shortens the coefficients."""
        return min(1.0, self.teacher_norm / float(np.linalg.norm(self.alpha[:m])))

    def _error(self, k: int, scale: float) -> float:
        squared = self.alpha**2
        return float((1 - scale) ** 2 * squared[:k].sum() + squared[k:].sum())
