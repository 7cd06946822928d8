"""DMD2's mechanism, piece by piece, on a ring with an exact teacher, and its result on faces with the shipped one."""

from __future__ import annotations

import copy
import functools
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from redistill.beds import emoji, faces
from redistill.beds.gauss import Exact, Mixture, ring
from redistill.beds.metrics import sliced_wasserstein
from redistill.core import Batch, Loss, Method, Plan, Progress, fit
from redistill.core.cache import remember
from redistill.core.progress import seed_of
from redistill.core.study import Budget, Claim, Outcome, Results, Study
from redistill.diffusion.denoiser import Denoiser
from redistill.diffusion.discriminator import TokenHead
from redistill.diffusion.nets import DenoiserMlp
from redistill.diffusion.paths import Edm
from redistill.diffusion.pretraining import DenoiserTraining
from redistill.diffusion.score import KarrasTime, ScoreDistiller, few_step, student_times
from redistill.diffusion.solvers import ddim, heun
from redistill.methods.score.dmd2 import Dmd2
from redistill.studies.faces_student import faces_student

MIXTURE, POINTS = ring(8), 4000
LEVELS = {"sigma_min": 0.03, "sigma_max": 10.0}
LR = 1e-3  # of student and critic
GAN = {"gan_student": 1.0, "gan_critic": 1.0}

RING: dict[str, dict[str, Any]] = {
    "ratio_1": {"critic_turns": 1},
    "dmd1": {"critic_turns": 1, "regression": 1.0},
    "ratio_5": {"critic_turns": 5},
    "ratio_5_gan": {"critic_turns": 5, **GAN},
    "four_noised": {"critic_turns": 5, "steps": 4, "inputs": "noised"},
    "four_simulated": {"critic_turns": 5, "steps": 4},
    "weak_ratio_5": {"critic_turns": 5},
    "weak_gan": {"critic_turns": 5, **GAN},
}


class Sds(Method):
    """Score distillation sampling (arXiv 2209.14988): no critic, so x itself stands for what the critic would say."""

    def __init__(self, student: Denoiser, teacher: nn.Module, *, law: KarrasTime) -> None:
        super().__init__()
        self.student, self.teacher, self.score = student, teacher, ScoreDistiller(law=law)

    def loss(self, turn: str, batch: Batch, now: Progress) -> Loss:
        """The pull towards the teacher's x0."""
        rows, path = len(batch["index"]), self.student.path
        x = few_step(self.student, path, student_times(path, 1), [now.randn(rows, 2)])
        t = self.score.law.times(now.rand(rows), path)
        with torch.no_grad():
            real = self.teacher(path.add_noise(x, now.randn(rows, 2), t), t)
        return Loss({"match": self.score.loss(x, real, x, path, t)})


def cell(arm: str, seed: int, budget: Budget) -> Outcome:
    """One arm: a way of training on the ring, or one on the faces."""
    return faces_cell(arm, seed, budget) if arm.startswith("faces") else ring_cell(arm, seed, budget)


# --- the ring ---------------------------------------------------------------------------------------------------------


