"""D-ODE around a denoiser of diffusers: a solver of few steps is fitted to the solver of many."""

from __future__ import annotations

from typing import Any, Literal

import torch

from redistill.core.errors import UserError, unknown
from redistill.core.source import table
from redistill.core.types import Count, CountOrZero, NonNegative, Seed, checked
from redistill.diffusion.denoiser import Denoiser, guided
from redistill.methods.generation.d_ode import fit_lambdas
from redistill.methods.generation.d_ode.schedulers import save_pipeline
from redistill.procedures.job import Job

NEEDS = ()


@checked
def run(
    job: Job,
    teacher: Denoiser,
    *,
    steps: Count = 5,  # of the fitted solver
    scale: Count = 10,  # the teacher's steps for each evaluation of the student
    solver: Literal["ddim", "dpm_solver_2m", "heun", "ipndm", "deis"] = "ddim",
    prediction: Literal["x0", "eps"] = "x0",  # the output whose differences correct; heun knows x0 alone
    batch: Count = 32,  # rows of noise to fit on
    condition: str | None = None,  # the column (classes, embeddings of texts) that conditions the network
    guidance: NonNegative = 1.0,  # 1 is none, others need condition and null
    null: CountOrZero | None = None,  # the class that says nothing
    seed: Seed = 0,  # of the noise
) -> str:
    """Fit a ``steps``-step solver around a frozen diffusers network, on one batch of noise; write its numbers and,
    where a scheduler can carry them, a pipeline."""
    source = job.sources["teacher"]
    if source is None:
        raise UserError("a solver is fitted around a denoiser; give kind: diffusers", place="models.teacher")

    denoiser = guided(teacher, guidance, condition=condition, null=null)
    told = _column(job.rows, condition, batch) if condition else None
    noise = torch.randn(batch, *source.shape, generator=torch.Generator().manual_seed(seed))
    fitted = fit_lambdas(denoiser, noise, steps, scale=scale, condition=told, solver=solver, prediction=prediction)

    file = job.file("lambdas.json")
    fitted.save(file)
    gain = 1 - fitted.after[-1] / max(fitted.before[-1], 1e-12)
    wrote = f"{file}: {100 * gain:.0f} % less error at the last mark of the fit"
    if source.pipeline is None or not fitted.linear:
        return wrote
    source.pipeline.scheduler = fitted.scheduler(denoiser)
    save_pipeline(source.pipeline, job.folder / "pipeline")
    return f"{wrote}; DiffusionPipeline.from_pretrained({str(job.folder / 'pipeline')!r}, trust_remote_code=True)"


def _column(rows: Any, name: str, count: int) -> Any:
    """``count`` entries of a column, from the first on, again and again where there are fewer rows."""
    data = table(rows)
    batch = data.__getitems__([i % len(data) for i in range(count)])
    if name not in batch:
        raise unknown("column", name, batch, place="condition")
    return batch[name]
