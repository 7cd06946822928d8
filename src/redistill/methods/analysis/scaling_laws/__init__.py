"""Distillation scaling laws: how good a student of given size, tokens and teacher will be, and how to split compute.

Who teaches: a frozen model, known by its loss alone. On what: text. Match: a closed form that is fitted to runs.

    L(N, D) = E + (A / N^alpha + B / D^beta)^gamma                                  supervised; L~_S = L(N_S, D_S)
    L_S = L_T + L_T^-c0 (1 + (L_T / (L~_S d1))^(1/f1))^(-c1 f1) (A' / N_S^alpha' + B' / D_S^beta')^gamma'
    FLOPs = 3 F(N_S) D_S + F(N_T) (i D_S + 3 p D_T)      i, p in {0, 1}: teacher's inference, training are paid for

Both laws (Busbridge et al. 2025, arXiv 2502.08606) are fitted by Huber's loss on log L_predicted - log L_observed, the
supervised one first. The runs come from any source; ``language/scaling_runs.py`` makes them with small transformers.

Differs from the paper: F(N) = 2 N, without the attention term; the starts are a quasi-random grid. Single coefficients
are not identifiable: compare predictions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple, dataclass, replace
from typing import Any

import numpy as np

from redistill.core.errors import UserError, unknown
from redistill.methods.analysis.scaling_laws.fits import least_huber
from redistill.theory.scaling import CASES, PUBLISHED, DistillationLaw, Laws, SupervisedLaw, flops

Array = np.ndarray
Runs = Mapping[str, Any]  # columns N, D, loss and teacher_loss (nan: trained on the labels)
TERM, EXPONENT, OUTER = (1e-3, 30.0), (0.02, 4.0), (0.1, 2.0)  # bounds; a term is taken at the middle of the runs
LEAST = {False: 7, True: 10}  # runs without and with a teacher: one more than the law has coefficients
DIFFERENT = {"N": 2, "D": 2, "teacher_loss": 3}  # values: on fewer a law is free to say anything of the next one


def fit_supervised(
    runs: Runs, *, floor: float | None = None, delta: float = 1e-3, start: SupervisedLaw | None = None
) -> SupervisedLaw:
    """The supervised law of the runs without a teacher.

    ``floor``: E, where the entropy of the text is known. ``start``: polish this law instead of searching (bootstraps).
    """
    N, D, loss, _ = _columns(runs, taught=False, known=start is not None)
    middle = _middle(N, D)
    ends = (1e-3 * loss.min(), loss.min()) if floor is None else (floor, floor * (1 + 1e-9))
    found = least_huber(
        lambda c: _moved(SupervisedLaw(*c), middle)(N, D), loss, [ends, TERM, EXPONENT, TERM, EXPONENT, OUTER],
        delta=delta, start=start and np.array(astuple(_moved(start, 1 / middle))),
    )  # fmt: skip
    return _plain(_moved(SupervisedLaw(*found), middle))


def fit_distillation(
    runs: Runs, supervised: SupervisedLaw, *, delta: float = 1e-3, start: DistillationLaw | None = None
) -> DistillationLaw:
    """The distillation law of the runs with a teacher, once the ``supervised`` law is known."""
    N, D, loss, L_T = _columns(runs, taught=True, known=start is not None)
    middle, alone = _middle(N, D), supervised(N, D)
    shape = [(1e-3, 6.0), (0.1, 2000.0), (0.02, 2.0), (0.5, 2.0)]  # c0, c1, f1, d1
    found = least_huber(
        lambda c: _moved(DistillationLaw(*c), middle)(N, D, L_T, alone), loss,
        [TERM, EXPONENT, TERM, EXPONENT, OUTER, *shape],
        delta=delta, start=start and np.array(astuple(_moved(start, 1 / middle))),
    )  # fmt: skip
    return _plain(_moved(DistillationLaw(*found), middle))


def fit_laws(runs: Runs, *, floor: float | None = None, source: str = "fitted", start: Laws | None = None) -> Laws:
    """Both laws and the ranges of the runs behind them; the teachers' are those of the runs without a teacher."""
    supervised = fit_supervised(runs, floor=floor, start=start and start.supervised)
    distillation = fit_distillation(runs, supervised, start=start and start.distillation)
    taught, alone = (_columns(runs, taught=t) for t in (True, False))
    columns = {"N_S": taught[0], "D_S": taught[1], "N_T": alone[0], "D_T": alone[1], "L_T": taught[3]}
    return Laws(supervised, distillation, {k: (float(v.min()), float(v.max())) for k, v in columns.items()}, source)


def bootstrap(runs: Runs, laws: Laws, *, times: int = 50, seed: int = 0, floor: float | None = None) -> list[Laws]:
    """The laws of ``times`` resamples of the runs, each polished from ``laws``; both kinds of runs are drawn apart."""
    rng, taught = np.random.default_rng(seed), ~np.isnan(np.asarray(runs["teacher_loss"], float))
    rows = [np.concatenate([rng.choice(np.flatnonzero(k), k.sum()) for k in (taught, ~taught)]) for _ in range(times)]
    return [fit_laws({k: np.asarray(v)[r] for k, v in runs.items()}, floor=floor, start=laws) for r in rows]


