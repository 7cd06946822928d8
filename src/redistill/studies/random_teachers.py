"""What does a student learn from a teacher that knows nothing?

MNIST digits at 14x14, 2,000 of them without labels; encoders are four linear layers with batch norm, probed on digits
that were not trained on. An arm is where the student starts, on what inputs it is taught, and how outputs are compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from redistill.beds import digits as scanned
from redistill.beds import emoji_subgroups
from redistill.beds.figures import Figure, bars, curves
from redistill.beds.images import Images
from redistill.beds.mnist import digits
from redistill.core import Method, Plan, Progress, fit
from redistill.core.claims import headline, higher
from redistill.core.study import Outcome, Study
from redistill.methods.analysis.random_teachers import CrossEntropy, MeanSquare, RandomTeachers, between
from redistill.methods.analysis.random_teachers.dino import DinoHead
from redistill.methods.analysis.random_teachers.probing import (
    effective_rank,
    embed,
    knn_probe,
    linear_probe,
    with_statistics,
)
from redistill.supervised.classifier import Classification

WIDTHS = (196, 256, 256, 256, 64)
STARTS = {"near": 1e-10, "half": 0.5, "independent": 1.0, "noise": 1e-10, "square": 1e-10}
INITIAL = "_initial"  # ends the name of an arm whose teacher keeps running means of 0 and variances of 1
LOOKS = (0, 1, 2, 5, 10, 20, 40, 80, 160)  # epochs after which the digits are probed


def encoder(seed: int) -> nn.Sequential:
    """Four linear layers with batch norm and ReLU, [B, 1, 14, 14] -> [B, 64]."""
    torch.manual_seed(seed)
    layers = [part for a, b in pairwise(WIDTHS) for part in (nn.Linear(a, b), nn.BatchNorm1d(b), nn.ReLU())]
    return nn.Sequential(nn.Flatten(), *layers)


def network(seed: int, head: bool = True) -> nn.Sequential:
    """Encoder, and a small DINO head or none."""
    body = encoder(seed)
    return nn.Sequential(body, DinoHead(64, 1024, hidden=256, bottleneck=64) if head else nn.Identity())


def cell(arm: str, seed: int, budget: Mapping[str, Any]) -> Outcome:
    """Probes of one arm's encoder, and of the teacher it started from."""
    unlabelled, *probes = digits(seed, 2000, 1000, 2000, side=14)
    image = torch.from_numpy(unlabelled.image)
    if arm == "pixels":
        return Outcome(_probed(nn.Flatten(), image, probes, budget))
    if arm == "teacher":
        return Outcome(_probed(encoder(seed), image, probes, budget))
    if arm == "supervised":
        net = nn.Sequential(encoder(seed), nn.Linear(64, 10))
        columns = {"image": image, "label": torch.from_numpy(unlabelled.label)}
        student, _ = _trained(Classification(net), columns, probes, image, seed, budget)
        return Outcome(_probed(student[0], image, probes, budget))
    return _taught(arm, seed, image, probes, budget)


def _taught(arm: str, seed: int, image: Tensor, probes: list[Images], budget: Mapping[str, Any]) -> Outcome:
    arm, initial = arm.removesuffix(INITIAL), arm.endswith(INITIAL)
    head, inputs = arm != "square", image
    if arm == "noise":
        inputs = torch.randn(image.shape, generator=torch.Generator().manual_seed(seed))
    teacher = network(seed, head).eval() if initial else with_statistics(network(seed, head), inputs)
    student = between(teacher, network(seed + 5000, head), STARTS[arm])
    match = CrossEntropy() if head else MeanSquare()
    with torch.no_grad():
        columns = {"image": inputs, "teacher_output": teacher(inputs)}
    before = _probed(teacher[0], image, probes, budget)
    start = nn.utils.parameters_to_vector(student[0].parameters()).detach()
    student, looks = _trained(RandomTeachers(student, None, match=match), columns, probes, image, seed, budget)
    found = _probed(student[0], image, probes, budget)
    moved = nn.utils.parameters_to_vector(student[0].parameters()).detach() - start
    found |= {f"gain_{name}": found[name] - before[name] for name in ("linear", "knn")}
    found |= {"moved": float(moved.norm() / start.norm()), "gap_left": looks.gaps[-1] / looks.gaps[0]}
    arrays = {"epoch": looks.epochs, "linear": looks.linear, "knn": looks.knn}
    return Outcome(found, {name: np.array(values) for name, values in arrays.items()})


class _Looks:
    """Probes the student after some epochs; :func:`fit` calls it at the end of each."""

    def __init__(self, probes: list[Images], image: Tensor) -> None:
        self.probes, self.image = probes, image
        self.epochs: list[int] = []
        self.linear: list[float] = []
        self.knn: list[float] = []
        self.gaps: list[float] = []

    def __call__(self, now: Progress, row: dict[str, Any], method: Method) -> None:
        self.gaps.append(row.get("gap", float("nan")))
        if now.epoch + 1 in LOOKS:
            self.look(method.get_submodule("student")[0], now.epoch + 1)

    def look(self, body: nn.Module, epoch: int) -> None:
        """Note both probes of an encoder."""
        parts = _features(body, self.image, self.probes)
        self.epochs.append(epoch)
        self.linear.append(linear_probe(*parts))
        self.knn.append(knn_probe(*parts, k=5))


