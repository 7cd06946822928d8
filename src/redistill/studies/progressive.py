"""Does halving again and again bring a sampler of 64 steps down to four without losing much?

A ring of eight modes on the cosine path; the teacher is a small network trained on its points, as in the paper, and the
truth is where its own ODE leads from the same noise. Students begin as 64 steps of it and are halved, to four steps in
four rounds or to one in six, in 1,800 updates altogether. The rivals are five samplers of the teacher at equally many
steps, and regression on its end points, in as many updates and with as many evaluations of the teacher.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from redistill.beds.figures import Figure, bars, curves
from redistill.beds.gauss import ring
from redistill.beds.metrics import sliced_wasserstein
from redistill.core import Batch, Loss, Method, Plan, Progress, fit
from redistill.core.cache import kept
from redistill.core.claims import headline, lower
from redistill.core.study import Budget, Derived, Outcome, Study
from redistill.diffusion.denoiser import Denoiser
from redistill.diffusion.nets import DenoiserMlp
from redistill.diffusion.paths import Cosine
from redistill.diffusion.pretraining import DenoiserTraining
from redistill.diffusion.solvers import SOLVERS, ddim, heun
from redistill.methods.trajectory.progressive import Snr, SnrPlusOne, SnrWeight, distil, rounds

PATH, MIXTURE = Cosine(), ring(8)
START = 0.995  # alpha = 0.008: nearly no signal, and log-SNR still finite
FIRST, STEPS = 64, (1, 2, 4)
RATE = 8e-3  # of rounds, and of regression: the best for both of 4e-3 and 8e-3 on seed 101


@dataclass(frozen=True)
class Arm:
    """A sampler of the teacher, regression on its end points, or rounds of a student of this ``kind``."""

    title: str
    solver: str = ""
    kind: str = "v"
    weight: SnrWeight | None = None
    last: int = 1


ARMS = {
    "ddim": Arm("DDIM", "ddim"),
    "heun": Arm("Heun, half as many steps (one evaluation more)", "heun"),
    "dpm_2m": Arm("DPM-Solver++(2M)", "dpm_solver_2m"),
    "ipndm": Arm("iPNDM", "ipndm"),
    "deis": Arm("DEIS, order 3", "deis"),
    "direct": Arm("regression from noise to the end of 64 steps, in one step"),
    "progressive": Arm("rounds of halving, to 4 steps", last=4),
    "to_one": Arm("rounds of halving, to 1 step"),
    "snr_plus_one": Arm("the same with SNR + 1", weight=SnrPlusOne()),
    "snr": Arm("the same with SNR, which is 0 at the first step", weight=Snr()),
    "eps": Arm("the same of a student that says eps, with its own loss", kind="eps", weight=Snr()),
}
SAMPLERS = ("ddim", "heun", "dpm_2m", "ipndm", "deis")


class Direct(Method):
    """Regression of one step on stored pairs of noise and end point (Luhman & Luhman, arXiv 2101.02388)."""

    needs = ("noise", "image")

    def __init__(self, student: Denoiser) -> None:
        super().__init__()
        self.student = student

    def loss(self, turn: str, batch: Batch, now: Progress) -> Loss:
        """Mean squared error over rows and coordinates."""
        made = self.student(batch["noise"], torch.tensor(START))
        return Loss({"pairs": (made - batch["image"]).square().mean()})


def cell(name: str, seed: int, budget: Budget) -> Outcome:
    """Errors and distances to the data after 1, 2 and 4 steps."""
    arm, teacher = ARMS[name], pretrained("v", seed, budget["pretraining"])
    noise, fine, data = judge(seed, budget["rows"], budget["pretraining"])
    found = students(name, seed, budget) if not arm.solver else {}

    outcome, errors = Outcome({}), []
    for steps in sorted(found) or STEPS:
        with torch.no_grad():
            x = found[steps](noise) if found else sampled(arm.solver, teacher, noise, steps)
        errors.append(float((x - fine).norm(dim=1).mean()))
        outcome.metrics[f"error_{steps}"] = errors[-1]
        outcome.metrics[f"swd_{steps}"] = sliced_wasserstein(x, data)
    outcome.arrays = {"errors": np.array(errors), "steps": np.array(sorted(found) or STEPS)}
    return outcome


def sampled(solver: str, teacher: Denoiser, noise: Tensor, evaluations: int) -> Tensor:
    """The teacher's samples in about ``evaluations`` calls."""
    steps = evaluations // 2 + 1 if solver == "heun" else evaluations
    return SOLVERS[solver](teacher, noise, PATH.grid(steps, start=START))


