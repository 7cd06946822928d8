"""Does one fitted scalar a step bring a coarse solver nearer to the fine solution, and its samples nearer to the data?

The ring of eight modes with its exact denoiser, and the shipped faces teacher. Equal evaluations of the network in
every arm (Heun takes one more where the number is even); errors are distances to the fine solution from the same noise.
The rival at every number of evaluations is the best of the five solvers that are not fitted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from redistill.beds import emoji, faces
from redistill.beds.figures import Figure, curves, tiles
from redistill.beds.gauss import Exact, ring
from redistill.beds.metrics import sliced_wasserstein
from redistill.core.cache import remember
from redistill.core.claims import headline, lower
from redistill.core.study import Derived, Outcome, Results, Study
from redistill.diffusion.solvers import SOLVERS, dpm_solver_2m
from redistill.methods.generation.d_ode import fit_lambdas

Budget = Mapping[str, Any]


@dataclass(frozen=True)
class Arm:
    """A solver, fitted on ``noises`` (0: as it is; on faces at most as many as the budget says)."""

    title: str
    solver: str = "ddim"
    noises: int = 0
    marks: str = "subdivided"
    ring: bool = True
    faces: bool = True
    one_artist: bool = False  # whose faces alone the lambdas are fitted on

    def sample(
        self, denoiser: Any, noise: Tensor, fit_noise: Tensor, evaluations: int, condition: Any = None, fit: Any = None
    ) -> tuple[Tensor, np.ndarray]:
        """(samples, lambdas) in about ``evaluations`` calls of the network; ``fit``: the condition of the fit."""
        steps = evaluations // 2 + 1 if self.solver == "heun" else evaluations
        if not self.noises:
            x = denoiser.path.prior(noise.double())
            return SOLVERS[self.solver](denoiser, x, denoiser.path.grid(steps), condition=condition), np.zeros(0)
        fitted = fit_lambdas(denoiser, fit_noise, steps, condition=fit, solver=self.solver, marks=self.marks)
        return fitted.sample(denoiser, noise, condition=condition), np.array(fitted.lambdas)


ARMS = {
    "ddim": Arm("DDIM (Euler)"),
    "heun": Arm("Heun, as many evaluations (one more if even)", "heun"),
    "dpm_2m": Arm("DPM-Solver++(2M)", "dpm_solver_2m"),
    "ipndm": Arm("iPNDM", "ipndm"),
    "deis": Arm("DEIS, order 3", "deis"),
    "d_ddim": Arm("D-DDIM: lambdas from one batch, 10 teacher steps a step", noises=64),
    "d_ipndm": Arm("D-iPNDM", "ipndm", 64),
    "d_deis": Arm("D-DEIS", "deis", 64),
    "d_edm": Arm("D-EDM: Heun, two lambdas a step", "heun", 64),
    "reference": Arm("D-DDIM with the released code's teacher grid", noises=64, marks="reference", faces=False),
    "fit_1": Arm("D-DDIM, lambdas from 1 noise", noises=1, faces=False),
    "fit_1024": Arm("D-DDIM, lambdas from 1,024 noises", noises=1024, faces=False),
    "transfer": Arm("D-DDIM, lambdas from one artist's faces alone", noises=64, ring=False, one_artist=True),
}
BARE = tuple(name for name, arm in ARMS.items() if not arm.noises)
TWINS = ("d_ddim", "d_ipndm", "d_deis", "d_edm")


def cell(name: str, seed: int, budget: Budget) -> Outcome:
    """One solver on the ring and on the faces."""
    outcome, arm = Outcome({}), ARMS[name]
    with torch.no_grad():
        if arm.ring:
            on_ring(outcome, arm, seed, budget)
        if arm.faces:
            on_faces(outcome, arm, seed, budget)
    return outcome


def on_ring(outcome: Outcome, arm: Arm, seed: int, budget: Budget) -> None:
    """Distance to the end points and to the data, after N evaluations."""
    draw, rows = torch.Generator().manual_seed(seed), budget["ring_rows"]
    exact = Exact(ring())  # Karras grid, sigma from 20 to 0.02
    noise, data = torch.randn(rows, 2, generator=draw), exact.mixture.sample(rows, draw)[0]
    fit_noise = torch.randn(max(1, arm.noises), 2, generator=draw)
    inputs = {"seed": seed, "rows": rows}
    fine = remember("d_ode_ring", inputs, lambda: {"x": exact.endpoints(exact.path.prior(noise.double()))})["x"]
    errors = []
    for evaluations in budget["ring"]:
        x, lambdas = arm.sample(exact, noise, fit_noise, evaluations)
        errors.append(float((x - fine).norm(dim=1).mean()))
        outcome.metrics[f"ring_error_{evaluations}"] = errors[-1]
        outcome.metrics[f"ring_swd_{evaluations}"] = sliced_wasserstein(x, data)
        outcome.arrays |= {f"ring_{evaluations}": x[:1000].float().numpy(), f"ring_lambdas_{evaluations}": lambdas}
    outcome.arrays |= {"ring_errors": np.array(errors), "ring_evaluations": np.array(budget["ring"])}


def on_faces(outcome: Outcome, arm: Arm, seed: int, budget: Budget) -> None:
    """Mean over faces of the root mean square error to the fine solution; Frechet distance to the faces of the bed."""
    draw, teacher = torch.Generator().manual_seed(seed), faces.teacher()
    rows, fit_rows = budget["faces_rows"], budget["faces_fit"]
    noise, artist = torch.randn(rows, 3, 32, 32, generator=draw), torch.arange(rows) % faces.NULL
    fit_noise, fit_artist = torch.randn(fit_rows, 3, 32, 32, generator=draw), torch.arange(fit_rows) % faces.NULL
    if arm.one_artist:
        fit_artist = torch.zeros_like(fit_artist)
    fine = fine_faces(teacher, noise, artist, seed)
    distances = []
    for evaluations in budget["faces"]:
        x, _ = arm.sample(teacher, noise, fit_noise, evaluations, artist, fit_artist)
        error, of = (x - fine).square().flatten(1).mean(1).sqrt(), evaluations  # [B]
        distances.append(faces.compare(emoji.load("faces").image, x.float())["frechet"])
        outcome.metrics[f"faces_error_{of}"] = float(error.mean())
        outcome.metrics[f"faces_error_{of}_others"] = float(error[artist > 0].mean())
        outcome.metrics[f"faces_frechet_{of}"] = distances[-1]
        outcome.arrays[f"faces_{of}"] = x[:12].float().numpy()
    outcome.arrays |= {"faces_distances": np.array(distances), "faces_evaluations": np.array(budget["faces"])}


def fine_faces(teacher: Any, noise: Tensor, artist: Tensor, seed: int) -> Tensor:
    """The teacher's solution: 60 steps of DPM-Solver++(2M) lie within 0.004 of 100 steps of Heun."""
    weights = float(sum(p.double().abs().sum() for p in teacher.parameters()))
    inputs, times = {"seed": seed, "rows": len(noise), "weights": weights}, teacher.path.grid(60)
    return remember("d_ode_faces", inputs, lambda: {"x": dpm_solver_2m(teacher, noise, times, condition=artist)})["x"]


