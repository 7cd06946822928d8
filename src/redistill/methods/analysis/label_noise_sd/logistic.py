"""Logistic regression on a symmetric problem with wrong labels: two numbers describe the whole fit.

Two classes of n rows. Features have length 1; two of one class have the inner product c, two of different classes 0. In
each class a share p of the labels is flipped. By symmetry the rows of class 1 have two scores: z_g where the label was
kept, z_b where it was flipped; class 0 has the same with the other sign.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import root
from scipy.special import expit

from redistill.core.errors import UserError

Array = np.ndarray


@dataclass(frozen=True)
class FlippedPair:
    """The problem: ``n`` rows a class, share ``p`` flipped, similarity ``c``, penalty ``lam`` in
    (1/N) sum of losses + (lam / 2) |theta|^2, N = 2n, no intercept."""

    n: int
    p: float
    c: float
    lam: float

    def __post_init__(self) -> None:
        if not (self.n > 0 and 0 <= self.p <= 1 and 0 <= self.c < 1 and self.lam > 0):
            raise UserError(f"{self}: needs n > 0, p in [0, 1], c in [0, 1), lam > 0", place="logistic")

    def fit(self, target: Array) -> Array:
        """Scores (z_g, z_b) of the fit to ``target`` = (t_g, t_b), the targets of kept and flipped rows of class 1.

        theta = sum_i a_i phi_i with lam N a = t - sigma(z) and z = M a: two equations in two unknowns.
        """
        share = np.array([1 - self.p, self.p])
        gram = self.c * self.n * share + (1 - self.c) * np.eye(2)  # M

        def gap(a: Array) -> Array:
            return 2 * self.lam * self.n * a - (target - expit(gram @ a))

        def slope(a: Array) -> Array:
            s = expit(gram @ a)
            return 2 * self.lam * self.n * np.eye(2) + (s * (1 - s))[:, None] * gram

        found = root(gap, np.zeros(2), jac=slope, tol=1e-13)
        assert np.abs(gap(found.x)).max() < 1e-8, found.message
        return gram @ found.x

    def teacher(self) -> Array:
        """Scores of the fit to the labels."""
        return self.fit(np.array([1.0, 0.0]))

    def student(self, xi: float = 1.0) -> Array:
        """Scores of the fit to xi (the teacher's probabilities) + (1 - xi) (the labels)."""
        return self.fit(xi * expit(self.teacher()) + (1 - xi) * np.array([1.0, 0.0]))
