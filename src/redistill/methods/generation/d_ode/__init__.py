"""D-ODE solvers: a fine solver teaches a coarse one around the same frozen network, one scalar a step, in closed form.

    x+ = base step;  x_{i+1} = x+ + lambda_i (O_i - O_{i-1});  lambda_i = <dO, X*_{i+1} - x+> / <dO, dO>

O: the network's outputs along the student's own corrected path (x0 = data prediction, eps = noise prediction). X*:
states of a DDIM run with ``scale`` times more steps from the same noise. <,> pools the whole batch and all pixels.
Differences of outputs weigh zero in sum, so lambda adds a learned second-order (Adams-like) term without changing the
size of the update. With Heun every evaluation has its own lambda; iPNDM and DEIS, which already use up to four outputs,
take the same additive term. arXiv 2309.16421, section 3.

Roles: the denoiser (frozen, guided or not) is both; only ``lambdas`` is fitted, on one batch of noise, and costs
nothing later.

Differs from the paper: teacher and student marks lie at the same noise level (every coarse interval is subdivided);
the released code builds both Karras grids from the formula, where they do not (``marks="reference"``). Where dO
vanishes lambda is 0 instead of a quotient of rounding errors. PNDM's warm-up by Runge-Kutta is left out (iPNDM).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path as File
from typing import Any, Literal

import torch
from torch import Tensor

from redistill.core.errors import UserError, unknown
from redistill.core.types import Count, NonNegative, PositiveShare, checked
from redistill.diffusion.solvers import SOLVERS, subdivide, trajectory

PREDICTIONS = {
    "ddim": ("x0", "eps"), "dpm_solver_2m": ("x0", "eps"), "heun": ("x0",), "ipndm": ("x0", "eps"),
    "deis": ("x0", "eps"),
}  # fmt: skip
"""Base solver -> the outputs whose differences may correct it."""

Correct = Callable[[int, Tensor, Tensor], Tensor]
"""(k, x+, dO) -> corrected state."""


@dataclass(frozen=True)
class DOde:
    """A fitted sampler: ``lambdas``, one per evaluation, with everything that they belong to.

    ``before``, ``after``: root mean square error to each mark on the batch of the fit, without and with lambda.
    """

    solver: str
    prediction: str
    times: tuple[float, ...]
    scale: int
    marks: str
    kind: str
    path: dict[str, Any]
    guidance: float
    lambdas: tuple[float, ...] = ()
    before: tuple[float, ...] = ()
    after: tuple[float, ...] = ()

    @torch.no_grad()
    def sample(self, denoiser: Any, noise: Tensor, *, condition: Any = None) -> Tensor:
        """Samples from standard normal ``noise`` [B, ...] at the cost of the base solver; float64."""
        self.check(denoiser)
        return self.run(denoiser, noise, condition, lambda k, x, delta: x + self.lambdas[k] * delta)

    def run(self, denoiser: Any, noise: Tensor, condition: Any, correct: Correct) -> Tensor:
        """The base solver, with ``correct`` after every evaluation; the first x0 has no predecessor, so that dO = 0."""
        path, times = denoiser.path, torch.tensor(self.times, dtype=torch.float64)
        x = path.prior(noise.double(), self.times[0])
        before = x / path.sigma(times[0]) if self.prediction == "eps" else None  # the first difference is eps_0 - x_T

        def callback(k: int, plus: Tensor, x0: Tensor) -> Tensor:
            nonlocal x, before
            output = x0 if self.prediction == "x0" else path.eps_from_x0(x, x0, times[k])
            x = correct(k, plus, output - (output if before is None else before))
            before = output
            return x

        return SOLVERS[self.solver](denoiser, x, times, condition=condition, callback=callback)

    @property
    def linear(self) -> bool:
        """Whether a step needs but the last two outputs, so that a scheduler can take it."""
        return self.solver == "ddim" or (self.solver, self.prediction) == ("dpm_solver_2m", "x0")

    def scheduler(self, denoiser: Any) -> Any:
        """A diffusers scheduler that takes these corrected steps in any pipeline around the same network."""
        from redistill.methods.generation.d_ode.schedulers import linear_scheduler

        self.check(denoiser)
        if not self.linear:
            raise UserError("a scheduler keeps one output; fit ddim, or dpm_solver_2m with x0", place="DOde.scheduler")
        times, second = torch.tensor(self.times, dtype=torch.float64), self.solver == "dpm_solver_2m"
        return linear_scheduler(denoiser, times, self.lambdas, prediction=self.prediction, second_order=second)

    def check(self, denoiser: Any, steps: int | None = None) -> None:
        """Refuse a denoiser (or a number of steps) that these lambdas were not fitted for."""
        mine = {"kind": self.kind, "path": self.path, "guidance": self.guidance, "steps": len(self.times) - 1}
        asked = {**_belongs(denoiser), "steps": mine["steps"] if steps is None else steps}
        wrong = [f"{key} {mine[key]!r}, not {asked[key]!r}" for key in mine if mine[key] != asked[key]]
        if wrong:
            raise UserError(f"the lambdas belong to {'; '.join(wrong)}: fit them again (fit_lambdas)", place="DOde")

    def save(self, file: str | File) -> None:
        """Write everything as JSON."""
        File(file).write_text(json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def load(cls, file: str | File, denoiser: Any, steps: int | None = None) -> DOde:
        """Read what :meth:`save` wrote, for this ``denoiser`` and number of ``steps``; a mismatch is refused."""
        try:
            stored = json.loads(File(file).read_text())
            values = {field.name: stored[field.name] for field in fields(cls)}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"not a file of fitted lambdas ({error!r})", place=str(file)) from None
        fitted = cls(**{name: tuple(v) if isinstance(v, list) else v for name, v in values.items()})
        fitted.check(denoiser, steps)
        return fitted


@checked
@torch.no_grad()
def fit_lambdas(
    denoiser: Any,
    noise: Tensor,
    steps: Count,
    *,
    scale: Count = 10,
    condition: Any = None,
    solver: Literal["ddim", "dpm_solver_2m", "heun", "ipndm", "deis"] = "ddim",
    prediction: Literal["x0", "eps"] = "x0",
    grid: Literal["uniform", "karras", "log_snr"] = "uniform",
    start: PositiveShare = 1.0,
    marks: Literal["subdivided", "reference"] = "subdivided",
    floor: NonNegative = 1e-6,
) -> DOde:
    """Fit a ``steps``-step ``solver`` on one batch of standard normal ``noise`` [B, ...]; 16 to 64 rows suffice.

    ``scale``: teacher steps per student evaluation. ``prediction``: "x0" or "eps" (Heun: "x0"). ``grid``, ``start``:
    see :meth:`Path.grid`. ``marks``: "subdivided" or "reference". ``floor``: lambda is 0 where rms(dO) <= floor *
    rms(x+). Costs one teacher and one student run.
    """
    if prediction not in PREDICTIONS[solver]:
        raise unknown(f"prediction (solver {solver})", prediction, PREDICTIONS[solver], place="fit_lambdas")
    count = 2 * steps - 1 if solver == "heun" else steps
    times, fine = (denoiser.path.grid(n, grid, start=start) for n in (steps, scale * count))
    bare = DOde(solver, prediction, tuple(times.tolist()), scale, marks, **_belongs(denoiser))
    targets = _targets(bare, denoiser, denoiser.path.prior(noise.double(), start), condition, times, fine, count)
    lambdas, before, after = [0.0] * count, [0.0] * count, [0.0] * count

    def correct(k: int, x: Tensor, delta: Tensor) -> Tensor:
        missing = targets[k].to(x.device) - x
        lambdas[k] = least_squares(delta, missing, floor * rms(x))
        before[k], after[k] = rms(missing), rms(missing - lambdas[k] * delta)
        return x + lambdas[k] * delta

    bare.run(denoiser, noise, condition, correct)
    return replace(bare, lambdas=tuple(lambdas), before=tuple(before), after=tuple(after))


def least_squares(delta: Tensor, missing: Tensor, floor: float = 0.0) -> float:
    """argmin over l of |missing - l delta|^2, all entries pooled, in float64; 0 where rms(delta) <= ``floor``."""
    delta, missing = delta.double(), missing.double()
    return 0.0 if rms(delta) <= floor else float((delta * missing).sum() / delta.square().sum())


def rms(x: Tensor) -> float:
    """Root mean square over all entries."""
    return float(x.double().square().mean().sqrt())


def _targets(
    bare: DOde, denoiser: Any, x: Tensor, condition: Any, times: Tensor, fine: Tensor, count: int
) -> list[Tensor]:
    """The teacher's state for each lambda. With subdivided intervals all lambdas of a step aim at the step's end."""
    if bare.marks == "reference":
        return trajectory(denoiser, x, fine, every=bare.scale, condition=condition)
    each = 2 if bare.solver == "heun" else 1
    parts = bare.scale * each
    ends = trajectory(denoiser, x, subdivide(times, parts), every=parts, condition=condition)
    return [ends[k // each] for k in range(count)]


def _belongs(denoiser: Any) -> dict[str, Any]:
    """What lambdas depend on besides the weights: prediction kind, path and guidance weight."""
    guidance = float(getattr(denoiser, "scale", 1.0))
    return {"kind": denoiser.kind, "path": denoiser.path.settings(), "guidance": guidance}