def least(*cells: Mapping[str, float]) -> dict[str, float]:
    """The least of every metric: all are distances."""
    return {metric: min(cell[metric] for cell in cells) for metric in cells[0]}


def points_on_the_ring(axis: Any, results: Results, arms: Any) -> None:
    """A panel: samples of three arms after 5 evaluations, side by side."""
    for number, arm in enumerate(("ddim", "deis", "d_ddim")):
        x = results.array(arm, results.seeds[0], "ring_5") + np.array([6.0 * number, 0.0])
        axis.plot(*x.T, ".", markersize=2, label=arm)
    axis.set(title="ring, 5 evaluations", aspect="equal")
    axis.legend(fontsize=7, loc="upper center", ncols=3)


SHOWN = (*BARE, "d_ddim", "d_deis")
LOGARITHMIC = {"yscale": "log", "xlabel": "evaluations of the network"}
PAPER = "FID on CIFAR-10, CelebA, ImageNet, FFHQ and LSUN falls at equal evaluations, most at few steps"
STUDY = Study(
    slug="d_ode",
    question="Does one fitted scalar a step bring a coarse solver nearer to the fine solution of the same network?",
    arms=ARMS,
    derived={
        "best": Derived("the best solver that is not fitted, at every N", BARE, least),
        "fitted": Derived("the best fitted solver, at every N", TWINS, least),
    },
    claims=(
        headline(lower("faces_frechet_5", "fitted", "best", 0.1, PAPER, relative=True,
                       said="Frechet distance of faces, 5 evaluations: the best fitted solver below the best other")),
        lower("faces_frechet_8", "fitted", "best", 0.03, relative=True),
        lower("faces_frechet_10", "fitted", "best", 0.03, relative=True),
        lower("faces_frechet_5", "d_ddim", "ddim", 0.1, PAPER, relative=True),
        lower("faces_frechet_5", "d_ipndm", "ipndm", 0.03, PAPER, relative=True),
        lower("faces_frechet_5", "d_deis", "deis", 0.03, PAPER, relative=True),
        lower("faces_frechet_5", "d_edm", "heun", 0.03, PAPER, relative=True),
        lower("ring_swd_4", "fitted", "best", 0.2, PAPER, relative=True,
              said="distance to the data on the ring, 4 evaluations"),
        lower("ring_error_5", "fitted", "best", 0.2, relative=True, said="end points on the ring, 5 evaluations"),
        lower("ring_error_8", "fitted", "best", 0.2, relative=True, said="end points on the ring, 8 evaluations"),
        lower("ring_error_8", "d_edm", "heun", 0.2, relative=True, said="ring: two lambdas a step improve Heun (8)"),
        lower("ring_error_5", "fit_1", "ddim", 0.1, relative=True, said="ring: even one noise improves DDIM (5)"),
        lower("faces_error_8", "fitted", "best", 0.1, relative=True, said="end points on faces, 8 evaluations"),
        lower("faces_error_8_others", "transfer", "ddim", 0.1, relative=True,
              said="one artist's lambdas serve the others (8)"),
    ),
    cell=cell,
    budget={"ring": [3, 4, 5, 8, 12], "ring_rows": 4000, "faces": [5, 8, 10], "faces_rows": 96, "faces_fit": 16},
    smoke={"ring_rows": 500, "faces_rows": 6, "faces_fit": 2},
    seeds=(4, 5, 6, 7, 8),
    figures=(
        Figure("errors", (
            curves("ring_errors", "ring: distance to the fine solution", arms=SHOWN, x="ring_evaluations",
                   **LOGARITHMIC),
            curves("faces_distances", "faces: Frechet distance", arms=SHOWN, x="faces_evaluations", **LOGARITHMIC),
            curves("ring_lambdas_8", "ring, 8 evaluations: lambda of each step", arms=("fit_1", "d_ddim", "fit_1024"),
                   each=True, xlabel="step"),
            points_on_the_ring,
        ), columns=2),
        Figure("faces", (tiles("faces_5", title="5 evaluations, solvers as in errors", arms=SHOWN),)),
    ),
)  # fmt: skip
