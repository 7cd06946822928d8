"""D-ODE solvers: a fine solver teaches a coarse one around the same frozen network, one scalar a step, in closed form.

    x+ = base step;  x_{i+1} = x+ + lambda_i (O_i - O_{i-1});  lambda_i = <dO, X*_{i+1} - x+> / <dO, dO>

O: the network's outputs along the student's own corrected path (x0 = data prediction, eps = noise prediction). X*:
states of a DDIM run with ``scale`` times more steps from the same noise. <,> pools the whole batch and all pixels.
Differences of outputs weigh zero in sum, so lambda adds a learned second-order (Adams-like) term without changing the
size of the update. With Heun every evaluation has its own lambda. arXiv 2309.16421, section 3.

Roles: the denoiser (frozen, guided or not) is both; only ``lambdas`` is fitted, on one batch of noise, and costs
nothing later.

Differs from the paper: teacher and student marks lie at the same noise level (every coarse interval is subdivided);
the released code builds both Karras grids from the formula, where they do not (``marks="reference"``). Where dO
vanishes lambda is 0 instead of a quotient of rounding errors.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path as File
from typing import Any

import torch
from torch import Tensor

from redistill.core.errors import UserError, unknown
from redistill.diffusion.solvers import SOLVERS, ddim, subdivide

PREDICTIONS = {"ddim": ("x0", "eps"), "dpm_solver_2m": ("x0", "eps"), "heun": ("x0",)}
"""Base solver -> the outputs whose differences may correct it."""


@dataclass(frozen=True)
class DOde:
    """A fitted sampler: ``lambdas`` with everything that they belong to. ``before`` and ``after``: RMS errors to the
    marks at fitting.
    """

    lambdas: tuple[float, ...]
    times: tuple[float, ...]
    solver: str
    prediction: str
    kind: str
    path: dict[str, Any]
    guidance: float
    scale: int
    marks: str
    before: tuple[float, ...] = ()
    after: tuple[float, ...] = ()

    @torch.no_grad()
    def sample(self, denoiser: Any, noise: Tensor, *, condition: Any = None) -> Tensor:
        """Samples from standard normal ``noise`` [B, ...] in as many evaluations as the base solver; float64."""
        self.check(denoiser)
        times = torch.tensor(self.times, dtype=torch.float64)
        return _run(
            self.solver,
            self.prediction,
            denoiser,
            noise,
            times,
            condition,
            lambda k, x, delta: x + self.lambdas[k] * delta,
        )

    def check(self, denoiser: Any, steps: int | None = None) -> None:
        """Refuse a denoiser (or a number of steps) that these lambdas were not fitted for."""
        asked = _belongs(denoiser) | {"steps": len(self.times) - 1 if steps is None else steps}
        fitted = {"kind": self.kind, "path": self.path, "guidance": self.guidance, "steps": len(self.times) - 1}
        wrong = [f"{key} {fitted[key]!r}, not {asked[key]!r}" for key in fitted if fitted[key] != asked[key]]
        if wrong:
            raise UserError(
                f"these lambdas were fitted for {'; '.join(wrong)}; fit them again (fit_lambdas)", place="DOde"
            )

    def save(self, file: str | File) -> None:
        """Write everything as JSON."""
        File(file).write_text(json.dumps({"format": "redistill.d_ode.1", **asdict(self)}, indent=2) + "\n")

    @classmethod
    def load(cls, file: str | File, denoiser: Any, steps: int | None = None) -> DOde:
        """Read what :meth:`save` wrote, for this ``denoiser`` and number of ``steps``; a mismatch is refused."""
        try:
            stored = json.loads(File(file).read_text())
            fitted = cls(**{f.name: _frozen(stored[f.name]) for f in fields(cls)})
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"not a file of fitted lambdas ({type(error).__name__}: {error})", place=str(file)
            ) from None
        fitted.check(denoiser, steps)
        return fitted


@torch.no_grad()
def fit_lambdas(
    denoiser: Any,
    noise: Tensor,
    steps: int,
    *,
    scale: int = 10,
    condition: Any = None,
    solver: str = "ddim",
    prediction: str = "x0",
    grid: str = "uniform",
    start: float = 1.0,
    marks: str = "subdivided",
    floor: float = 1e-6,
) -> DOde:
    """Fit the lambdas of a ``steps``-step ``solver`` on one batch of standard normal ``noise`` [B, ...] (16 to 64 rows
    suffice).

    ``scale``: teacher steps per student evaluation. ``prediction``: "x0" or "eps" (Heun: "x0"). ``grid``, ``start``:
    :meth:`Path.grid`. ``marks``: "subdivided" or "reference". ``floor``: lambda is 0 where rms(dO) <= floor * rms(x+).
    Cost: one teacher and one student run.
    """
    _valid(solver, prediction, marks, scale)
    path, x = denoiser.path, denoiser.path.prior(noise.double(), start)
    times = path.grid(steps, grid, start=start)
    count = 2 * steps - 1 if solver == "heun" else steps
    targets = MARKS[marks](denoiser, x, times, condition, count, scale, grid=grid, start=start)
    lambdas, before, after = [0.0] * count, [0.0] * count, [0.0] * count

    def correct(k: int, x: Tensor, delta: Tensor) -> Tensor:
        missing = targets[k].to(x.device) - x
        lambdas[k] = least_squares(delta, missing, floor * rms(x))
        before[k], after[k] = rms(missing), rms(missing - lambdas[k] * delta)
        return x + lambdas[k] * delta

    _run(solver, prediction, denoiser, noise, times, condition, correct)
    numbers = {
        "lambdas": tuple(lambdas),
        "before": tuple(before),
        "after": tuple(after),
        "times": tuple(times.tolist()),
    }
    return DOde(solver=solver, prediction=prediction, scale=scale, marks=marks, **numbers, **_belongs(denoiser))


def least_squares(delta: Tensor, missing: Tensor, floor: float = 0.0) -> float:
    """The scalar that minimises |missing - scalar * delta|^2 over everything, in float64; 0 where rms(delta) <=
    ``floor``.
    """
    delta, missing = delta.double(), missing.double()
    return 0.0 if rms(delta) <= floor else float((delta * missing).sum() / delta.square().sum())


def rms(x: Tensor) -> float:
    """Root mean square over all entries."""
    return float(x.double().square().mean().sqrt())


def _run(
    solver: str, prediction: str, denoiser: Any, noise: Tensor, times: Tensor, condition: Any, correct: Callable
) -> Tensor:
    """The corrected student: ``correct(k, x+, dO) -> x`` after every evaluation that has a predecessor."""
    path = denoiser.path
    x = path.prior(noise.double(), float(times[0]))
    last = {
        "x": x,
        "output": x / path.sigma(times[0]) if prediction == "eps" else None,
    }  # first eps difference: eps_0 - x_T

    def callback(k: int, plus: Tensor, x0: Tensor) -> Tensor:
        output = x0 if prediction == "x0" else path.eps_from_x0(last["x"], x0, times[k])
        corrected = plus if last["output"] is None else correct(k, plus, output - last["output"])
        last.update(x=corrected, output=output)
        return corrected

    return SOLVERS[solver](denoiser, x, times, condition=condition, callback=callback)


def _states(denoiser: Any, x: Tensor, times: Tensor, condition: Any, every: int) -> list[Tensor]:
    """States of the teacher (DDIM) after each ``every`` steps, kept on the CPU."""
    kept: list[Tensor] = []
    ddim(
        denoiser,
        x,
        times,
        condition=condition,
        callback=lambda i, x, _: kept.append(x.cpu()) if (i + 1) % every == 0 else None,
    )
    return kept


def _subdivided_marks(
    denoiser: Any, x: Tensor, times: Tensor, condition: Any, count: int, scale: int, **_: Any
) -> list[Tensor]:
    """A target for each lambda, at the very noise level that its step arrives at."""
    twice = count >= len(times)  # Heun: both lambdas of a step aim at its end
    parts = scale * (1 + twice)
    states = _states(denoiser, x, subdivide(times, parts), condition, parts)
    return [states[k // (1 + twice)] for k in range(count)]


def _reference_marks(
    denoiser: Any, x: Tensor, times: Tensor, condition: Any, count: int, scale: int, *, grid: str, start: float
) -> list[Tensor]:
    """The released code's targets: every ``scale``-th state on the path's own grid of ``scale * count`` steps."""
    return _states(denoiser, x, denoiser.path.grid(scale * count, grid, start=start), condition, scale)


MARKS = {"subdivided": _subdivided_marks, "reference": _reference_marks}


def _belongs(denoiser: Any) -> dict[str, Any]:
    """What lambdas depend on besides the weights: prediction kind, path and guidance weight."""
    path = {"name": type(denoiser.path).__name__, **_settings(denoiser.path)}
    return {"kind": denoiser.kind, "path": path, "guidance": float(getattr(denoiser, "scale", 1.0))}


def _settings(path: Any) -> dict[str, Any]:
    return {k: v for k, v in vars(path).items() if isinstance(v, (int, float, str)) and not k.startswith("_")}


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _valid(solver: str, prediction: str, marks: str, scale: int) -> None:
    if solver not in PREDICTIONS:
        raise unknown("solver", solver, PREDICTIONS, place="fit_lambdas")
    if prediction not in PREDICTIONS[solver]:
        raise unknown(f"prediction of {solver}", prediction, PREDICTIONS[solver], place="fit_lambdas")
    if marks not in MARKS:
        raise unknown("marks", marks, MARKS, place="fit_lambdas")
    if scale < 1:
        raise UserError(
            f"scale={scale}: the teacher needs at least as many steps as the student (scale >= 1)", place="fit_lambdas"
        )
