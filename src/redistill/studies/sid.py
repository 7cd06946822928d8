"""Does a one-step student that sees no data come nearer to its teacher's law by SiD than by Diff-Instruct?

On the ring the teacher is exact, student and critic are copies of one network that was trained on it, critic and
student learn in turn, one to one: only the loss differs. What is asked beside it needs no critic.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from redistill.beds import ring
from redistill.beds.figures import Figure, bars, curves
from redistill.beds.gauss import Exact
from redistill.beds.gauss import ring as eight
from redistill.core import Batch, Loss, Method, Plan, Progress
from redistill.core.claims import headline, higher, lower, stays_below
from redistill.core.study import Budget, Outcome, Study
from redistill.diffusion.denoiser import Denoiser
from redistill.diffusion.generator import generated, noised, start_of
from redistill.diffusion.score import Matching, ReverseKl, ScoreDistiller, ScoreIdentity, UniformTime, few_step
from redistill.methods.score.sid import Sid

MIXTURE, SIGMA_INIT = eight(8), 2.5


class Sds(Method):
    """Score distillation sampling (arXiv 2209.14988): no critic, so x itself stands for what the critic would say."""

    def __init__(self, student: Denoiser, teacher: Exact) -> None:
        super().__init__()
        self.student, self.teacher = student, teacher
        self.score = ScoreDistiller(law=UniformTime(0.0, 0.8))

    def loss(self, turn: str, batch: Batch, now: Progress) -> Loss:
        """The pull towards the teacher's x0."""
        x = generated(self.student, start_of(ring.PATH, SIGMA_INIT), (2,), batch, None, now)
        x_t, t = noised(x, ring.PATH, self.score.law, now)
        with torch.no_grad():
            real = self.teacher(x_t, t)
        return Loss({"match": self.score.loss(x, real, x, ring.PATH, t)})


@dataclass(frozen=True)
class Arm:
    """One loss. ``lr``: of the student; ``known``: the critic begins as the pretrained network, not at random."""

    title: str
    matching: Matching | None
    lr: float = 1e-3
    known: bool = True

    def method(self, start: Denoiser, seed: int) -> Method:
        student, teacher = copy.deepcopy(start), Exact(MIXTURE, ring.PATH).requires_grad_(False)
        if self.matching is None:
            return Sds(student, teacher)
        torch.manual_seed(seed)
        critic = copy.deepcopy(start) if self.known else ring.network(MIXTURE)
        return Sid(student, teacher, critic, matching=self.matching, sigma_init=SIGMA_INIT, shape=(2,))


ARMS = {
    "sds": Arm("no critic (score distillation sampling)", None),
    "diff_instruct": Arm("reverse KL (Diff-Instruct)", ReverseKl()),
    "sid": Arm("SiD with the alpha that did best: 1.0", ScoreIdentity(1.0)),
    "alpha_05": Arm("SiD, alpha 0.5, the Fisher gradient", ScoreIdentity(0.5), lr=2e-3),
    "alpha_12": Arm("SiD, alpha 1.2, the paper's", ScoreIdentity(1.2)),
    "blank": Arm("alpha 0.5, the critic begins at random", ScoreIdentity(0.5), lr=2e-3, known=False),
    "alpha_12_blank": Arm("alpha 1.2, the critic begins at random", ScoreIdentity(1.2), known=False),
}


def one_step(student: Denoiser, noise: Tensor) -> Tensor:
    """Samples of a student that is asked at sigma_init."""
    return few_step(student, ring.PATH, [start_of(ring.PATH, SIGMA_INIT)], [noise])


def cell(arm: str, seed: int, budget: Budget) -> Outcome:
    """Train one arm and watch its distance to the teacher's law."""
    start = ring.pretrained(MIXTURE, seed, budget["pretraining"])
    turns = {"critic": {"lr": 3e-3}} if ARMS[arm].matching else {}
    plan = Plan(steps=budget["steps"], batch_size=256, device="cpu", seed=seed, optimizer="adam", betas=(0.0, 0.999),
                lr=ARMS[arm].lr, turns=turns)  # fmt: skip
    return ring.raced(ARMS[arm].method(start, seed), MIXTURE, plan, one_step)


STUDY = Study(
    slug="sid",
    question="Does a student without data come nearer to its teacher's law by SiD than by the reverse KL?",
    arms=ARMS,
    cell=cell,
    claims=(
        headline(lower("sw2", "sid", "diff_instruct", 0.05, "CIFAR-10, FID: Diff-Instruct 4.53, SiD 1.92",
                       relative=True)),
        lower("area", "sid", "diff_instruct", 0.05, relative=True, said="SiD is nearer on the way as well"),
        lower("sw2", "alpha_12", "sid", 0.05, "1.2 is the paper's", relative=True),
        lower("sw2", "sid", "alpha_05", 0.05, "alpha 0.5 is slow", relative=True),
        higher("modes", "sid", "sds", 3, said="without a critic the modes collapse"),
        stays_below("sw2", "sid", 0.3, "a fifth of the distance between neighbouring modes"),
        lower("sw2", "blank", "alpha_12_blank", 0.1, relative=True,
              said="from a random critic alpha 1.2 is worse than 0.5"),
    ),
    budget={"pretraining": 1500, "steps": 600},
    smoke={"pretraining": 50, "steps": 50},
    seeds=tuple(range(1, 11)),
    figures=(
        Figure("distances", (
            curves("distances", "sliced Wasserstein distance", xlabel="25 updates", xscale="log", yscale="log"),
            bars("sw2", "distance at the end", ours={"sid"}, scale=1.0),
            bars("valid", "share near a mode", ours={"sid"}),
        )),
    ),
)  # fmt: skip
