"""Do targets from a network's own past make it more accurate, and honest about what it does not know?

The subgroup of an emoji by a small convolutional network, and digits with 30 % wrong training labels by two layers.
Arms differ in the target alone; each takes the number of epochs that held training rows choose for it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from torch import nn

from redistill.beds import emoji_subgroups, mnist
from redistill.beds.bench import Arm, Bench, Parts, Regime, cell, chosen, variants
from redistill.beds.figures import Figure, bars
from redistill.core import Method
from redistill.core.claims import headline, higher, lower
from redistill.core.study import Budget, Study
from redistill.methods.supervised.ps_kd import PsKd
from redistill.models.nets import convnet, mlp
from redistill.rivals.cs_kd import ClassWise
from redistill.supervised.targets import Fixed, LabelSmoothing, OneHot, Progressive, TargetRectifier


def emoji(seed: int, budget: Budget) -> Parts:
    """The 20 largest Unicode subgroups at 16x16 pixels, from -1 to 1; no emoji is in two parts, by any artist."""
    parts = emoji_subgroups.split(seed, 20, 0.48, 0.12)
    train, held, test = (replace(part, image=2 * part.image - 1) for part in parts)
    return Parts(train, test, held)


def noisy(seed: int, budget: Budget) -> Parts:
    """Digits with wrong labels, also in the rows that choose; test digits have right ones."""
    both, test = mnist.digits(seed, budget["rows"], 2500, wrong=0.3)
    train, held = both.split(round(0.8 * len(both)), seed=seed)
    return Parts(train, test, held)


def past(rectifier: TargetRectifier, bench: Bench) -> Method:
    """The table of past predictions, mixed with the labels by ``rectifier``."""
    return PsKd(bench.student(), rows=bench.size, classes=bench.classes, rectifier=rectifier)


def long_enough(make: Callable[[Bench], Method], bench: Bench) -> nn.Module:
    """The student after the number of epochs that the held rows choose."""
    return chosen(*variants(make, *({"epochs": epochs} for epochs in LENGTHS[bench.name])))(bench)


def best(make: Callable[[Bench], Method]) -> Callable[[Bench], nn.Module]:
    """An arm of this study: ``make`` with its length chosen."""
    return partial(long_enough, make)


LENGTHS = {"emoji": (40, 100), "noisy": (5, 10, 30)}
REGIMES = {
    "emoji": Regime(emoji, partial(convnet, 3, 20), plan={"lr": 0.1, "weight_decay": 5e-4}),
    "noisy": Regime(noisy, partial(mlp, 784, 10), plan={"optimizer": "adam", "lr": 2e-3, "schedule": "constant"}),
}
ARMS = {
    "ce": Arm("cross-entropy", best(partial(past, OneHot()))),
    "smoothing": Arm("label smoothing 0.3", best(partial(past, LabelSmoothing(0.3)))),
    "cs_kd": Arm("CS-KD: another row of the class teaches", best(lambda bench: ClassWise(bench.student()))),
    "fixed": Arm("past predictions with constant weight 0.8", best(partial(past, Fixed(0.8)))),
    "ps_kd": Arm("PS-KD, alpha up to 0.8", best(partial(past, Progressive(0.8)))),
}
PAPER = "CIFAR-100, PreAct-ResNet-18, baseline -> label smoothing -> PS-KD: "
ERROR, ECE = PAPER + "error 24.18 -> 20.94 -> 20.82", PAPER + "ECE 11.84 -> 10.79 -> 1.77"
AURC = PAPER + "AURC 67.7 -> 57.7 -> 52.1"

STUDY = Study(
    slug="ps_kd",
    question="Do targets from the network's own past predictions make it more accurate and better calibrated?",
    arms=ARMS,
    cell=cell(REGIMES, ARMS, {"batch_size": 128}),
    claims=(
        headline(higher("emoji_accuracy", "ps_kd", "ce", 0.01, ERROR,
                        said="PS-KD is more accurate than cross-entropy of chosen length (emoji)")),
        higher("emoji_accuracy", "ps_kd", "smoothing", 0.0, ERROR),
        higher("emoji_accuracy", "ps_kd", "cs_kd", 0.005, "PS-KD beats CS-KD"),
        higher("emoji_accuracy", "ps_kd", "fixed", 0.005),
        higher("noisy_accuracy", "ps_kd", "ce", 0.01),
        higher("noisy_accuracy", "ps_kd", "fixed", 0.005),
        *(lower(f"{regime}_ece", "ps_kd", rival, 0.02, ECE) for regime in REGIMES for rival in ("ce", "smoothing")),
        *(lower(f"{regime}_ece", "ps_kd", "fixed", 0.01) for regime in REGIMES),
        *(lower(f"{regime}_aurc", "ps_kd", rival, 0.003, AURC) for regime in REGIMES for rival in ("ce", "smoothing")),
    ),
    figures=(
        Figure("arms", tuple(bars(f"{regime}_{metric}", ours={"ps_kd"})
                             for regime in REGIMES for metric in ("accuracy", "ece", "aurc")), columns=3),
    ),
    seeds=(4, 5, 6, 7, 8),
    budget={"noisy": {"rows": 2500}},
    smoke={"noisy": {"rows": 300}, "plan": {"epochs": 2}},
)  # fmt: skip