def students(name: str, seed: int, budget: Budget) -> dict[int, Any]:
    """Number of steps -> sampler, of a student that is trained."""
    arm, updates = ARMS[name], budget["updates"]
    start, teacher = (pretrained(kind, seed, budget["pretraining"]) for kind in (arm.kind, "v"))
    student = copy.deepcopy(start).requires_grad_(True)
    common = {"optimizer": "adam", "clip": 1.0, "schedule": "linear", "seed": seed, "device": "cpu"}
    if name == "direct":
        plan = Plan(steps=updates, batch_size=512, lr=RATE, **common)
        net: Any = fit(Direct(student), pairs(teacher, seed, plan), plan).student
        return dict.fromkeys(STEPS, lambda noise: net(noise, torch.tensor(START)))

    plan = Plan(steps=updates // len(rounds(FIRST, arm.last)), batch_size=512, lr=RATE, **common)
    rows, options = {"image": points(seed)}, {"start": START, "weight": arm.weight}
    made = dict(distil(student, teacher, rows, plan, first=FIRST, last=arm.last, **options))  # type: ignore[arg-type]
    kept_steps = [n for n in STEPS if n in made]
    return {n: lambda noise, n=n: ddim(made[n], noise, PATH.grid(n, start=START)) for n in kept_steps}


def points(seed: int) -> Tensor:
    """What networks are trained on, [20000, 2]."""
    return MIXTURE.sample(20_000, torch.Generator().manual_seed(seed))[0]


def pairs(teacher: Denoiser, seed: int, plan: Plan) -> dict[str, Tensor]:
    """Noise and end points of the 64 steps, for as many teacher evaluations as the rounds take."""
    rows = 2 * plan.batch_size * (plan.steps or 1) // FIRST
    noise = PATH.prior(torch.randn(rows, 2, generator=torch.Generator().manual_seed(seed + 1)), START)
    with torch.no_grad():
        return {"noise": noise, "image": ddim(teacher, noise, PATH.grid(FIRST, start=START))}


def pretrained(kind: str, seed: int, steps: int) -> Denoiser:
    """The teacher (``kind`` "v"), or what a student of another kind begins as."""
    torch.manual_seed(seed)
    net = Denoiser(DenoiserMlp(2, 128, 3), path=PATH, kind=kind, time_scale=1.0)
    plan = Plan(steps=steps, batch_size=512, lr=2e-3, schedule="cosine", seed=seed, device="cpu")

    def train(net: Any) -> Any:
        return fit(DenoiserTraining(net, decay=0.995), {"image": points(seed)}, plan).student

    return kept("progressive_ring", net, {"kind": kind, "seed": seed, "steps": steps}, train)  # type: ignore[return-value]


@cache
def judge(seed: int, rows: int, pretraining: int) -> tuple[Tensor, Tensor, Tensor]:
    """(noise, where the teacher's ODE takes it, data nobody trained on), [rows, 2] each."""
    draw = torch.Generator().manual_seed(seed + 2)
    noise = PATH.prior(torch.randn(rows, 2, generator=draw), START)
    with torch.no_grad():
        fine = heun(pretrained("v", seed, pretraining), noise, PATH.grid(200, start=START))
    return noise, fine, MIXTURE.sample(rows, draw)[0]


def least(*cells: Mapping[str, float]) -> dict[str, float]:
    """The least of every metric: all are distances."""
    return {metric: min(cell[metric] for cell in cells) for metric in cells[0]}


PAPER = "FID on CIFAR-10 in 4, 2, 1 steps 3.0, 4.5, 9.1, where DDIM needs tens of steps"
STUDY = Study(
    slug="progressive",
    question="Does halving again and again bring a sampler of 64 steps down to four without losing much?",
    arms=ARMS,
    derived={"best": Derived("the best sampler of the teacher at every number of steps", SAMPLERS, least)},
    claims=(
        headline(lower("error_4", "progressive", "best", 0.5, PAPER, relative=True,
                       said="end points after 4 steps: halving is nearer to the teacher's than its best sampler")),
        lower("error_4", "progressive", "ddim", 0.5, PAPER, relative=True),
        lower("error_4", "progressive", "direct", 0.1, relative=True, said="4 steps: halving beats regression"),
        lower("error_2", "to_one", "ddim", 0.5, PAPER, relative=True),
        lower("error_1", "to_one", "ddim", 0.5, PAPER, relative=True),
        lower("swd_4", "progressive", "ddim", 0.2, PAPER, relative=True, said="distance to the data, 4 steps"),
        lower("error_1", "to_one", "direct", 0.0, relative=True, said="one step: halving beats regression"),
        lower("error_1", "to_one", "snr", 0.2, "SNR gives the first step weight 0", relative=True),
        lower("error_1", "to_one", "eps", 0.8, "eps cannot be used at one and two steps", relative=True),
    ),
    cell=cell,
    budget={"pretraining": 2500, "updates": 1800, "rows": 4000},
    smoke={"pretraining": 20, "updates": 12, "rows": 200},
    seeds=(1, 2, 3, 4, 5),
    figures=(
        Figure("steps", (
            curves("errors", "distance to the teacher's end points", arms=("ddim", "dpm_2m", "direct", "to_one"),
                   x="steps", yscale="log", xlabel="steps"),
            bars("error_1", "one step: kinds and weights",
                 arms=("to_one", "snr_plus_one", "snr", "eps"), ours={"to_one"}, scale=1.0),
        )),
    ),
)  # fmt: skip