def ring_cell(arm: str, seed: int, budget: Budget) -> Outcome:
    """Train one arm; sample; and watch how the mean of the samples wanders over the second half of training."""
    weak = arm.startswith("weak")
    start = pretrained(seed, budget["weak" if weak else "pretraining"])
    teacher = copy.deepcopy(start) if weak else Exact(MIXTURE, start.path)
    if arm == "weak_teacher":
        with torch.no_grad():
            x = heun(teacher, start.path.prior(draws(1, POINTS, 7)[0]), start.path.grid(50))
        return Outcome(**judged(x, noise=0.0))
    method = arm_method(arm, start, teacher.requires_grad_(False), seed)
    steps = RING.get(arm, {}).get("steps", 1)
    means: list[Tensor] = []

    def watch(now: Progress, row: dict[str, Any], method: Any) -> None:
        means.append(points(method.student, steps, 1000).mean(0))

    common = {"batch_size": 256, "optimizer": "adam", "device": "cpu", "log_every": 10}
    plan = Plan(steps=budget["steps"], lr=LR, seed=seed, **common)
    done = fit(method, ring_data(seed, start.path), plan, observers=(watch,))
    half = torch.stack(means[len(means) // 2 :])
    return Outcome(**judged(points(done.student, steps, POINTS), noise=float(half.std(0, correction=0).norm())))


def arm_method(arm: str, start: Denoiser, teacher: nn.Module, seed: int) -> Method:
    """Student and critic both begin as the pretrained network, which is the teacher itself where that is weak."""
    law, (student, critic) = KarrasTime(**LEVELS, high=0.8), (copy.deepcopy(start) for _ in range(2))
    if arm == "sds":
        return Sds(student, teacher, law=law)
    torch.manual_seed(seed)  # of the head, whether the network was pretrained now or read
    head = TokenHead(128) if arm.endswith("gan") else None
    return Dmd2(student, teacher, critic, head, shape=(2,), renoise=law, critic_times=KarrasTime(**LEVELS), **RING[arm])


def pretrained(seed: int, steps: int) -> Denoiser:
    """A denoiser of the ring after ``steps`` of ordinary training."""
    torch.manual_seed(seed)
    # with sigma_data at the ring's own deviation, 1.42, its targets have no linear part and a small network learns
    # nothing for thousands of steps
    path = Edm(LEVELS["sigma_min"], LEVELS["sigma_max"], sigma_data=0.5)
    net = Denoiser(DenoiserMlp(2, 128, 3), path=path, kind="edm", time_scale=1.0, scale_input=True)

    def make() -> dict[str, Tensor]:
        plan = Plan(steps=steps, batch_size=256, lr=2e-3, schedule="cosine", seed=seed, device="cpu")
        image = MIXTURE.sample(20_000, torch.Generator().manual_seed(seed))[0]
        return dict(fit(DenoiserTraining(net, decay=0.995), {"image": image}, plan).student.state_dict())

    net.load_state_dict(remember("dmd2_ring", {"seed": seed, "steps": steps, "levels": LEVELS, "version": 2}, make))
    return net.requires_grad_(True)


@functools.cache
def _pairs(seed: int) -> tuple[Tensor, Tensor]:
    noise = torch.randn(1000, 2, generator=torch.Generator().manual_seed(seed_of("dmd2 pairs", seed)))
    exact = Exact(MIXTURE, Edm(LEVELS["sigma_min"], LEVELS["sigma_max"]))
    return noise, exact.endpoints(exact.path.prior(noise.double())).float()


def ring_data(seed: int, path: Edm) -> dict[str, Tensor]:
    """A thousand real points, and a thousand pairs of noise and where the exact ODE takes it."""
    noise, image = _pairs(seed)
    real = MIXTURE.sample(1000, torch.Generator().manual_seed(seed + 2))[0]
    return {"image": real, "pair_noise": noise, "pair_image": image}


def draws(count: int, rows: int, seed: int) -> list[Tensor]:
    """``count`` standard normal tensors [rows, 2]."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(rows, 2, generator=generator) for _ in range(count)]


@torch.no_grad()
def points(student: Denoiser, steps: int, rows: int) -> Tensor:
    """Samples [rows, 2], always from the same noise."""
    return few_step(student, student.path, student_times(student.path, steps), draws(steps, rows, 7))


def judged(x: Tensor, noise: float, mixture: Mixture = MIXTURE) -> dict[str, Any]:
    """Metrics and the points of the picture."""
    real = mixture.sample(POINTS, torch.Generator().manual_seed(99))[0]
    numbers = {"sw2": sliced_wasserstein(real, x), "modes": float(mixture.modes(x)), "valid": mixture.valid(x)}
    return {"metrics": {**numbers, "oscillation": noise}, "arrays": {"points": x[:1000].float().numpy()}}


# --- the faces --------------------------------------------------------------------------------------------------------


FACES: dict[str, dict[str, Any]] = {
    "faces_1": {"steps": 1},
    "faces_1_no_gan": {"steps": 1, "gan": False},
    "faces_4": {"steps": 4},
}


def faces_cell(arm: str, seed: int, budget: Budget) -> Outcome:
    """Distil, or sample the teacher in the steps of the arm's name; judge as many samples as there are faces."""
    data = emoji.load("faces")
    noises = [torch.randn(data.image.shape, generator=torch.Generator().manual_seed(1000 * seed + k)) for k in range(4)]
    if arm.startswith("faces_teacher"):
        x = teacher_samples(int(arm.rsplit("_", 1)[1]), noises[0], data.label)
    else:
        options = FACES[arm]
        student = faces_student(**options, updates=budget["updates"], batch=budget["batch"], seed=seed)
        x = sampled(student, options["steps"], noises, data.label)
    found = faces.compare(data.image, x, data.label)
    least = min(found.pop("shares"))
    grid = torch.cat([x[data.label == artist][:12] for artist in range(3)])
    return Outcome({**found, "least_share": least}, {"grid": grid.clamp(-1, 1).float().numpy()})


@torch.no_grad()
def teacher_samples(steps: int, noise: Tensor, label: Tensor) -> Tensor:
    """DDIM on the flow path is Euler's method."""
    net = faces.teacher()
    return torch.cat(
        [ddim(net, z, net.path.grid(steps), condition=c).float() for z, c in zip(noise.split(65), label.split(65))]
    )


@torch.no_grad()
def sampled(student: Denoiser, steps: int, noises: list[Tensor], label: Tensor) -> Tensor:
    """The student's samples in its own number of steps."""
    times, parts = student_times(student.path, steps), zip(*(z.split(65) for z in noises[:steps]), strict=True)
    return torch.cat([few_step(student, student.path, times, part, c) for part, c in zip(parts, label.split(65))])


def draw(results: Results, folder: Path) -> None:
    """Points of the ring arms, and faces on the same noise."""
    import matplotlib.pyplot as plt

    seed, arms = results.seeds[0], [a for a in STUDY.arms if not a.startswith("faces")]
    figure, axes = plt.subplots(2, 5, figsize=(14, 6), constrained_layout=True)
    for axis, arm in zip(axes.flat, arms):
        x, modes = results.array(arm, seed, "points"), results.values(arm, "modes").mean()
        axis.plot(*MIXTURE.means.numpy().T, "+", color="grey", markersize=12)
        axis.plot(*x.T, ".", markersize=2, color="tab:orange")
        axis.set(xlim=(-3, 3), ylim=(-3, 3), aspect="equal", xticks=[], yticks=[])
        axis.set_title(f"{arm}\n{modes:.1f} modes, SW2 {results.values(arm, 'sw2').mean():.2f}", fontsize=9)
    figure.savefig(folder / "ring.png", dpi=110)
    arms = [a for a in STUDY.arms if a.startswith("faces")]
    figure, axes = plt.subplots(len(arms), 1, figsize=(9, 2.6 * len(arms)), constrained_layout=True)
    for axis, arm in zip(axes, arms):
        tiles = (results.array(arm, seed, "grid") + 1) / 2  # [36, 3, 32, 32]
        axis.imshow(np.transpose(tiles.reshape(3, 12, 3, 32, 32), (0, 3, 1, 4, 2)).reshape(96, 384, 3))
        axis.set_title(f"{arm}: Frechet {results.values(arm, 'frechet').mean():.2f}", fontsize=9)
        axis.axis("off")
    figure.savefig(folder / "faces.png", dpi=110)


FID = "ImageNet-64, FID: "
STUDY = Study(
    slug="dmd2",
    question="Can a one-step student match its many-step teacher without a single pair of noise and image?",
    arms={
        "sds": "ring: no critic (score distillation sampling)",
        "ratio_1": "ring: the critic learns as often as the student",
        "dmd1": "ring: the same, with DMD's regression on 1,000 pairs",
        "ratio_5": "ring: five critic turns to one",
        "ratio_5_gan": "ring: five to one and the discriminator",
        "four_noised": "ring, 4 steps: trained at noised real points",
        "four_simulated": "ring, 4 steps: trained at what the student itself reaches",
        "weak_teacher": "ring: an under-trained teacher's own samples (Heun, 50 steps)",
        "weak_ratio_5": "ring: five to one from the under-trained teacher",
        "weak_gan": "ring: the same with the discriminator",
        "faces_teacher_1": "faces: the teacher in 1 step",
        "faces_teacher_4": "faces: the teacher in 4 steps",
        "faces_teacher_25": "faces: the teacher in 25 steps",
        "faces_1_no_gan": "faces: 1 step, no discriminator",
        "faces_1": "faces: 1 step, DMD2",
        "faces_4": "faces: 4 steps, DMD2",
    },
    claims=(
        Claim("without a critic the modes collapse", "modes", "ratio_5", "sds", "higher", 3),
        Claim("two time-scales: closer to the data", "sw2", "ratio_5", "ratio_1", "lower", 0.1, relative=True,
              paper="without regression DMD is unstable; five critic updates restore it"),
        Claim("two time-scales: the samples wander less", "oscillation", "ratio_5", "ratio_1", "lower", 0.1,
              relative=True),
        Claim("regression steadies the single time-scale", "sw2", "dmd1", "ratio_1", "lower", 0.1, relative=True),
        Claim("five critic turns make the regression needless", "sw2", "ratio_5", "dmd1", "lower", 0.0,
              paper=FID + "DMD 2.62, DMD2 without GAN 2.61"),
        Claim("the discriminator helps", "sw2", "ratio_5_gan", "ratio_5", "lower", 0.05, relative=True,
              paper=FID + "2.61 -> 1.51"),
        Claim("with a discriminator the student passes a weak teacher", "sw2", "weak_gan", "weak_teacher", "lower",
              0.05, relative=True),
        Claim("which scores alone do not give", "sw2", "weak_gan", "weak_ratio_5", "lower", 0.05, relative=True),
        Claim("4 steps: simulated inputs beat noised real ones", "sw2", "four_simulated", "four_noised", "lower", 0.05,
              relative=True, paper="SDXL, 4 steps, FID 19.32 with backward simulation"),
        Claim("faces: one step beats four of the teacher", "frechet", "faces_1", "faces_teacher_4", "lower", 0.1,
              relative=True),
        Claim("faces: the discriminator helps", "frechet", "faces_1", "faces_1_no_gan", "lower", 0.05, relative=True,
              paper=FID + "2.61 -> 1.51"),
        Claim("faces: four steps beat one", "frechet", "faces_4", "faces_1", "lower", 0.05, relative=True),
        Claim("faces: every artist is drawn", "least_share", "faces_1", "", "higher", 0.2),
    ),
    cell=cell,
    budget={"pretraining": 1500, "weak": 250, "steps": 600, "updates": 60, "batch": 16},
    smoke={"pretraining": 100, "weak": 50, "steps": 20, "updates": 2, "batch": 4},
    seeds=(7, 8, 9),
    draw=draw,
    notes=(
        "Judged before on seeds 1 to 3 and 4 to 6, with networks on the ring whose sigma_data was the ring's own "
        "deviation: they had learned nothing in their pre-training, so student and critic began as no denoiser and the "
        "weak teacher was a Gaussian. With sigma_data 0.5 it has eight modes after 250 steps. The critic's rate (1e-3, "
        "of 3e-4, 6e-4 and 1e-3) was then chosen on seeds 101 and 102: slower, the discriminator, which learns with "
        "the critic, is too slow to help. No claim was changed, and seeds 7, 8, 9 judge.",
        "Faces: 60 updates of batch 16 from a teacher of 4,500 steps is a hundredth of what the paper spends. Student "
        "distances fall with every update; four steps share the updates among them and lag behind one step. Weights "
        "of the discriminator of 0.01, 0.1, 0.5 and 2 gave 18.2, 19.8, 17.2 and 26.4 (seed 101): no help that exceeds "
        "the noise. Precision is the teacher's, recall is not: the gradient seeks modes.",
    ),
)  # fmt: skip
