"""Fitted solvers as diffusers schedulers, and pipelines with such a scheduler that plain diffusers loads."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from redistill.diffusion.solvers import extrapolate, intervals
from redistill.methods.generation.d_ode import linear_solver_scheduler
from redistill.methods.generation.d_ode.linear_solver_scheduler import LinearSolverScheduler


def linear_scheduler(
    denoiser: Any, times: Tensor, lambdas: list[float], *, prediction: str = "x0", second_order: bool = False
) -> LinearSolverScheduler:
    """The scheduler of DDIM (or, ``second_order``, of DPM-Solver++(2M)) plus ``lambdas[k]`` times the last difference.

    ``denoiser``: a :class:`Denoiser` (or a guided one); its path, kind and conventions become numbers. Each
    coefficient is what a linear map makes of 1.
    """
    inner, path = getattr(denoiser, "denoiser", denoiser), denoiser.path
    one, zero = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    rows: dict[str, list[float]] = {key: [] for key in ("timesteps", "a", "b", "p", "q", "w", "scale_input")}
    for k, t, s in intervals(times.double(), one):
        skip, out = path.to_x0(one, zero, t, inner.kind), path.to_x0(zero, one, t, inner.kind)
        keep, gain = path.jump(one, zero, t, s), path.jump(zero, one, t, s)
        ahead = extrapolate(path, times, k, one, zero) - 1 if second_order and k else zero
        noise = path.eps_from_x0(one, skip, t), path.eps_from_x0(zero, out, t)
        p, q = (skip, out) if prediction == "x0" else noise
        scale = path.scale_input(one, t) if inner.scale_input else one
        numbers = (inner.clock(t), keep + gain * skip, gain * out, p, q, lambdas[k] + gain * ahead, scale)
        for row, number in zip(rows.values(), numbers):
            row.append(float(number))
    sigma = float(path.sigma(times[0]))
    return LinearSolverScheduler(**rows, first=1 / sigma if prediction == "eps" else 0.0, init_noise_sigma=sigma)


def save_pipeline(pipeline: Any, folder: str | Path) -> None:
    """Save a diffusers pipeline whose scheduler is a :class:`LinearSolverScheduler`, with its file inside.

    ``DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)`` loads it where redistill is not installed.
    """
    folder, module = Path(folder), linear_solver_scheduler.__name__.rsplit(".", 1)[1]
    pipeline.save_pretrained(folder)
    shutil.copyfile(linear_solver_scheduler.__file__, folder / "scheduler" / f"{module}.py")
    index = json.loads((folder / "model_index.json").read_text())
    index["scheduler"] = [module, "LinearSolverScheduler"]
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
