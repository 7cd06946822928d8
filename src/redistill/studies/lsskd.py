"""Can a small network teach itself in depth, with rotations as its second label, where pictures are few?

The subgroup of an emoji from ten pictures a class by a small convolutional network. Arms without rotations take the
number of epochs that held rows choose; those with four copies of a picture have a quarter of the most epochs.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from redistill.beds import emoji_subgroups
from redistill.beds.bench import Arm, Bench, Parts, Regime, cell, chosen, variants
from redistill.beds.figures import Figure, bars
from redistill.beds.images import balanced
from redistill.core import Method
from redistill.core.claims import headline, higher, lower
from redistill.core.study import Budget, Study
from redistill.methods.supervised.lsskd import Lsskd
from redistill.methods.supervised.ps_kd import PsKd
from redistill.methods.supervised.sla import Sla
from redistill.models.nets import staged_convnet
from redistill.supervised.classifier import Classification
from redistill.supervised.targets import Progressive

STAGES: dict[str, Any] = {"layers": ["stage1", "stage2", "stage3"], "input_shape": [3, 16, 16]}
NO_TRANSFER = {"layered_weight": 0.0, "main_weight": 0.0, "feature_weight": 0.0}
EPOCHS, COPIES = 80, 4


def emoji(seed: int, budget: Budget) -> Parts:
    """Ten subgroups at 16x16: eight pictures a class to train on and two to choose on, all of new emoji to judge."""
    train, held, test = emoji_subgroups.split(seed, 10, 0.48, 0.12)
    return Parts(balanced(train, budget["each"], seed), test, balanced(held, budget["each"] // 4, seed))


def past(alpha: float, bench: Bench) -> Method:
    """PS-KD with its weight up to ``alpha``."""
    return PsKd(bench.student(), rows=bench.size, classes=bench.classes, rectifier=Progressive(alpha))


def layered(bench: Bench, *, memory: bool = True, **weights: float) -> Method:
    """Branches with joint labels; with ``memory`` all heads learn what they said one epoch ago."""
    rows = bench.size if memory else 0
    return Lsskd(bench.student(), **STAGES, rows=rows, classes=bench.classes, **weights)


LENGTHS = [{"epochs": EPOCHS * times} for times in (1, 2, COPIES)]
REGIMES = {"": Regime(emoji, partial(staged_convnet, 3, 10, (10, 20, 40)),
                      plan={"epochs": EPOCHS, "batch_size": 16, "lr": 0.1})}  # fmt: skip
TRIED = [arm for alpha in (0.3, 0.8) for arm in variants(partial(past, alpha), *LENGTHS[1:])]
ARMS = {
    "ce": Arm("cross-entropy, length chosen",
              chosen(*variants(lambda bench: Classification(bench.student()), *LENGTHS))),
    "ps_kd": Arm("PS-KD, length and weight chosen", chosen(*TRIED)),
    "sla_sd": Arm("label augmentation with self-distillation (a joint head at the end alone)",
                  lambda bench: Sla(bench.student())),
    "joint": Arm("branches with joint labels, no transfer", partial(layered, memory=False, **NO_TRANSFER)),
    "main": Arm("and the deepest branch teaches the others, its aggregate the classifier",
                partial(layered, memory=False)),
    "lsskd": Arm("LSSKD: and all heads learn what they said one epoch ago", layered),
}  # fmt: skip
PAPER = "CIFAR-100: 4.54 points above PS-KD on average, 1.14 above SSKD; ImageNet 0.32 above HASSKD"

STUDY = Study(
    slug="lsskd",
    question="Does a network with branches teach itself better with the rotation in the label, from few pictures?",
    arms=ARMS,
    cell=cell(REGIMES, ARMS),
    claims=(
        headline(higher("accuracy", "lsskd", "ps_kd", 0.02, PAPER,
                        said="LSSKD is more accurate than PS-KD (100 pictures)")),
        higher("accuracy", "lsskd", "ce", 0.02, "best results with few training samples"),
        higher("accuracy", "lsskd", "sla_sd", 0.01, PAPER),
        higher("accuracy", "main", "joint", 0.01),
        higher("accuracy", "lsskd", "main", 0.01),
        lower("ece", "lsskd", "ce", 0.02),
        lower("ece", "lsskd", "ps_kd", 0.02),
    ),
    figures=(Figure("arms", (bars("accuracy", ours={"lsskd"}), bars("ece", ours={"lsskd"}))),),
    seeds=tuple(range(4, 14)),
    budget={"each": 8},
    smoke={"each": 4, "plan": {"epochs": 1}},
)  # fmt: skip
