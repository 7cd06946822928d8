"""The bed of score distillation: a small network that knows an exact mixture, one step of its students, and a race."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from redistill.beds.gauss import Mixture
from redistill.beds.metrics import sliced_wasserstein
from redistill.core import Method, Plan, Progress, fit
from redistill.core.cache import kept
from redistill.core.study import Outcome
from redistill.diffusion.denoiser import Denoiser
from redistill.diffusion.nets import DenoiserMlp
from redistill.diffusion.paths import Edm
from redistill.diffusion.pretraining import DenoiserTraining

PATH = Edm(0.03, 10.0, sigma_data=0.5)  # at the ring's own deviation, 1.42, a small network learns nothing for long
Sampler = Callable[[Denoiser, Tensor], Tensor]  # student, noise [N, d] -> points [N, d]


def network(mixture: Mixture, *, width: int = 128) -> Denoiser:
    """A denoiser of the mixture's points that knows nothing yet."""
    return Denoiser(DenoiserMlp(mixture.dim, width, 3), path=PATH, kind="edm", time_scale=1.0, scale_input=True)


def pretrained(mixture: Mixture, seed: int, steps: int, *, width: int = 128) -> Denoiser:
    """The same after ``steps`` of ordinary training on 20,000 points; it trains on."""
    torch.manual_seed(seed)

    def make(net: nn.Module) -> nn.Module:
        plan = Plan(steps=steps, batch_size=256, lr=2e-3, schedule="cosine", seed=seed, device="cpu")
        image = mixture.sample(20_000, torch.Generator().manual_seed(seed))[0]
        return fit(DenoiserTraining(net, decay=0.995), {"image": image}, plan).student

    inputs = {"seed": seed, "steps": steps, "width": width, "means": mixture.means, "std": mixture.std,
              "weights": mixture.weights}  # fmt: skip
    return kept("ring", network(mixture, width=width), inputs, make).train().requires_grad_(True)


def noise(rows: int, dim: int) -> Tensor:
    """The noise that every student is judged on, [rows, dim]."""
    return torch.randn(rows, dim, generator=torch.Generator().manual_seed(7))


def judged(mixture: Mixture, x: Tensor) -> dict[str, float]:
    """Distance to the mixture, modes that have a fifth of their share, share of points near a mode, error of the
    modes' weights (half the sum of differences)."""
    real = mixture.sample(len(x), torch.Generator().manual_seed(99))[0]
    wrong = 0.5 * (mixture.histogram(x) - mixture.weights).abs().sum()
    return {
        "sw2": sliced_wasserstein(real, x),
        "modes": float(mixture.modes(x)),
        "valid": mixture.valid(x),
        "weight_error": float(wrong),
    }


def raced(
    method: Method, mixture: Mixture, plan: Plan, sample: Sampler, *, data: Any = None, every: int = 25
) -> Outcome:
    """Train ``method`` on ``data`` (none by default), watch the distance of what its student samples, and judge the end
    by 4,000 points."""
    distances: list[float] = []

    def watch(now: Progress, row: dict[str, Any], method: Any) -> None:
        with torch.no_grad():
            distances.append(judged(mixture, sample(method.export(), noise(1000, mixture.dim)))["sw2"])

    plan = plan.model_copy(update={"log_every": every})
    done = fit(method, data, plan, observers=(watch,))
    with torch.no_grad():
        x = sample(done.student, noise(4000, mixture.dim))
    arrays = {"distances": np.array(distances), "points": x[:1000].float().numpy()}
    return Outcome({**judged(mixture, x), "area": float(np.mean(distances))}, arrays)
