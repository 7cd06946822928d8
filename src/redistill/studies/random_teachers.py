"""What does a student learn from a teacher that knows nothing?

MNIST digits at 14x14, 2,000 of them without labels; encoders are four linear layers with batch norm, probed on digits
that were not trained on. An arm is where the student starts, on what inputs it is taught, and how outputs are compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from redistill.beds import digits as scanned
from redistill.beds import emoji_subgroups
from redistill.beds.images import Images
from redistill.beds.mnist import digits
from redistill.core import Method, Plan, Progress, fit
from redistill.core.study import Claim, Outcome, Results, Study
from redistill.methods.analysis.random_teachers import CrossEntropy, MeanSquare, RandomTeachers, between
from redistill.supervised.classifier import Classification
from redistill.vision.dino import DinoHead
from redistill.vision.probing import effective_rank, embed, knn_probe, linear_probe, with_statistics

WIDTHS = (196, 256, 256, 256, 64)
STARTS = {"near": 1e-10, "sharp": 1e-10, "fifth": 0.2, "half": 0.5, "independent": 1.0, "noise": 1e-10, "square": 1e-10}
LOOKS = (0, 1, 2, 5, 10, 20, 40, 80)  # epochs after which the digits are probed


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
    head, inputs = arm != "square", image
    if arm == "noise":
        inputs = torch.randn(image.shape, generator=torch.Generator().manual_seed(seed))
    teacher = with_statistics(network(seed, head), inputs)
    student = between(teacher, network(seed + 5000, head), STARTS[arm])
    match = CrossEntropy(0.1, 0.04) if arm == "sharp" else CrossEntropy() if head else MeanSquare()
    with torch.no_grad():
        columns = {"image": inputs, "teacher_output": teacher(inputs)}
    before = _probed(teacher[0], image, probes, budget)
    start = nn.utils.parameters_to_vector(student[0].parameters()).detach()
    student, looks = _trained(RandomTeachers(student, None, match=match), columns, probes, image, seed, budget)
    found = _probed(student[0], image, probes, budget)
    moved = nn.utils.parameters_to_vector(student[0].parameters()).detach() - start
    found |= {f"gain_{name}": found[name] - before[name] for name in ("linear", "knn")}
    found |= {"moved": float(moved.norm() / start.norm()), "gap_left": looks.gaps[-1] / looks.gaps[0]}
    found |= {"fallen": max(looks.linear) - looks.linear[-1]}
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
    first, second, _ = Images(resized.numpy(), images.label, images.classes).split(rows, rows, seed=0)
    return first, second


def draw(results: Results, folder: Path) -> None:
    """Probes of the student along training, and what each arm gains over the random teacher at the end."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 4.4), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    colours = {"near": "tab:orange", "half": "tab:purple", "independent": "tab:red", "noise": "tab:gray"}
    for axis, name in ((left, "linear"), (middle, "knn")):
        for arm, colour in colours.items():
            curves = 100 * np.stack([results.array(arm, seed, name) for seed in results.seeds])
            x = 1 + results.array(arm, results.seeds[0], "epoch")
            axis.plot(x, curves.mean(0), "o-", color=colour, ms=4, label=STUDY.arms[arm])
            axis.fill_between(x, curves.min(0), curves.max(0), color=colour, alpha=0.12)
        axis.axhline(100 * results.values("teacher", name).mean(), color="black", ls="--", lw=1, label="random teacher")
        axis.axhline(100 * results.values("pixels", name).mean(), color="black", ls=":", lw=1, label="raw pixels")
        axis.set(
            xscale="log", xlabel="1 + epochs", ylabel="accuracy, %", title=f"{name} probe of the student's encoder"
        )
    figure.legend(*left.get_legend_handles_labels(), fontsize=8, loc="outside lower left", ncols=6)
    arms = [arm for arm in STUDY.arms if arm in STARTS]
    for k, (name, label) in enumerate((("gain_linear", "linear"), ("gain_knn", "5 nearest neighbours"))):
        values = 100 * np.array([results.values(arm, name) for arm in arms])
        right.bar(np.arange(len(arms)) + 0.4 * k - 0.2, values.mean(1), 0.4, yerr=values.std(1), label=label)
    right.set_xticks(range(len(arms)), arms, fontsize=8)
    right.set(title="gain over the random teacher at the end", ylabel="points")
    right.legend(fontsize=8)
    figure.savefig(folder / "probes.png", dpi=90)


