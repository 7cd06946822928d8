"""Does a network's own past, one epoch back, make it better calibrated and more robust to wrong labels?

Three regimes: MNIST with 30 % wrong training labels, MNIST with few clean ones, the subgroup of an emoji. One two-layer
network, equal epochs; the arms differ in the target alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from redistill.beds import emoji_subgroups, metrics, mnist
from redistill.beds.images import Images, corrupt
from redistill.core import Plan, fit
from redistill.core.study import Claim, Outcome, Results, Study
from redistill.methods.supervised.ps_kd import PreviousNetwork, PsKd
from redistill.models.nets import mlp
from redistill.supervised.targets import Fixed, LabelSmoothing, OneHot, Progressive

RECTIFIERS = {
    "ce": OneHot(), "early": OneHot(), "smoothing": LabelSmoothing(0.1), "fixed": Fixed(0.8),
    "previous": Progressive(0.8), "ps_kd": Progressive(0.8),
}  # fmt: skip
REGIMES = {"noisy": 0.3, "clean": 0.0, "emoji": 0.0}
MEASURES = {
    "accuracy": metrics.accuracy, "nll": metrics.nll, "ece": metrics.ece, "aurc": metrics.aurc, "e_aurc": metrics.e_aurc
}  # fmt: skip


def digits(seed: int, rows: int, wrong: float) -> tuple[Images, Images]:
    """Training digits with a share of wrong labels, and 2,500 test digits."""
    train, test, _ = mnist.load().split(rows, 2500, seed=seed)
    return Images(train.image, corrupt(train.label, wrong, 10, seed), 10), test


def emoji(seed: int) -> tuple[Images, Images]:
    """Training and test emoji of the 20 largest Unicode subgroups at 16x16 pixels, from -1 to 1."""
    train, test = (replace(part, image=2 * part.image - 1) for part in emoji_subgroups.split(seed))
    return train, test


def cell(arm: str, seed: int, budget: Mapping[str, Any]) -> Outcome:
    """One arm in the three regimes; metrics on test rows with right labels."""
    found = {}
    for regime, wrong in REGIMES.items():
        train, test = emoji(seed) if regime == "emoji" else digits(seed, budget["rows"][regime], wrong)
        probabilities = _train(arm, train, test.image, seed, budget["epochs"])
        found |= {f"{regime}_{name}": measure(probabilities, test.label) for name, measure in MEASURES.items()}
    return Outcome(found)


def _train(arm: str, train: Images, test: np.ndarray, seed: int, epochs: int) -> np.ndarray:
    """Probabilities of the test rows after training; ``early`` stops after a third of the epochs."""
    torch.manual_seed(seed)
    student = mlp(train.image[0].size, train.classes)
    if arm == "previous":
        method: Any = PreviousNetwork(student, rectifier=RECTIFIERS[arm])
    else:
        method = PsKd(student, rows=len(train), classes=train.classes, rectifier=RECTIFIERS[arm])
    plan = Plan(
        epochs=epochs // 3 if arm == "early" else epochs, batch_size=128, optimizer="adam", lr=2e-3, seed=seed,
        device="cpu", log_every=1000,
    )  # fmt: skip
    fit(method, {"image": torch.from_numpy(train.image), "label": torch.from_numpy(train.label)}, plan)
    with torch.no_grad():
        return student(torch.from_numpy(test)).double().softmax(1).numpy()


def draw(results: Results, folder: Path) -> None:
    """Accuracy and calibration error of every arm in every regime."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 6), layout="constrained")
    axes = figure.subplots(2, 3)
    arms = list(STUDY.arms)
    for column, regime in enumerate(REGIMES):
        for row, (metric, title) in enumerate((("accuracy", "accuracy, %"), ("ece", "calibration error (ECE), %"))):
            values = 100 * np.array([results.values(arm, f"{regime}_{metric}") for arm in arms])
            colours = ["tab:orange" if arm == "ps_kd" else "tab:gray" for arm in arms]
            axis = axes[row, column]
            axis.bar(arms, values.mean(1), yerr=values.std(1), color=colours)
            axis.set_title(f"{regime}: {title}", fontsize=10)
            axis.tick_params(axis="x", labelsize=8)
            if metric == "accuracy":
                axis.set_ylim(values.min() - 3, values.max() + 2)
    figure.savefig(folder / "arms.png", dpi=100)