def _columns(runs: Runs, *, taught: bool, known: bool = True) -> tuple[Array, ...]:
    """N, D, loss and teacher_loss of the runs with or without a teacher. Unless a law is ``known`` already they must
    differ enough to identify one."""
    N, D, loss, L_T = (np.asarray(runs[k], dtype=np.float64) for k in ("N", "D", "loss", "teacher_loss"))
    kept, kind = np.isnan(L_T) != taught, f"runs with{'' if taught else 'out'} a teacher"
    if kept.sum() < LEAST[taught]:
        raise UserError(f"{kept.sum()} {kind}; a fit needs {LEAST[taught]} or more", place="runs")
    chosen = tuple(c[kept] for c in (N, D, loss, L_T))
    if not all((c > 0).all() and np.isfinite(c).all() for c in chosen[: 4 if taught else 3]):
        raise UserError(f"N, D and every loss must be finite and above 0 in the {kind}", place="runs")
    for name, column in zip(DIFFERENT, chosen[:2] + chosen[3:] if taught else chosen[:2]):
        found = len(np.unique(np.log(column).round(3)))
        if found < DIFFERENT[name] and not known:
            said = f"{found} different {name} in the {kind}; a fit needs {DIFFERENT[name]} or more"
            raise UserError(said, place="runs")
    return chosen


def _middle(N: Array, D: Array) -> Array:
    return np.exp([np.log(N).mean(), np.log(D).mean()])


def _moved(law: Any, middle: Array) -> Any:
    """A law whose A and B are sizes of their terms at ``middle`` (N, D), with its own A and B; 1 / middle: back."""
    return replace(law, A=law.A * middle[0] ** law.alpha, B=law.B * middle[1] ** law.beta)


def _plain(law: Any) -> Any:
    return type(law)(*map(float, astuple(law)))


@dataclass(frozen=True)
class Split:
    """A plan: what the student reaches and what is spent, beside the same budget and size without a teacher."""

    case: str
    L_S: float
    D_S: float
    N_T: float
    D_T: float  # nan: the teacher exists already
    L_T: float
    flops: dict[str, float]
    supervised_D: float
    supervised_loss: float

    @property
    def distil(self) -> bool:
        """Whether distillation reaches the lower loss."""
        return self.supervised_loss > self.L_S


def plan(
    budget: float, N_S: float, *, case: str, laws: Laws = PUBLISHED, teacher: tuple[float, float] | None = None
) -> Split:
    """The split of ``budget`` FLOPs that gives a student of ``N_S`` parameters the least loss.

    ``case``: what of the teacher is paid for (``CASES``). ``teacher``: size and loss of one that exists; else both are
    searched, whoever pays: sizes up to the largest of the fit or ten times the student, tokens up to the most of the
    fit or those that the budget gives the student alone.

    Raises:
        UserError: an unknown case, a number that is not above 0, or an existing teacher whose training is to be paid.
    """
    if case not in CASES:
        raise unknown("case", case, CASES, place="case")
    for name, value in zip(("budget", "student", "teacher size", "teacher loss"), (budget, N_S, *(teacher or ()))):
        if not (value > 0 and np.isfinite(value)):
            raise UserError(f"{value} is not a finite number above 0; write 1e21", place=name)
    if teacher and CASES[case][1]:
        raise UserError("a teacher that exists needs no training; choose free or inference", place="case")
    N_T, D_T = (teacher[0], np.nan) if teacher else _best_teacher(budget, N_S, case, laws)
    L_T = float(teacher[1] if teacher else laws.supervised(N_T, D_T))
    D_S = float(_student_tokens(budget, N_S, N_T, D_T, case))
    alone = float(_student_tokens(budget, N_S, 1.0, 0.0, "free"))
    spent = {k: float(v) for k, v in flops(N_S, D_S, N_T, float(np.nan_to_num(D_T)), case).items()}
    return Split(case, float(laws.predict(N_S, D_S, L_T)), D_S, float(N_T), float(D_T), L_T, spent, alone,
                 float(laws.supervised(N_S, alone)))  # fmt: skip


def _student_tokens(budget: float, N_S: float, N_T: Any, D_T: Any, case: str) -> Any:
    """D_S that the rest of the budget buys; not above 0 where the teacher takes all."""
    once = flops(N_S, 1.0, N_T, np.nan_to_num(D_T), case)
    return (budget - once["teacher_training"]) / (once["student"] + once["teacher_inference"])


def _best_teacher(budget: float, N_S: float, case: str, laws: Laws, side: int = 48) -> tuple[float, float]:
    """(N_T, D_T) of least student loss: a grid in logarithms that closes in on its best point."""
    alone = float(_student_tokens(budget, N_S, 1.0, 0.0, "free"))
    (n_low, n_high), (d_low, d_high) = laws.ranges.get("N_T", (N_S, N_S)), laws.ranges.get("D_T", (alone, alone))
    low, high = (
        np.log([min(n_low, N_S / 10), min(d_low, alone) / 100]),
        np.log([max(n_high, 10 * N_S), max(d_high, alone)]),
    )
    ends = low, high
    for _ in range(8):
        n, d = (np.exp(np.linspace(a, b, side)) for a, b in zip(*ends))
        D_S = _student_tokens(budget, N_S, n[:, None], d[None], case) + 0 * d  # [side, side]
        L_T = laws.supervised(n[:, None], d[None])
        loss = np.where(D_S > 0, laws.predict(N_S, D_S.clip(1e-9), L_T), np.inf)
        i, j = np.unravel_index(np.argmin(loss), loss.shape)
        centre, half = np.log([n[i], d[j]]), 3 * (ends[1] - ends[0]) / side
        ends = np.maximum(low, centre - half), np.minimum(high, centre + half)
    return float(n[i]), float(d[j])
