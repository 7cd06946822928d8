"""Does a one-step student that never saw a pair of noise and image pass its teacher, and the students that DMD and
Diff-Instruct make of it?

Every arm is one distillation of the same teacher on two beds (``dmd2_beds``). They share the number of student's
updates, the rates of student and critic, and the first weights; they differ in how often the critic learns, in the
discriminator, in the regression on pairs, and in the steps.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from redistill.beds.figures import Figure, bars, tiles
from redistill.core import Progress, fit
from redistill.core.claims import headline, lower
from redistill.core.study import Budget, Derived, Metrics, Outcome, Study
from redistill.methods.score.dmd2 import Dmd2
from redistill.studies.dmd2_beds import Bed, Digits, Ring

BEDS: Mapping[str, type[Bed]] = {"ring": Ring, "digits": Digits}


@dataclass(frozen=True)
class Arm:
    """How a student learns. ``options``: of its :class:`Dmd2`, beside those of the bed."""

    title: str
    options: Mapping[str, Any] = field(default_factory=dict)
    gan: bool = False
    pairs: bool = False
    longer: int = 1  # times as many updates of the student
    on: tuple[str, ...] = tuple(BEDS)


def cell(name: str, seed: int, budget: Budget) -> Outcome:
    """One arm on its beds; metrics and arrays are called ``{bed}_{name}``."""
    arm, found = ARMS[name], Outcome({})
    for place in arm.on:
        bed = BEDS[place](seed, budget[place])
        here = many_steps(name, bed) if name in SOURCES else distilled(arm, bed)
        found.metrics |= {f"{place}_{k}": v for k, v in here.metrics.items()}
        found.arrays |= {f"{place}_{k}": v for k, v in here.arrays.items()}
    return found


def many_steps(name: str, bed: Bed) -> Outcome:
    """What the teacher draws, or the true scores do."""
    denoiser = bed.teacher if name == "teacher" else bed.exact()
    return bed.judged(bed.sampled(denoiser, bed.noise("samples 0", bed.rows)))


def distilled(arm: Arm, bed: Bed) -> Outcome:
    """A student after its updates. ``wander``: how far the mean of its samples moves in the second half of them."""
    steps, means = arm.options.get("steps", 1), []

    def watch(now: Progress, row: dict[str, Any], method: Any) -> None:
        means.append(bed.drawn(method.student, steps, bed.watched).mean(0))

    rows = bed.pairs() if arm.pairs else bed.real()
    plan = bed.plan.model_copy(update={"steps": arm.longer * bed.size["updates"]})
    student = fit(method(arm, bed), rows, plan, observers=(watch,) if bed.watched else ()).student.eval()
    found = bed.judged(bed.drawn(student, steps))
    if bed.watched:
        half = torch.stack(means[len(means) // 2 :])
        found.metrics["wander"] = float(half.std(0, correction=0).norm())
    return found


def method(arm: Arm, bed: Bed) -> Dmd2:
    """Student and critic begin as the teacher."""
    torch.manual_seed(bed.seed)  # of the discriminator
    head = bed.head() if arm.gan else None
    options = {**bed.options, **(bed.gan if arm.gan else {}), **arm.options}
    made = Dmd2(copy.deepcopy(bed.teacher).requires_grad_(True), bed.teacher, None, head, **options)
    return made.to(memory_format=torch.channels_last)  # a quarter faster on CPU


def least(*cells: Metrics) -> Metrics:
    """The least of both distances."""
    return {m: min(cell[m] for cell in cells if m in cell) for m in DISTANCES}


DISTANCES = ("ring_sw2", "digits_frechet")
SOURCES = ("floor", "teacher")
DMD = {"critic_turns": 1, "regression": 1.0}
FIVE, FOUR = {"critic_turns": 5}, {"critic_turns": 5, "steps": 4}
ARMS = {
    "floor": Arm("the ring's true scores in 50 steps", on=("ring",)),
    "teacher": Arm("the teacher in its many steps"),
    "diff_instruct": Arm("Diff-Instruct: the critic learns as often as the student", {"critic_turns": 1}),
    "dmd": Arm("DMD: the same with a regression on the teacher's pairs", DMD, pairs=True),
    "dmd_long": Arm("DMD, three times the updates: as many turns as five to one has", DMD, pairs=True, longer=3,
                    on=("ring",)),
    "five": Arm("five turns of the critic to one", FIVE),
    "dmd2": Arm("DMD2: five to one and the discriminator", FIVE, gan=True),
    "four_noised": Arm("4 steps, trained at noised real points", {**FOUR, "inputs": "noised"}, on=("ring",)),
    "four_simulated": Arm("4 steps, trained at what the student itself reaches", FOUR, on=("ring",)),
}  # fmt: skip
RIVALS = ("teacher", "diff_instruct", "dmd", "dmd_long")
FID = "ImageNet-64, FID: "
SHOWN = ("teacher", "diff_instruct", "dmd", "five", "dmd2")
STUDY = Study(
    slug="dmd2",
    question="Does a one-step student that saw no pairs pass its teacher, and what DMD and Diff-Instruct make of it?",
    arms=ARMS,
    cell=cell,
    derived={"rival": Derived("the best of the teacher, Diff-Instruct and DMD with its pairs", RIVALS, least)},
    ceiling="floor",
    claims=(
        headline(lower("ring_sw2", "dmd2", "rival", 0.05, FID + "1.28 in one step, DMD 2.62",
                       relative=True, said="a one-step student without pairs passes its imperfect teacher, "
                       "Diff-Instruct and DMD with pairs")),
        lower("ring_sw2", "five", "diff_instruct", 0.1, "without pairs DMD is unstable; five critic turns mend it",
              relative=True),
        lower("ring_wander", "five", "diff_instruct", 0.1, relative=True),
        lower("ring_sw2", "dmd2", "dmd_long", 0.05, "no regression, better images", relative=True),
        lower("ring_sw2", "five", "dmd", 0.0, FID + "DMD 2.62, DMD2 without GAN 2.61"),
        lower("ring_sw2", "dmd2", "five", 0.05, FID + "2.61 -> 1.51", relative=True),
        lower("ring_sw2", "four_simulated", "four_noised", 0.05, "SDXL, 4 steps: FID 19.32 with backward simulation",
              relative=True),
        lower("digits_frechet", "dmd2", "rival", 0.0),
        lower("digits_frechet", "dmd2", "dmd", 0.05, FID + "2.62 -> 1.51", relative=True),
        lower("digits_frechet", "five", "diff_instruct", 0.05, relative=True),
        lower("digits_frechet", "dmd2", "five", 0.05, FID + "2.61 -> 1.51", relative=True),
    ),
    budget={"ring": {"updates": 400, "batch": 256, "lr": 2e-3, "rows": 4000, "pairs": 1000, "teacher": 250},
            "digits": {"updates": 30, "batch": 8, "lr": 3e-4, "rows": 400, "pairs": 256}},
    smoke={"ring": {"updates": 20, "batch": 64, "lr": 1e-3, "rows": 300, "pairs": 20, "teacher": 20},
           "digits": {"updates": 1, "batch": 4, "lr": 3e-4, "rows": 20, "pairs": 4}},
    seeds=(11, 12, 13, 14, 15),
    figures=(
        Figure("arms", (bars("ring_sw2", "ring: distance to the data", ours=("dmd2",), scale=1),
                        bars("digits_frechet", "digits: Frechet distance", ours=("dmd2",), arms=SHOWN, scale=1))),
        Figure("digits", (tiles("digits_digits", title="a row an arm: " + ", ".join(SHOWN), arms=SHOWN),)),
    ),
)  # fmt: skip
