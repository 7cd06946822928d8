"""Does a temperature that is learned against the student beat the fixed one that a search would choose?

The subgroup of an emoji: a wide convolutional network teaches a narrow one on the pictures that it learned from itself.
All students get the same steps; the arms differ in the temperature (and in one pair in the match) alone.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from redistill.beds import emoji_subgroups
from redistill.beds.bench import Arm, Bench, Parts, Regime, cell, chosen
from redistill.beds.figures import Figure, bars, curves
from redistill.core import Method, Progress
from redistill.core.claims import headline, higher, reaches, stays_below
from redistill.core.study import Budget, Outcome, Study, mean_of
from redistill.methods.supervised.ctkd import Ctkd
from redistill.models.nets import convnet
from redistill.supervised.classifier import Classification
from redistill.supervised.matches import Dkd, Kd
from redistill.supervised.temperature import Constant, GlobalCurriculum, InstanceCurriculum, Temperature, Uniform

GRID = (1.0, 2.0, 4.0, 8.0, 16.0)
START = 1 + 20 / (1 + np.exp(-1))  # where a learned temperature begins
DKD = {"match": Dkd(beta=2.0), "hard_weight": 1.0, "soft_weight": 1.0}


def emoji(seed: int, budget: Budget) -> Parts:
    """Twenty subgroups at 16x16; the same emoji by other artists never is in two parts."""
    train, held, test = emoji_subgroups.split(seed, 20, 0.48, 0.12)
    return Parts(train, test, held)


def at(make: Callable[[Bench], Temperature], bench: Bench, **weights: Any) -> Method:
    """Distillation at the temperature that ``make`` gives; the rows hold the teacher's logits."""
    return Ctkd(bench.student(), None, temperature=make(bench), **weights)


def fixed(tau: float) -> Callable[[Bench], Temperature]:
    """One temperature throughout."""
    return lambda bench: Constant(tau)


def curriculum(least: float, most: float, bench: Bench) -> Temperature:
    """One number, learned; the curriculum lasts a sixth of the run, as 10 of 60 epochs."""
    return GlobalCurriculum(epochs=max(1, bench.plan["epochs"] // 6), least=least, most=most)


def instance(bench: Bench) -> Temperature:
    """A number for each row."""
    return InstanceCurriculum(bench.classes, epochs=max(1, bench.plan["epochs"] // 6))


def watched(make: Callable[[Bench], Temperature], bench: Bench) -> nn.Module:
    """The student of a game. ``harder``: by how much its loss is larger at the temperature of the moment than at the
    first one, the mean over epochs of the log of the ratio."""
    image, ratios = torch.from_numpy(bench.train.image), []

    @torch.no_grad()
    def watch(now: Progress, row: dict[str, Any], method: Method) -> None:
        z_s, z_t = method.export()(image).double(), bench.said.double()
        here, first = (Kd()(z_s, z_t, None, tau).mean() for tau in (row["temperature"], START))
        ratios.append(float((here / first).log()))

    student = bench.fit(at(make, bench), observers=(watch,))
    bench.noted["harder"] = float(np.mean(ratios))
    return student


def path(bench: Bench, arm: str, student: nn.Module) -> Outcome:
    """How the temperature went, an epoch a number."""
    tau = np.array([row["temperature"] for row in bench.history if "temperature" in row])
    return Outcome({"tau_last": float(tau[-1])}, {"tau": tau}) if arm in LEARNED else Outcome({})


REGIMES = {"": Regime(emoji, partial(convnet, 3, 20, (8, 16, 32)), partial(convnet, 3, 20, (32, 64, 128)),
                      taught={"epochs": 40, "optimizer": "adam", "lr": 2e-3, "schedule": "cosine"})}  # fmt: skip
FIXED = {f"kd_{tau:g}": Arm(f"distillation at temperature {tau:g}", partial(at, fixed(tau))) for tau in GRID}
LEARNED = {
    "cooperative": Arm("learned without reversal: it helps the student", partial(watched, partial(curriculum, -1, -1))),
    "ctkd": Arm("CTKD, one temperature", partial(watched, partial(curriculum, 0, 1))),
    "instance": Arm("CTKD, a temperature for each row", partial(at, instance)),
}
ARMS = {
    "teacher": Arm("the frozen teacher itself", lambda bench: bench.teacher),
    "ce": Arm("cross-entropy with the labels", lambda bench: Classification(bench.student())),
    **FIXED,
    "kd_best": Arm("the temperature of these five that held rows choose", chosen(*FIXED.values())),
    "random": Arm("a temperature drawn for every step", partial(at, lambda bench: Uniform(1.0, 21.0))),
    **LEARNED,
    "dkd": Arm("DKD at temperature 4", partial(at, fixed(4.0), **DKD)),
    "dkd_ctkd": Arm("DKD with CTKD's temperature", partial(at, partial(curriculum, 0, 1), **DKD)),
}
PLAN = {"epochs": 60, "weight_decay": 5e-4, "schedule": "multistep", "milestones": (0.625, 0.75, 0.875)}
PAPER = "CIFAR-100, KD at a fixed temperature -> CTKD: ResNet-56 to 20 70.66 -> 71.19, VGG-13 to 8 72.98 -> 73.52"

STUDY = Study(
    slug="ctkd",
    question="Does a temperature learned against the student beat the one that a search chooses?",
    arms=ARMS,
    cell=cell(REGIMES, ARMS, PLAN, path),
    derived={"grid": mean_of(*FIXED, title="the mean over the five fixed temperatures")},
    ceiling="teacher",
    claims=(
        headline(higher("accuracy", "ctkd", "kd_best", 0.0, PAPER,
                        said="a temperature learned against the student beats the fixed one that held rows choose")),
        higher("accuracy", "ctkd", "grid", 0.005, PAPER),
        higher("accuracy", "ctkd", "random"),
        higher("accuracy", "ctkd", "cooperative"),
        higher("accuracy", "ctkd", "ce", 0.01),
        higher("accuracy", "kd_best", "ce", 0.01),
        higher("accuracy", "instance", "kd_best"),
        higher("accuracy", "dkd_ctkd", "dkd", 0.003, "ImageNet, ResNet-34 to 18, DKD -> DKD with CTKD: 71.13 -> 71.51"),
        reaches("harder", "ctkd", 0.0, "the loss at the first temperature"),
        stays_below("harder", "cooperative", 0.0, "the loss at the first temperature"),
    ),
    figures=(
        Figure("arms", (bars("accuracy", ours=("ctkd", "instance", "dkd_ctkd")),
                        curves("tau", "learned temperature, a line a seed", each=True, xlabel="epoch"))),
    ),
    seeds=(4, 5, 6, 7, 8),
    smoke={"plan": {"epochs": 1}},
)  # fmt: skip
