"""Which of the classic baselines helps a small network most, on one teacher, one budget and 1,000 digits?

Every arm is a baseline of the kit. Two students learn from one convolutional teacher: a narrower network of its family,
and a perceptron, for the baselines that can cross families. How strong a baseline is, folds of its training digits say.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from redistill.beds import metrics
from redistill.beds.bench import columns, labelled, probabilities
from redistill.beds.figures import Figure, bars
from redistill.beds.images import Images
from redistill.beds.mnist import digits
from redistill.core import Plan
from redistill.core.cache import kept
from redistill.core.claims import headline, higher
from redistill.core.study import Derived, Outcome, Study
from redistill.methods.analysis.survey import on_folds, train
from redistill.methods.analysis.survey.baselines import BASELINES, LABELS, Pair
from redistill.models.nets import mlp, staged_convnet

STAGES = ("stage1", "stage2", "stage3")
# times the published weight, best first where folds cannot tell; none above 1: Hinton's is 0.9 of all there is
STRENGTHS = (1.0, 0.1, 0.01)
FOLDS = 2
CROSS = (LABELS, "kd", "dkd", "dist", "fitnets", "rkd", "crd")
COMMON: dict[str, Any] = {"optimizer": "sgd", "lr": 0.1, "weight_decay": 5e-4, "warmup": 50, "schedule": "cosine",
                          "batch_size": 64}  # fmt: skip
Budget = Mapping[str, Any]


def teacher(seed: int, train_images: Images, budget: Budget) -> nn.Module:
    """The convolutional teacher, 32, 32 and 64 channels, trained on the same digits as the students."""
    net = _seeded(seed, 999, staged_convnet, 1, 10, (32, 32, 64))
    seen = hashlib.sha256(train_images.image.tobytes()).hexdigest()
    inputs = {"seed": seed, "epochs": budget["epochs"], "images": seen, **COMMON}

    def make(net: nn.Module) -> nn.Module:
        return labelled(net, train_images, seed, epochs=budget["epochs"], **COMMON)

    return kept("survey_teacher", net, inputs, make)


def _seeded(seed: int, number: int, make: Any, *arguments: Any) -> nn.Module:
    torch.manual_seed(1000 * seed + number)
    return make(*arguments)


def pairs(seed: int, guide: nn.Module) -> dict[str, Pair]:
    """``same``: 4, 8 and 16 channels; ``cross``: two layers of 32 units."""
    shape = (1, 14, 14)
    return {
        "same": Pair(guide, lambda k: _seeded(seed, k, staged_convnet, 1, 10, (4, 8, 16)), shape, 10, STAGES, STAGES,
                     "pool", "pool"),
        "cross": Pair(guide, lambda k: _seeded(seed, k, mlp, 196, 10, (32, 32)), shape, 10, ("2", "4"),
                      ("stage3", "pool"), "4", "pool"),
    }  # fmt: skip


def cell(arm: str, seed: int, budget: Budget) -> Outcome:
    """One baseline on both pairs; accuracy, calibration and agreement with the teacher on test digits.

    Kept beside them: the strength that folds of the training digits chose, and what they said of each.
    """
    images, test = digits(seed, budget["rows"], budget["test"], side=14)
    guide = teacher(seed, images, budget)
    says = probabilities(guide, test)
    best = metrics.accuracy(says, test.label)
    outcome = Outcome({"teacher_accuracy": best})
    for name, pair in pairs(seed, guide).items():
        if name == "cross" and arm not in CROSS:
            continue
        on = validated(arm, name, images, seed, budget)
        strength = preferred(on)
        student, seconds, beside = train(arm, pair, columns(images), plan(seed, budget["epochs"]), strength)
        p = probabilities(student, test)
        scores = metrics.classification(p, test.label)
        scores |= {"agreement": float((p.argmax(1) == says.argmax(1)).mean()), "seconds": seconds, "beside": beside}
        if on:
            scores["strength"] = strength
            outcome.arrays[f"{name}_folds"] = np.array(list(on.values()))
            outcome.text[f"{name}_folds"] = ", ".join(f"x {s:g} {100 * v:.1f} %" for s, v in on.items())
        outcome.metrics |= {f"{name}_{key}": value for key, value in scores.items()}
    return outcome


def plan(seed: int, epochs: int) -> Plan:
    """What every student trains by."""
    return Plan(epochs=epochs, device="cpu", seed=seed, log_every=1000, **COMMON)


def validated(arm: str, name: str, images: Images, seed: int, budget: Budget) -> dict[float, float]:
    """Strength -> accuracy on folds of the training digits, with a teacher that saw no more of them than its students;
    nothing for labels alone, which have no weight."""
    if arm == LABELS:
        return {}

    def pair(rest: Mapping[str, torch.Tensor]) -> Pair:
        seen = Images(rest["image"].numpy(), rest["label"].numpy(), images.classes)
        return pairs(seed, teacher(seed, seen, budget))[name]

    def score(net: nn.Module, held: dict[str, torch.Tensor]) -> float:
        return metrics.accuracy(probabilities(net, held["image"].numpy()), held["label"].numpy())

    return on_folds(arm, pair, columns(images), plan(seed, budget["fold_epochs"]), score, STRENGTHS, FOLDS)


def preferred(on: Mapping[float, float]) -> float:
    """The strength that did best; of equals the one nearest the published weight. 1 if there was no choice."""
    return max(sorted(on, reverse=True), key=on.__getitem__, default=1.0)


def of_teacher(taught: dict[str, float]) -> dict[str, float]:
    """What the students' teacher reaches."""
    return {f"{pair}_accuracy": taught["teacher_accuracy"] for pair in ("same", "cross")}


PAPER = "CIFAR-100 WRN40-2 -> WRN16-2 / RN56 -> RN20 / VGG13 -> VGG8, alone 73.26 / 69.06 / 70.36: "
STUDY = Study(
    slug="survey",
    question="Which classic baseline helps a small classifier most, on one teacher and one budget?",
    arms={name: baseline.title for name, baseline in BASELINES.items()},
    cell=cell,
    derived={"teacher": Derived("the teacher itself", (LABELS,), of_teacher)},
    ceiling="teacher",
    claims=(
        headline(higher("same_accuracy", "kd", LABELS, 0.01, PAPER + "74.92 / 70.66 / 72.98",
                        said="Hinton's distillation beats labels alone")),
        *(higher("same_accuracy", arm, LABELS, 0.01) for arm in ("dkd", "dist", "fitnets", "crd", "born_again")),
        higher("same_accuracy", "kd", "smoothing", 0.005),
        *(higher("same_accuracy", "kd", peer, 0.005) for peer in ("dml", "born_again", "byot")),
        higher("same_accuracy", "cs_kd", "kd", 0.005),
        higher("same_accuracy", "cs_kd", "smoothing", 0.005),
        *(higher("cross_accuracy", arm, LABELS, 0.005) for arm in ("kd", "dkd", "dist")),
    ),
    figures=(
        Figure("ranking", (bars("same_accuracy", "narrower network of the same family, %", ours={LABELS}),
                           bars("cross_accuracy", "perceptron, another family, %", ours={LABELS}))),
    ),
    seeds=(4, 5, 6, 7, 8),
    budget={"epochs": 50, "fold_epochs": 30, "rows": 1000, "test": 4000},
    smoke={"epochs": 2, "fold_epochs": 1, "rows": 200, "test": 300},
)  # fmt: skip
