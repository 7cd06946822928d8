"""Repeated self-distillation of a ridge regression on the number columns of a table."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import numpy as np

from redistill.core.errors import UserError, unknown
from redistill.core.types import CountOrZero, Seed, ShareInside, checked
from redistill.methods.analysis.repeated_sd import fit_repeated
from redistill.procedures.job import Job

NEEDS = ("rows",)


@checked
def run(
    job: Job,
    *,
    target: str,  # the column to predict
    rounds: CountOrZero = 2,  # of self-distillation; 0 is plain ridge
    validation: ShareInside = 0.25,  # of the rows, which choose the penalty and the weights
    seed: Seed = 0,  # of the split
) -> str:
    """Ridge regression with rounds of self-distillation. Writes the linear model as JSON, with the weights ``xi`` round
    by round where rounds can play the chosen mixture ``xi_bar``."""
    columns = _finite_numbers(job.rows, target)
    names = [name for name in columns if name != target]
    halves = replace(job, rows=columns).split(validation, seed)
    used, held = ((np.stack([part[name] for name in names], 1), part[target]) for part in halves)
    if len(used[1]) < 2:
        raise UserError(f"{len(used[1])} rows to fit are too few; give more, or a smaller validation", place="data")

    models = {k: fit_repeated(*used, *held, rounds=k) for k in {0, rounds}}
    best = models[rounds]
    numbers = {
        "coefficients": dict(zip(names, best.coef_.tolist())),
        "intercept": float(best.intercept_),
        "penalty": best.lam,
        "xi_bar": list(best.xi_bar),
        "validation_mse": {k: m.validation_mse_ for k, m in models.items()},
    }
    with contextlib.suppress(UserError):
        numbers["xi"] = best.xi.tolist()
    return (
        f"{job.numbers('model.json', numbers)}: validation error {best.validation_mse_:.4g} after {rounds} rounds, "
        f"{models[0].validation_mse_:.4g} for the best plain ridge"
    )


def _finite_numbers(rows: dict[str, np.ndarray], target: str) -> dict[str, np.ndarray]:
    """The columns of numbers, ``target`` and at least one other."""
    if target not in rows:
        raise unknown("column", target, rows, place="options.target")
    columns = {name: column for name, column in rows.items() if column.dtype.kind in "fiub" and column.ndim == 1}
    if target not in columns or len(columns) == 1:
        raise UserError(f"needs numbers in {target!r} and in another column; has them in {list(columns)}", place="data")

    for name, column in columns.items():
        if not np.isfinite(column).all():
            where = int(np.flatnonzero(~np.isfinite(column))[0])
            raise UserError(f"row {where} has no number in column {name!r}; leave the row out or fill it", place="data")
    return columns
