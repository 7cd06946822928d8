"""Does the choice of the divergence decide what a student that is too small leaves out?

Three modes with 0.6, 0.3 and 0.1 of the points, an exact teacher, a student of width 16, a critic of width 128 with a
discriminator on it: the game with the discriminator is the same in all arms, only the divergence differs.
"""

from __future__ import annotations

import copy
import functools
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from redistill.beds import ring
from redistill.beds.figures import Figure, bars, curves
from redistill.beds.gauss import Exact, Mixture
from redistill.beds.gauss import ring as circle
from redistill.core import Method, Plan
from redistill.core.claims import headline, lower
from redistill.core.study import Budget, Outcome, Study
from redistill.diffusion.denoiser import Denoiser
from redistill.diffusion.discriminator import TokenHead
from redistill.diffusion.generator import start_of
from redistill.diffusion.score import LogNormalTime, UniformTime, few_step
from redistill.methods.score.dmd2 import Dmd2
from redistill.methods.score.uni_instruct import Unfolded, UniInstruct

MIXTURE = Mixture(circle(3).means, 0.15, torch.tensor([0.6, 0.3, 0.1]))
SIGMA_INIT, WIDTH = 2.5, 16
Names = Literal["reverse_kl", "forward_kl", "jeffrey", "jensen_shannon", "chi_square"]


@dataclass(frozen=True)
class Arm:
    """A divergence; None is the reverse KL's push of DMD2. ``reverse_first``: share of the run of SiD's loss."""

    title: str
    divergence: Unfolded | None
    reverse_first: float = 0.0

    def method(self, student: Denoiser, critic: Denoiser, seed: int) -> Method:
        torch.manual_seed(seed)
        teacher, head = Exact(MIXTURE, ring.PATH).requires_grad_(False), TokenHead(128)
        if self.divergence is None:
            return Dmd2(student, teacher, critic, head, critic_turns=1, shape=(2,), gan_student=GAN, gan_critic=1.0,
                        renoise=UniformTime(0.0, 0.8), critic_times=LogNormalTime())  # fmt: skip
        return UniInstruct(
            student, teacher, head, critic, divergence=self.divergence, reverse_first=self.reverse_first,
            sigma_init=SIGMA_INIT, gan_student=GAN,
        )  # fmt: skip


GAN = 0.1
ARMS = {
    "dmd2": Arm("reverse KL's push (DMD2)", None),
    "reverse_kl": Arm("reverse KL unfolded: SiD with a discriminator", Unfolded("reverse_kl")),
    "jensen_shannon": Arm("Jensen and Shannon", Unfolded("jensen_shannon")),
    "jeffrey": Arm("0.6 reverse and 0.4 forward KL", Unfolded("jeffrey")),
    "forward_kl": Arm("forward KL", Unfolded("forward_kl")),
    "forward_exact": Arm("forward KL, exact form", Unfolded("forward_kl", "exact")),
    "uni_instruct": Arm("reverse KL, then forward KL", Unfolded("forward_kl"), 0.5),
}


def cell(arm: str, seed: int, budget: Budget) -> Outcome:
    """Train one arm and look at what it gives each mode."""
    critic, small = (ring.pretrained(MIXTURE, seed, budget["pretraining"], width=width) for width in (128, WIDTH))
    method = ARMS[arm].method(copy.deepcopy(small), critic, seed)
    plan = Plan(steps=budget["steps"], batch_size=256, device="cpu", seed=seed, optimizer="adam", betas=(0.0, 0.999),
                lr=LR, turns={"critic": {"lr": CRITIC_LR}})  # fmt: skip
    real = MIXTURE.sample(20_000, torch.Generator().manual_seed(seed + 2))[0]
    start = None if ARMS[arm].divergence is None else SIGMA_INIT
    return ring.raced(method, MIXTURE, plan, functools.partial(one_step, start), data={"image": real})


def one_step(sigma_init: float | None, student: Denoiser, noise: Tensor) -> Tensor:
    """Samples of a student that is asked at sigma_init."""
    return few_step(student, ring.PATH, [start_of(ring.PATH, sigma_init)], [noise])


LR, CRITIC_LR = 1e-3, 3e-3
STUDY = Study(
    slug="uni_instruct",
    question="Does the choice of the divergence decide what a student that is too small leaves out?",
    arms=ARMS,
    cell=cell,
    claims=(
        headline(lower("weight_error", "uni_instruct", "reverse_kl", 0.03,
                       "CIFAR-10, FID: reverse KL with a discriminator 1.52, then forward KL 1.48", relative=True)),
        lower("weight_error", "uni_instruct", "dmd2", 0.05, "ImageNet-64, FID 1.28, 1.02", relative=True),
        lower("weight_error", "uni_instruct", "forward_kl", 0.05, "ImageNet-64, FID 1.34, 1.02", relative=True),
        lower("weight_error", "forward_exact", "forward_kl", 0.05, relative=True),
        lower("sw2", "uni_instruct", "reverse_kl", 0.05, relative=True),
        lower("sw2", "jeffrey", "reverse_kl", 0.05, "CIFAR-10, FID 1.52, 1.46", relative=True),
        lower("sw2", "jeffrey", "jensen_shannon", 0.05, "CIFAR-10, FID 5.23, 1.46", relative=True),
    ),
    budget={"pretraining": 1500, "steps": 600},
    smoke={"pretraining": 50, "steps": 50},
    figures=(
        Figure("arms", (
            curves("distances", "sliced Wasserstein distance", xlabel="25 updates", yscale="log"),
            bars("weight_error", "error of the modes' weights", ours={"uni_instruct"}, scale=1.0),
            bars("sw2", "distance at the end", ours={"uni_instruct"}, scale=1.0),
        )),
    ),
)  # fmt: skip
