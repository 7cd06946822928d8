"""Does a label rectified by the network's own average keep adversarial training from over-fitting?

MNIST at 14x14 pixels, 500 digits of which a fifth have wrong labels, a perceptron of two layers, a ball of radius 0.1:
small and noisy enough that plain adversarial training over-fits. Arms differ in the label and in what is deployed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from redistill.beds import metrics
from redistill.beds.bench import columns, labelled, probabilities
from redistill.beds.figures import Figure, bars, curves
from redistill.beds.images import Images
from redistill.beds.mnist import digits
from redistill.core import Plan, fit
from redistill.core.cache import kept
from redistill.core.claims import headline, higher, lower, stays_below
from redistill.core.method import bare_progress
from redistill.core.study import Outcome, Study
from redistill.methods.supervised.adr import Adr
from redistill.methods.supervised.adr.attacks import Pgd, Trades, right, square_search, survivors
from redistill.models.nets import mlp
from redistill.supervised.targets import Annealed, Fixed, LabelSmoothing, OneHot, TargetRectifier

EPS = 0.1
PGD, TRADES = Pgd(EPS, EPS / 4, 5), Trades(EPS, EPS / 4, 5)
JUDGE = Pgd(EPS, EPS / 5, 15)
RECTIFIED = Annealed(1.2, 1.0, 0.3, 0.8)
RECTIFIERS: dict[str, TargetRectifier] = {
    "at": OneHot(), "at_wa": OneHot(), "trades": OneHot(), "ema": Fixed(0.55),
    "smooth_02": LabelSmoothing(0.2), "smooth_05": LabelSmoothing(0.5), "smooth_07": LabelSmoothing(0.7),
    "adr": RECTIFIED, "adr_wa": RECTIFIED, "trades_adr": Annealed(1.2, 1.0, 0.1, 0.5),
}  # fmt: skip
OURS = ("adr", "adr_wa", "trades_adr")


def data(seed: int, budget: Mapping[str, Any]) -> tuple[Images, Images]:
    """Training digits with wrong labels, test digits with right ones."""
    return digits(seed, budget["rows"], budget["test"], wrong=0.2, side=14)  # type: ignore[return-value]


def net(seed: int) -> nn.Module:
    """The perceptron of all arms, blank."""
    torch.manual_seed(seed)
    return mlp(196, 10, (256, 256))


def cell(arm: str, seed: int, budget: Mapping[str, Any]) -> Outcome:
    """One arm: clean and robust accuracy of the last weights, how far the best epoch was above them, calibration."""
    train, test = data(seed, budget)
    image, label = torch.from_numpy(test.image), torch.from_numpy(test.label)
    method = Adr(
        net(seed), attack=TRADES if arm.startswith("trades") else PGD, rectifier=RECTIFIERS[arm], decay=0.99,
        averaged=arm.endswith("_wa"),
    )  # fmt: skip
    path = []

    def watch(now: Any, row: Any, method: Any) -> None:
        path.append(_share(survivors(method.export(), image[:500], label[:500], PGD)))

    steps = -(-budget["rows"] // 64)  # an epoch
    plan = Plan(
        epochs=budget["epochs"], batch_size=64, optimizer="sgd", lr=0.1, schedule="multistep", seed=seed, device="cpu",
        log_every=budget["every"] * steps,
    )  # fmt: skip
    final = fit(method, columns(train), plan, observers=(watch,)).student.eval()
    numbers = _judged(final, image, label, _stranger(train, seed, budget))
    epochs = np.linspace(0, budget["epochs"], len(path) + 1)[1:]
    return Outcome(numbers, arrays={"path": np.array(path), "epoch": epochs})


def _stranger(train: Images, seed: int, budget: Mapping[str, Any]) -> nn.Module:
    """A plainly trained network of the same shape: attacks made on it are transferred."""
    given = {"seed": seed, "rows": budget["rows"]}
    return kept("adr_stranger", net(seed + 1000), given, lambda n: labelled(n, train, seed, epochs=30))


def _judged(final: nn.Module, image: Tensor, label: Tensor, stranger: nn.Module) -> dict[str, float]:
    """``blind``: accuracy under the better of two attacks that see no gradient of the network; ``masked``: what it
    gains when the gradient attack gets more steps (above zero: gradients are masked)."""
    target, now = nn.functional.one_hot(label, 10).float(), bare_progress(seed=7)
    hard = JUDGE(final, image, target, now)
    blind = [JUDGE(stranger, image, target, now), square_search(final, image, label, EPS, queries=100)]
    robust = _share(survivors(final, image, label, JUDGE, restarts=3))
    longer = _share(survivors(final, image, label, Pgd(EPS, EPS / 10, 40)))
    found = {"robust": robust, "masked": longer - _share(survivors(final, image, label, JUDGE))}
    found["blind"] = min(_share(right(final, x, label)) for x in blind)
    found["above_blind"] = robust - found["blind"]
    for name, x in (("clean", image), ("attacked", hard)):
        measured = metrics.classification(probabilities(final, x.numpy()), label.numpy())
        found |= {f"{name}_{key}": value for key, value in measured.items()}
    return found


def _share(hits: Tensor) -> float:
    return float(hits.float().mean())


PAPER = "ResNet-18, robust under AutoAttack / clean, ADR: CIFAR-10 50.39 / 82.41, CIFAR-100 26.89 / 56.10"
STUDY = Study(
    slug="adr",
    question="Does the network's own average, rectified by the label, keep adversarial training from over-fitting?",
    arms={
        "at": "PGD training, hard labels",
        "at_wa": "the same, its moving average deployed",
        "smooth_02": "labels smoothed by 0.2",
        "smooth_05": "labels smoothed by 0.5",
        "smooth_07": "labels smoothed by 0.7",
        "ema": "the average's view with a constant weight of 0.55, temperature 1, not rectified",
        "adr": "ADR",
        "adr_wa": "ADR, its moving average deployed",
        "trades": "TRADES, hard labels",
        "trades_adr": "TRADES with ADR's label",
    },
    cell=cell,
    claims=(
        headline(higher("robust", "adr", "smooth_05", 0.01, PAPER,
                        said="ADR is more robust than labels smoothed by 0.5")),
        higher("robust", "adr", "smooth_02", 0.01),
        higher("robust", "adr", "smooth_07", 0.01),
        higher("robust", "adr", "at", 0.05, PAPER),
        higher("robust", "adr", "ema", 0.005, "the ablation of the paper gains at each step"),
        higher("robust", "adr_wa", "at_wa", 0.03, "with averaging: CIFAR-10 50.86 / 82.59, CIFAR-100 27.54 / 58.30"),
        higher("robust", "trades_adr", "trades", 0.005, "ADR is offered for TRADES too"),
        higher("clean_accuracy", "adr", "at", 0.005, PAPER),
        lower("attacked_ece", "adr", "smooth_05", 0.02),
        lower("clean_ece", "adr", "at", 0.02),
        stays_below("masked", "adr", 0.01, "more steps of the attack do not help the defender"),
        stays_below("above_blind", "adr", 0.0, "attacks without gradients are weaker: no masked gradients"),
    ),
    figures=(
        Figure("arms", (
            bars("robust", "accuracy, %: robust (bars), clean (dots)", ours=OURS, dots="clean_accuracy"),
            curves("path", "robust accuracy (5 steps) along training, %", arms=("at", "smooth_05", "adr", "trades"),
                   x="epoch", scale=100, xlabel="epoch"),
            bars("attacked_ece", "calibration error under attack, %", ours=OURS),
        )),
    ),
    seeds=(4, 5, 6, 7, 8),
    budget={"rows": 500, "test": 1000, "epochs": 100, "every": 5},
    smoke={"rows": 128, "test": 200, "epochs": 4, "every": 2},
)  # fmt: skip
