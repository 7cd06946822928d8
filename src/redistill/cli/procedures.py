"""Systems that do not train, as a recipe runs them: positional networks, keyword options, and by name what ``run``
fills in (``rows``, ``plan``, ``folder``, ``sources``). Each writes into ``folder`` and says what it wrote."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any, Literal

import numpy as np

from redistill.core.errors import UserError, unknown


def d_ode(
    teacher: Any,
    *,
    folder: Path,
    sources: dict[str, Any],
    rows: Any = None,
    steps: int = 5,
    scale: int = 10,
    solver: Literal["ddim", "dpm_solver_2m", "heun"] = "ddim",
    prediction: Literal["x0", "eps"] = "x0",
    batch: int = 32,
    condition: str | None = None,
    guidance: float = 1.0,
    null: int | None = None,
    seed: int = 0,
) -> str:
    """Fit a ``steps``-step solver around a frozen diffusers network, on one batch of noise; write its numbers and,
    where a scheduler can carry them, a pipeline. ``condition``: the column of the data (classes, embeddings of texts)
    that conditions the network; ``guidance`` needs ``null``, the class that says nothing."""
    import torch

    from redistill.diffusion.denoiser import guided
    from redistill.methods.generation.d_ode import fit_lambdas
    from redistill.methods.generation.d_ode.schedulers import save_pipeline

    if batch < 1:
        raise UserError(f"{batch} rows of noise fit nothing; give at least 1", place="batch")
    if sources["teacher"] is None:
        raise UserError("a solver is fitted around a denoiser; give kind: diffusers", place="models.teacher")
    source, teacher = sources["teacher"], guided(teacher, guidance, condition=condition, null=null)
    told = _column(rows, condition, batch) if condition else None
    noise = torch.randn(batch, *source.shape, generator=torch.Generator().manual_seed(seed))
    fitted = fit_lambdas(teacher, noise, steps, scale=scale, condition=told, solver=solver, prediction=prediction)
    folder.mkdir(parents=True, exist_ok=True)
    fitted.save(folder / "lambdas.json")
    gain = 1 - fitted.after[-1] / max(fitted.before[-1], 1e-12)
    said = f"{folder / 'lambdas.json'}: {100 * gain:.0f} % less error at the last mark of the fit"
    if source.pipeline is None or solver == "heun" or (solver, prediction) == ("dpm_solver_2m", "eps"):
        return said
    source.pipeline.scheduler = fitted.scheduler(teacher)
    save_pipeline(source.pipeline, folder / "pipeline")
    return f"{said}; DiffusionPipeline.from_pretrained({str(folder / 'pipeline')!r}, trust_remote_code=True)"


def _column(rows: Any, name: str, count: int) -> Any:
    """``count`` entries of a column, from the first on, again and again where there are fewer rows."""
    from redistill.core.source import table

    data = table(rows)
    found = data.__getitems__([i % len(data) for i in range(count)])
    if name not in found:
        raise unknown("column", name, found, place="condition")
    return found[name]


def repeated_sd(
    *, rows: dict[str, np.ndarray], folder: Path, target: str, rounds: int = 2, validation: float = 0.25, seed: int = 0
) -> str:
    """Ridge regression with ``rounds`` of self-distillation on the number columns of a table; ``validation`` of the
    rows choose the penalty and the weights. Writes the linear model as JSON, with the weights ``xi`` round by round
    where rounds can play the chosen mixture ``xi_bar``."""
    from redistill.cli.classifier_procedures import halves
    from redistill.methods.analysis.repeated_sd import fit_repeated

    if target not in rows:
        raise unknown("column", target, rows, place="options.target")
    columns = {name: column for name, column in rows.items() if column.dtype.kind in "fiub" and column.ndim == 1}
    names = [name for name in columns if name != target]
    if not names or target not in columns:
        raise UserError(f"needs numbers in {target!r} and in another column; has them in {list(columns)}", place="data")
    for name, column in columns.items():
        if not np.isfinite(column).all():
            where = int(np.flatnonzero(~np.isfinite(column))[0])
            raise UserError(f"row {where} has no number in column {name!r}; leave the row out or fill it", place="data")
    used, held = (
        (np.stack([part[name] for name in names], 1), part[target]) for part in halves(columns, validation, seed)
    )
    if len(used[1]) < 2:
        raise UserError(f"{len(used[1])} rows to fit are too few; give more, or a smaller validation", place="data")
    models = {k: fit_repeated(*used, *held, rounds=k) for k in {0, rounds}}
    best = models[rounds]
    folder.mkdir(parents=True, exist_ok=True)
    numbers = {
        "coefficients": dict(zip(names, best.coef_.tolist())), "intercept": float(best.intercept_), "penalty": best.lam,
        "xi_bar": list(best.xi_bar), "validation_mse": {k: m.validation_mse_ for k, m in models.items()},
    }  # fmt: skip
    with contextlib.suppress(UserError):
        numbers["xi"] = best.xi.tolist()
    (folder / "model.json").write_text(json.dumps(numbers, indent=1) + "\n")
    return (
        f"{folder / 'model.json'}: validation error {best.validation_mse_:.4g} after {rounds} rounds, "
        f"{models[0].validation_mse_:.4g} for the best plain ridge"
    )