PAPER = "CIFAR-100, PreAct-ResNet-18, baseline -> label smoothing -> PS-KD: "
STUDY = Study(
    slug="ps_kd",
    question="Do targets from the network's own past predictions calibrate it, and protect it from wrong labels?",
    arms={
        "ce": "cross-entropy", "early": "cross-entropy, a third of the epochs", "smoothing": "label smoothing 0.1",
        "fixed": "past predictions with constant weight 0.8",
        "previous": "last epoch's network as teacher, progressive",
        "ps_kd": "PS-KD, alpha up to 0.8",
    },
    claims=(
        Claim("calibration with wrong labels, against cross-entropy", "noisy_ece", "ps_kd", "ce", "lower", 0.02,
              paper=PAPER + "ECE 11.84 -> 10.79 -> 1.77"),
        Claim("calibration with clean labels, against cross-entropy", "clean_ece", "ps_kd", "ce", "lower", 0.01,
              paper=PAPER + "ECE 11.84 -> 10.79 -> 1.77"),
        Claim("calibration with clean labels, against label smoothing", "clean_ece", "ps_kd", "smoothing", "lower",
              0.02, paper=PAPER + "ECE 11.84 -> 10.79 -> 1.77"),
        Claim("calibration on emoji, against cross-entropy", "emoji_ece", "ps_kd", "ce", "lower", 0.02,
              paper=PAPER + "ECE 11.84 -> 10.79 -> 1.77"),
        Claim("ranking of confidence on emoji (AURC), against label smoothing", "emoji_aurc", "ps_kd", "smoothing",
              "lower", 0.005, paper="CIFAR-100, DenseNet-121, same order: AURC 52.2 -> 91.1 -> 45.6"),
        Claim("accuracy with wrong labels, against cross-entropy", "noisy_accuracy", "ps_kd", "ce", "higher", 0.01,
              paper=PAPER + "error 24.18 -> 20.94 -> 20.82"),
        Claim("accuracy with wrong labels, against label smoothing", "noisy_accuracy", "ps_kd", "smoothing", "higher",
              0.005),
        Claim("accuracy with clean labels is no worse than cross-entropy's", "clean_accuracy", "ps_kd", "ce",
              "higher", -0.005),
        Claim("ranking of confidence with wrong labels (AURC), against cross-entropy", "noisy_aurc", "ps_kd", "ce",
              "lower", 0.005, paper=PAPER + "AURC 67.7 -> 57.7 -> 52.1"),
        Claim("the table is no worse than a second network (ECE, wrong labels)", "noisy_ece", "ps_kd", "previous",
              "lower", -0.02),
        Claim("a growing weight beats a constant one in calibration (wrong labels)", "noisy_ece", "ps_kd", "fixed",
              "lower", 0.01),
    ),
    cell=cell,
    budget={"epochs": 30, "rows": {"noisy": 2000, "clean": 1000}},
    smoke={"epochs": 3, "rows": {"noisy": 300, "clean": 300}},
    draw=draw,
    notes=(
        "Chosen on seeds 101 and 102: Adam at a constant rate, under which cross-entropy is over-confident as in the "
        "paper. With SGD and a falling rate it is under-confident on wrong labels; PS-KD then still gains accuracy and "
        "ranking (78.4 -> 82.0 %, AURC 76 -> 55), but its calibration error is larger (8.7 -> 16.5 %).",
        "With 30 % wrong labels, stopping cross-entropy after a third of the epochs is the most accurate arm and the "
        "worst calibrated one; a constant weight of 0.8 is second in both. With right labels (clean, emoji) the "
        "constant weight is better calibrated than PS-KD: at this scale the growing weight pays only where labels "
        "are wrong.",
        "The gain on emoji depends on how far cross-entropy over-fits (seeds 101 to 103, when twins of a picture could "
        "still lie on both sides of the split): SGD 0.03 with weight decay "
        "gives ECE 17 -> 10 % and accuracy 66.8 -> 68.3 %, a small convolutional network under SGD 0.05 9 -> 3 % "
        "and 62.5 -> 67.4 %; the latter costs two minutes a seed.",
    ),
)  # fmt: skip
