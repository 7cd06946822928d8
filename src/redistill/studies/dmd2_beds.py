"""The two beds of DMD2's study: a ring whose true scores are known, and digits with the shipped teacher.

Each says in the same words which teacher there is, on what rows and by which plan students learn, and how their samples
are judged.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from redistill.beds import mnist_samples
from redistill.beds.gauss import Exact, ring
from redistill.beds.metrics import sliced_wasserstein
from redistill.core import Plan, fit
from redistill.core.cache import kept
from redistill.core.progress import seed_of
from redistill.core.study import Outcome
from redistill.diffusion.denoiser import Denoiser
from redistill.diffusion.discriminator import TokenHead
from redistill.diffusion.nets import DenoiserMlp
from redistill.diffusion.paths import Edm
from redistill.diffusion.pretraining import DenoiserTraining
from redistill.diffusion.score import KarrasTime, few_step, student_times
from redistill.diffusion.solvers import dpm_solver_2m, heun

COMMON = {"optimizer": "adam", "schedule": "cosine", "device": "cpu"}


class Bed:
    """A bed at one seed; ``size``: its part of the budget. ``options``: of every method here, ``gan``: the weights of
    the discriminator where there is one. ``teacher`` is frozen."""

    shape: ClassVar[tuple[int, ...]]
    options: ClassVar[Mapping[str, Any]]
    gan: ClassVar[Mapping[str, float]]
    watched: ClassVar[int] = 0  # samples that are drawn while a student learns
    teacher: Denoiser

    def __init__(self, seed: int, size: Mapping[str, Any]) -> None:
        self.seed, self.size, self.rows = seed, size, size["rows"]

    def head(self) -> nn.Module:
        """A blank discriminator."""
        raise NotImplementedError

    def real(self) -> dict[str, Tensor]:
        """Columns of real rows."""
        raise NotImplementedError

    def labels(self, rows: int) -> Tensor | None:
        """What so many samples are asked for."""
        return None

    def sampled(self, denoiser: Any, noise: Tensor) -> Tensor:
        """Many steps from ``noise`` [B, ...]."""
        raise NotImplementedError

    def judged(self, x: Tensor) -> Outcome:
        """Metrics of samples, and some of them for the picture."""
        raise NotImplementedError

    @property
    def plan(self) -> Plan:
        """Of every arm alike; the critic learns at the student's rate."""
        return Plan(steps=self.size["updates"], batch_size=self.size["batch"], lr=self.size["lr"], seed=self.seed,
                    log_every=10, **COMMON)  # fmt: skip

    def noise(self, use: str, rows: int) -> Tensor:
        """Standard normal [rows, ...], the same in every arm, another for every ``use``."""
        generator = torch.Generator().manual_seed(seed_of(f"dmd2 {use}", self.seed))
        return torch.randn(rows, *self.shape, generator=generator)

    def pairs(self) -> dict[str, Tensor]:
        """Columns of DMD's regression: noise, and where the teacher's many steps take it."""
        noise = self.noise("pairs", self.size["pairs"])
        found = {"pair_noise": noise, "pair_image": self.sampled(self.teacher, noise)}
        label = self.labels(len(noise))
        return found if label is None else found | {"label": label}

    @torch.no_grad()
    def drawn(self, student: Denoiser, steps: int, rows: int = 0) -> Tensor:
        """Samples of a student of so many steps, as many as are judged unless told."""
        rows = rows or self.rows
        noises = [self.noise(f"samples {k}", rows) for k in range(steps)]
        return few_step(student, student.path, student_times(student.path, steps), noises, self.labels(rows))


class Ring(Bed):
    """Eight Gaussians. The teacher is a small network that was trained too shortly, so it can be passed."""

    levels = {"sigma_min": 0.03, "sigma_max": 10.0}
    # sigma_data at the ring's own 1.42 leaves a target without a linear part, which a small network does not learn
    mixture, path, shape = ring(8), Edm(**levels, sigma_data=0.5), (2,)
    options = {"renoise": KarrasTime(**levels, high=0.8), "critic_times": KarrasTime(**levels), "shape": shape}
    gan, watched = {"gan_student": 0.3, "gan_critic": 0.3}, 1000

    def __init__(self, seed: int, size: Mapping[str, Any]) -> None:
        super().__init__(seed, size)
        torch.manual_seed(seed)
        net = Denoiser(DenoiserMlp(2, 128, 3), path=self.path, kind="edm", time_scale=1.0, scale_input=True)
        self.teacher = kept("dmd2_ring", net, {"seed": seed, "steps": size["teacher"]}, self._trained)

    def _trained(self, net: nn.Module) -> nn.Module:
        plan = Plan(steps=self.size["teacher"], batch_size=256, lr=2e-3, seed=self.seed, **COMMON)
        image = self._points("teacher", 20_000)
        return fit(DenoiserTraining(net, decay=0.995), {"image": image}, plan).student

    def _points(self, use: str, rows: int) -> Tensor:
        return self.mixture.sample(rows, torch.Generator().manual_seed(seed_of(f"dmd2 {use}", self.seed)))[0]

    def head(self) -> nn.Module:
        return TokenHead(128)

    def real(self) -> dict[str, Tensor]:
        """A thousand points."""
        return {"image": self._points("real", 1000)}

    def exact(self) -> Exact:
        """The denoiser with the true scores."""
        return Exact(self.mixture, self.path)

    @torch.no_grad()
    def sampled(self, denoiser: Any, noise: Tensor) -> Tensor:
        """Heun in 50 steps."""
        return heun(denoiser, self.path.prior(noise), self.path.grid(50)).float()

    def judged(self, x: Tensor) -> Outcome:
        """Distance to as many points of the mixture, modes that are drawn, share of the points that lie near one."""
        distance = sliced_wasserstein(self._points("judge", len(x)), x)
        found = {"sw2": distance, "modes": float(self.mixture.modes(x)), "valid": self.mixture.valid(x)}
        return Outcome(found, {"points": x[:1000].float().numpy()})


class Digits(Bed):
    """Handwritten digits and the shipped network of half a million parameters."""

    shape = (1, 28, 28)
    options = {"condition": "label", "shape": shape}
    gan = {"gan_student": 0.1, "gan_critic": 0.1}

    def __init__(self, seed: int, size: Mapping[str, Any]) -> None:
        super().__init__(seed, size)
        self.teacher = mnist_samples.teacher()

    def head(self) -> nn.Module:
        channels = self.teacher.net.config.block_out_channels[-1]
        return nn.Sequential(nn.Flatten(), TokenHead(channels * 7 * 7, 64))  # 7 x 7 is too small for a ConvHead

    def real(self) -> dict[str, Tensor]:
        """All of them."""
        return mnist_samples.digits()

    def labels(self, rows: int) -> Tensor:
        """The ten digits in turn."""
        return torch.arange(rows) % mnist_samples.CLASSES

    @torch.no_grad()
    def sampled(self, denoiser: Any, noise: Tensor) -> Tensor:
        """Ten steps of DPM-Solver++(2M)."""
        times, label = denoiser.path.grid(10), self.labels(len(noise))
        parts = zip(noise.split(50), label.split(50))
        return torch.cat([dpm_solver_2m(denoiser, z, times, condition=c).float() for z, c in parts])

    def judged(self, x: Tensor) -> Outcome:
        """Distances on a classifier's features, and the least share that any digit has of the samples."""
        found = mnist_samples.compare(self.real()["image"], x, self.labels(len(x)))
        least = min(found.pop("shares"))
        return Outcome({**found, "least_share": least}, {"digits": x[:20].float().numpy()})
