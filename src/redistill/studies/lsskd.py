"""Can a small network teach itself in depth, with rotations as its second label, and better than with labels alone?

The subgroup of an emoji from 300 pictures and from a quarter of them. One small convolutional network; every arm passes
the same number of images through it (arms without rotations train four times as many epochs).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from redistill.beds import emoji_subgroups, metrics
from redistill.beds.images import Images
from redistill.core import Method
from redistill.core.study import Claim, Outcome, Results, Study
from redistill.methods.supervised.lsskd import Hsakd, Lsskd
from redistill.methods.supervised.ps_kd import PsKd
from redistill.methods.supervised.sla import Invariant, Sla
from redistill.models.nets import staged_convnet
from redistill.studies import classifiers
from redistill.studies.sla import balanced
from redistill.supervised.classifier import Classification
from redistill.supervised.self_teaching import BeYourOwnTeacher
from redistill.vision.transformations import Same

CLASSES, COPIES = 10, 4
STAGES: dict[str, Any] = {"layers": ["stage1", "stage2", "stage3"], "input_shape": [3, 16, 16]}
NO_TRANSFER = {"layered_weight": 0.0, "main_weight": 0.0, "feature_weight": 0.0}
BRANCHED = {
    "deep": {"transformations": Same(1), **NO_TRANSFER}, "joint": NO_TRANSFER, "layered": {"main_weight": 0.0},
    "main": {}, "lsskd": {},
}  # fmt: skip
UPRIGHT = ("ce", "ps_kd", "byot", "deep")  # arms that see no rotations
REGIMES = ("full", "quarter")
FEW = ("ce", "ps_kd", "sla_sd", "lsskd")  # arms that also learn from a quarter of the pictures


def regime(name: str, seed: int, budget: Mapping[str, Any]) -> tuple[Images, Images]:
    """Training and test pictures, with equally many of each class."""
    train, test = emoji_subgroups.split(seed, CLASSES, 0.6, side=16)
    return balanced(train, budget["each"][name], seed), balanced(test, 50, seed)


def network(seed: int, widths: tuple[int, ...]) -> nn.Module:
    """A fresh network of three stages."""
    torch.manual_seed(seed)
    return staged_convnet(3, CLASSES, widths)


def method(arm: str, student: nn.Module, rows: int) -> Method:
    """The method of an arm that needs no teacher."""
    if arm in BRANCHED:
        return Lsskd(student, **STAGES, rows=rows if arm == "lsskd" else 0, classes=CLASSES, **BRANCHED[arm])
    if arm == "byot":
        return BeYourOwnTeacher(student, **STAGES, classes=CLASSES)
    if arm == "ps_kd":
        return PsKd(student, rows=rows, classes=CLASSES)
    return {"ce": Classification, "da": Invariant, "sla_sd": Sla}[arm](student)


def train(made: Method, images: Images, seed: int, epochs: int) -> Method:
    """The method after its run, in evaluation mode."""
    classifiers.train(made, images, seed, epochs=epochs, batch_size=16, lr=0.1)
    return made.eval()


def cell(arm: str, seed: int, budget: Mapping[str, Any]) -> Outcome:
    """One arm on all pictures and on a quarter: the classifier's accuracy and calibration, and its branches'."""
    found = {}
    for name in REGIMES if arm in FEW else REGIMES[:1]:
        images, test = regime(name, seed, budget)
        epochs, student = budget["epochs"][name], network(seed, budget["widths"])
        if arm == "hsakd":
            wide = Lsskd(network(seed, budget["teacher"]), **STAGES, rows=0, classes=CLASSES, **NO_TRANSFER)
            teacher = train(wide, images, seed, epochs)
            found["full_teacher"] = accuracy(teacher.student, test)
            made: Method = Hsakd(student, wide, **STAGES)
        else:
            made = method(arm, student, len(images))
        train(made, images, seed, epochs * (COPIES if arm in UPRIGHT else 1))
        found |= {f"{name}_{metric}": value for metric, value in measure(made, test).items()}
    return Outcome(found)


def measure(made: Any, test: Images) -> dict[str, float]:
    """Of the classifier and, where there are any, of the branches."""
    p = classifiers.probabilities(made.student, test)
    found = {"accuracy": metrics.accuracy(p, test.label), "ece": metrics.ece(p, test.label)}
    if isinstance(made, Lsskd):
        with torch.no_grad():
            scores = made.branch_scores(torch.from_numpy(test.image))
        branches = [metrics.accuracy(s.exp().numpy(), test.label) for s in scores]
        found |= {f"branch{i + 1}": value for i, value in enumerate(branches)} | {"rise": branches[-1] - branches[0]}
    return found


def accuracy(net: nn.Module, test: Images) -> float:
    """Share of test rows that ``net`` gets right."""
    return metrics.accuracy(classifiers.probabilities(net, test), test.label)


def draw(results: Results, folder: Path) -> None:
    """Accuracy of every arm, and of the branches of the arms that have them."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.8), layout="constrained")
    axes = figure.subplots(1, 3, width_ratios=(1.5, 1, 1))
    for axis, name, arms in zip(axes, REGIMES, (list(STUDY.arms), list(FEW))):
        values = 100 * np.array([results.values(a, f"{name}_accuracy") for a in arms])
        colours = ["tab:orange" if a == "lsskd" else "tab:gray" for a in arms]
        axis.bar(arms, values.mean(1), yerr=values.std(1), color=colours)
        axis.set_ylim(values.min() - 4, values.max() + 2)
        axis.set_title(f"{name}: test accuracy of the classifier, %", fontsize=10)
        axis.tick_params(axis="x", labelsize=8)
    heads = ["branch1", "branch2", "branch3", "accuracy"]
    for arm in BRANCHED:
        depth = [100 * results.values(arm, f"full_{head}").mean() for head in heads]
        axes[2].plot(["branch 1", "branch 2", "branch 3", "classifier"], depth, "o-", label=arm)
    axes[2].set_title("full: accuracy along the depth, %", fontsize=10)
    axes[2].legend(fontsize=8)
    figure.savefig(folder / "arms.png", dpi=100)