def _trained(
    method: Method,
    columns: dict[str, Tensor],
    probes: list[Images],
    image: Tensor,
    seed: int,
    budget: Mapping[str, Any],
) -> tuple[nn.Module, _Looks]:
    plan = Plan(epochs=budget["epochs"], batch_size=250, optimizer="adamw", lr=1e-3, seed=seed, device="cpu",
                log_every=8)  # fmt: skip
    looks = _Looks(probes, image)
    looks.look(method.get_submodule("student")[0], 0)
    return fit(method, columns, plan, observers=(looks,)).student, looks


def _features(body: nn.Module, image: Tensor, probes: list[Images]) -> tuple[np.ndarray, ...]:
    """Features and labels of two probe sets; batch statistics of ``image`` for every encoder alike."""
    body = with_statistics(body, image)
    return tuple(part for p in probes for part in (embed(body, torch.from_numpy(p.image)), p.label))


def _probed(body: nn.Module, image: Tensor, probes: list[Images], budget: Mapping[str, Any]) -> dict[str, float]:
    """Both probes on digits, on scanned digits and on emoji, and the rank of the features."""
    parts = _features(body, image, probes)
    found = {"linear": linear_probe(*parts), "knn": knn_probe(*parts, k=5), "rank": effective_rank(parts[0])}
    for name in ("scanned", "emoji"):
        there = _elsewhere(name, budget["elsewhere"])
        moved = _features(body, torch.from_numpy(there[0].image), list(there))
        found |= {f"{name}_linear": linear_probe(*moved), f"{name}_knn": knn_probe(*moved, k=5)}
    return found


@cache
def _elsewhere(name: str, rows: int) -> tuple[Images, Images]:
    """Other pictures at 14x14 in grey: 8x8 digits of another source, or the subgroups of emoji."""
    images = scanned.load() if name == "scanned" else emoji_subgroups.subgroups(10)[0]
    grey = torch.from_numpy(images.image).mean(1, keepdim=True)
    resized = nn.functional.interpolate(grey, (14, 14), mode="bilinear", align_corners=False)
    first, rest = Images(resized.numpy(), images.label, images.classes).split(rows, seed=0)
    return first, rest


GAIN = "strong gains on CIFAR-10/100, STL, TinyImageNet"
STUDY = Study(
    slug="random_teachers",
    question="Does distillation from a random teacher alone, without labels, improve features?",
    arms={
        "pixels": "raw pixels",
        "teacher": "the random encoder",
        "near": "student at the teacher",
        "half": "a start halfway to one of its own",
        "independent": "a start of its own",
        "noise": "student at the teacher, on Gaussian noise",
        "square": "squared error of the features, no head",
        "near_initial": "student at the teacher, whose running statistics stay 0 and 1",
        "noise_initial": "the same on Gaussian noise",
        "supervised": "the same encoder trained on 2,000 labels",
    },
    cell=cell,
    ceiling="supervised",
    claims=(
        headline(higher("linear", "near", "teacher", 0.03, GAIN,
                        said="the student of a random teacher probes better than its teacher")),
        higher("knn", "near", "teacher", 0.03, GAIN),
        higher("linear", "square", "teacher", 0.03),
        higher("linear", "near_initial", "teacher", 0.03, GAIN),
        higher("linear", "near", "pixels", 0.0),
        higher("gain_linear", "near", "noise", 0.01, "no gain from random inputs"),
        higher("gain_knn", "near", "noise", 0.01, "no gain from random inputs"),
        higher("gain_linear", "near_initial", "noise_initial", 0.01, "no gain from random inputs"),
        higher("gain_linear", "near", "half", 0.005, "the gain grows as the start comes closer to the teacher"),
        higher("gain_linear", "near", "independent", 0.005, "the gain grows as the start comes closer to the teacher"),
        higher("scanned_linear", "near", "teacher", 0.01, "features transfer to other data sets"),
        higher("emoji_linear", "near", "teacher", 0.01, "features transfer to other data sets"),
    ),
    figures=(
        Figure("probes", (
            *(curves(name, f"{name} probe of the student, %", x="epoch", scale=100, xscale="symlog", xlabel="epoch",
                     arms=("near", "half", "independent", "noise")) for name in ("linear", "knn")),
            bars("linear", ours={"near"}),
        )),
    ),
    seeds=(4, 5, 6, 7, 8),
    budget={"epochs": 160, "elsewhere": 800},
    smoke={"epochs": 2, "elsewhere": 300},
)  # fmt: skip