STUDY = Study(
    slug="random_teachers",
    question="Does distillation from a random teacher alone, without labels, improve features?",
    arms={
        "pixels": "raw pixels", "teacher": "the random encoder",
        "near": "student at the teacher, temperatures 1", "sharp": "student at the teacher, temperatures 0.1 and 0.04",
        "fifth": "alpha 0.2", "half": "alpha 0.5", "independent": "alpha 1: a start of its own",
        "noise": "student at the teacher, on Gaussian noise", "square": "squared error of the features, no head",
        "supervised": "the same encoder trained on 2,000 labels",
    },
    claims=(
        Claim("linear probe: the student beats its random teacher", "linear", "near", "teacher", "higher", 0.02,
              paper="strong gains on CIFAR-10/100, STL, TinyImageNet"),
        Claim("5 nearest neighbours: the student beats its random teacher", "knn", "near", "teacher", "higher", 0.02,
              paper="strong gains on CIFAR-10/100, STL, TinyImageNet"),
        Claim("with sharp temperatures too (linear probe)", "linear", "sharp", "teacher", "higher", 0.01),
        Claim("without head, by squared error, too (linear probe)", "linear", "square", "teacher", "higher", 0.02),
        Claim("the student comes to say what the teacher says (share of KL left)", "gap_left", "near", "",
              "lower", 0.5),
        Claim("natural inputs matter: digits gain more than noise (linear probe)", "gain_linear", "near", "noise",
              "higher", 0.01, paper="no gain from random inputs"),
        Claim("natural inputs matter: digits gain more than noise (5 nearest neighbours)", "gain_knn", "near", "noise",
              "higher", 0.01, paper="no gain from random inputs"),
        Claim("a start at the teacher gains more than a start of its own (linear probe, last epoch)", "gain_linear",
              "near", "independent", "higher", 0.0, paper="the gain grows as the start comes closer to the teacher"),
        Claim("a start of its own peaks early and falls (linear probe)", "fallen", "independent", "", "higher", 0.03),
        Claim("features move to scanned digits (linear probe)", "scanned_linear", "near", "teacher", "higher", 0.01,
              paper="features transfer to other data sets"),
        Claim("features move to emoji (linear probe)", "emoji_linear", "near", "teacher", "higher", 0.01,
              paper="features transfer to other data sets"),
    ),
    cell=cell,
    budget={"epochs": 80, "elsewhere": 800},
    smoke={"epochs": 2, "elsewhere": 300},
    draw=draw,
    notes=(
        "The encoder is 256-256-256-64, the head 256-256 with 64 dimensions and 1,024 prototypes (the paper's code: "
        "65,536); 80 epochs of 8 steps, the paper's 100 at full size. Batch statistics are those of the unlabelled "
        "digits in every probe, so that the teachers of digits and of noise are one encoder.",
        "Raw pixels probe better than all of these encoders: easy data leave head-room only behind a narrow random "
        "embedding, and the gain over the teacher is no reason to use the features. In an earlier pilot a wide "
        "two-layer network without batch norm showed no gain at all.",
        "Noise gains as much as digits in the linear probe once its encoders are probed with the batch statistics of "
        "the digits, as all others are; with the statistics of noise its teacher was the better one to begin with (an "
        "earlier pilot). Only the nearest neighbours tell the two inputs apart here.",
        "Closeness of the start does not pay here: a start halfway gains most. A start of its own is ahead by 10 "
        "points after five epochs and falls back to the level of the near start as it comes to agree with the "
        "teacher; the last epoch is judged.",
        "Gains were looked at on seeds 101 to 103 (linear 4 to 6 points, neighbours 9 to 11); the size of the network "
        "and of the run come from the system's specification and were not tuned, but for 80 epochs in place of 300.",
        "The paper's lottery tickets, linear mode connectivity and loss surfaces are left out.",
    ),
)  # fmt: skip