PAPER = "CIFAR-100: 4.54 points above PS-KD on average, 1.14 above SSKD; ImageNet 0.32 above HASSKD"
STUDY = Study(
    slug="lsskd",
    question="Does a network with branches teach itself better with the rotation in the label?",
    arms={
        "ce": "cross-entropy, four times as many epochs",
        "da": "all four rotations with the image's label",
        "ps_kd": "PS-KD, four times as many epochs",
        "byot": "be your own teacher: branches with class labels, taught by the end; four times as many epochs",
        "sla_sd": "label augmentation with self-distillation (a joint head at the end alone)",
        "deep": "branches with class labels, no transfer; four times as many epochs",
        "joint": "branches with joint labels, no transfer",
        "layered": "joint labels, the deepest branch teaches the others (KL, features)",
        "main": "and its aggregate teaches the classifier",
        "lsskd": "LSSKD: and all heads learn what they said one epoch ago",
        "hsakd": "HSAKD: a teacher twice as wide, trained with joint labels (its own training comes on top)",
    },
    claims=(
        Claim("more accurate than longer training", "full_accuracy", "lsskd", "ce", "higher", 0.02),
        Claim("more accurate than longer training on a quarter", "quarter_accuracy", "lsskd", "ce", "higher", 0.02,
              paper="abstract: best results with few training samples"),
        Claim("joint labels at the branches beat class labels", "full_accuracy", "joint", "deep", "higher", 0.01),
        Claim("layered transfer helps the classifier", "full_accuracy", "layered", "joint", "higher", 0.005),
        Claim("layered transfer helps the shallowest branch", "full_branch1", "layered", "joint", "higher", 0.01),
        Claim("the aggregate as a teacher helps the classifier", "full_accuracy", "main", "layered", "higher", 0.005),
        Claim("the past as a teacher helps the classifier", "full_accuracy", "lsskd", "main", "higher", 0.005),
        Claim("the past as a teacher calibrates", "full_ece", "lsskd", "main", "lower", 0.01),
        Claim("branches rise with depth", "full_rise", "lsskd", "", "higher", 0.01),
        Claim("more accurate than rotation as augmentation", "full_accuracy", "lsskd", "da", "higher", 0.01),
        Claim("more accurate than PS-KD", "full_accuracy", "lsskd", "ps_kd", "higher", 0.01, paper=PAPER),
        Claim("more accurate than PS-KD on a quarter", "quarter_accuracy", "lsskd", "ps_kd", "higher", 0.01,
              paper=PAPER),
        Claim("more accurate than BYOT", "full_accuracy", "lsskd", "byot", "higher", 0.01),
        Claim("more accurate than SLA+SD", "full_accuracy", "lsskd", "sla_sd", "higher", 0.005, paper=PAPER),
        Claim("no worse than HSAKD with its wider teacher", "full_accuracy", "lsskd", "hsakd", "higher", -0.02,
              paper=PAPER),
        Claim("better calibrated than longer training", "full_ece", "lsskd", "ce", "lower", 0.05),
        Claim("better calibrated than longer training on a quarter", "quarter_ece", "lsskd", "ce", "lower", 0.05),
    ),
    cell=cell,
    budget={
        "each": {"full": 30, "quarter": 8}, "epochs": {"full": 36, "quarter": 80}, "widths": (10, 20, 40),
        "teacher": (16, 32, 64),
    },
    smoke={"each": {"full": 4, "quarter": 2}, "epochs": {"full": 2, "quarter": 2}},
    draw=draw,
    notes=(
        "Of the paper only summaries with equations could be read; the aggregate, the pairs, T and all weights are "
        "derived, so a claim that fails here need not fail there. HSAKD's teacher averages its joint terms over the "
        "branches as the student does; its authors sum them (three times the weight moved the arm by -2.0 and +0.2 "
        "points on seeds 101 and 102).",
        "Three stages of 10, 20 and 40 channels, 16x16 pictures of 10 subgroups, 30 of a class (8 in the other "
        "regime), 36 epochs with rotations, four times as many without; the paper trains 240 epochs on CIFAR-100.",
        "Why little shows: joint labels are not learned in this time. Branches that predict class and rotation stay "
        "behind branches that predict the class alone, so the deepest branch is a weak teacher, and its aggregate over "
        "the rotations teaches the classifier nothing either. Accuracies vary by three to five points from seed to "
        "seed. Sizes and rates were fixed before seeds 1 to 3 were run.",
        "The past at PS-KD's 0.8 costs accuracy and makes the network under-confident here. On seeds 101 and 102 "
        "0.3 and 0.5 cost less and gain nothing either: joint labels that are hardly learned are a poor memory.",
        "Not measured here: digits, and the regime of half the pictures.",
        "HSAKD's teacher is trained on joint labels within the cell; its cost comes on top. Label augmentation with "
        "one joint head (SLA+SD) is level with it here.",
    ),
)  # fmt: skip
