"""Does a teacher that saw all rows restore what pruning takes away, whatever the score that chose the kept rows?

Three beds: MNIST digits, the same with 10 % wrong training labels, and the subgroup of an emoji. An arm is a score, or
a width of the teacher, with a weight of the teacher; within a bed all students take equally many steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from redistill.beds import emoji_subgroups, metrics
from redistill.beds.bench import columns, labelled, probabilities
from redistill.beds.images import Images
from redistill.beds.mnist import digits
from redistill.core import Method, Plan, fit
from redistill.core.cache import remember
from redistill.core.claims import headline, higher, lower
from redistill.core.study import Outcome, Results, Study
from redistill.methods.supervised.pruned_data_kd import PrunedDataKd, pruned_ridge, pruning
from redistill.models.nets import mlp
from redistill.supervised.classifier import Classification
from redistill.supervised.targets import LabelSmoothing

WIDTH, CLIP = 128, 2.0
FRACTIONS = {"clean": (0.03, 0.1, 0.3, 0.6), "noisy": (0.03, 0.3, 0.6), "emoji": (0.1, 0.3)}
ORDERS = {"random": "easy", "el2n": "hard", "forgetting": "hard", "herding": "easy"}
BEDS = {
    "random": ("clean", "noisy", "emoji"), "el2n": ("clean", "noisy"), "forgetting": ("clean",), "herding": ("clean",)
}  # fmt: skip
LONGER = {"clean": 1, "noisy": 1, "emoji": 2}  # times as many steps
WEIGHTS = {"ce": 0.0, "long": 0.0, "smooth": 0.0, "half": 0.5, "kd": 1.0}
LONG = 3  # the steps of teacher and student, in students
TAUGHT = (0.1, 0.2, 0.4, 0.7, 1.0)  # what the ridge teacher saw; its student keeps a tenth


def bed(name: str, seed: int, budget: Mapping[str, Any]) -> tuple[Images, Images, Images]:
    """Training, validation and test pictures; validation and test labels are right."""
    if name == "emoji":
        return emoji_subgroups.split(seed, 20, 0.5, 0.1)
    return digits(seed, budget["rows"], 500, 4500 - budget["rows"], wrong=0.1 if name == "noisy" else 0.0)


def cell(arm: str, seed: int, budget: Mapping[str, Any]) -> Outcome:
    """One arm on its beds: accuracy and calibration on test rows, by kept fraction."""
    if arm == "ridge":
        return Outcome(ridge_biases(seed, budget))
    if arm.startswith("full"):
        return Outcome(full_data(budget["steps" if arm == "full_short" else "teacher_steps"], seed, budget))
    weight, score, *width = arm.split("_")
    found: dict[str, float] = {}
    for name in ("clean",) if width else BEDS[score]:
        training, _, test = bed(name, seed, budget)
        said = teacher_logits(name, int(width[0]) if width else WIDTH, seed, budget)
        for fraction in FRACTIONS[name]:
            kept = _kept(name, score, fraction, training, seed, budget)
            steps = LONGER[name] * budget["steps"] * (LONG if weight == "long" else 1)
            net = student(training.take(kept), said[kept], weight, seed, steps)
            found |= _measured(f"{name}_{fraction:g}", net, test)
        found[f"{name}_lost"] = found[f"{name}_{FRACTIONS[name][-1]:g}"] - found[f"{name}_{FRACTIONS[name][0]:g}"]
    return Outcome(found)


def _measured(name: str, net: nn.Module, test: Images) -> dict[str, float]:
    p = probabilities(net, test)
    return {name: metrics.accuracy(p, test.label), f"ece_{name}": metrics.ece(p, test.label)}


def student(kept: Images, said: torch.Tensor, weight: str, seed: int, steps: int) -> nn.Module:
    """A student on the kept pictures, taught by the logits [M, C] of the teacher with a ``weight`` by name."""
    torch.manual_seed(seed)
    net = mlp(kept.image[0].size, kept.classes, (WIDTH,))
    method: Method = PrunedDataKd(net, None, alpha=WEIGHTS[weight])
    if weight == "smooth":
        method = Classification(net, rectifier=LabelSmoothing(0.3))
    plan = Plan(optimizer="sgd", lr=0.05, schedule="cosine", batch_size=64, clip=CLIP, seed=seed, device="cpu",
                log_every=1000, steps=steps)  # fmt: skip
    return fit(method, columns(kept, teacher_logits=said), plan).student.eval()


def teacher_logits(name: str, width: int, seed: int, budget: Mapping[str, Any]) -> torch.Tensor:
    """What a teacher of ``width`` hidden units, trained on all training rows, says of them: [N, C]; kept on disk."""
    given = {"bed": name, "width": width, "seed": seed, "rows": budget["rows"], "steps": budget["teacher_steps"]}
    return remember("pruned_teachers", given, lambda: _teacher(name, width, seed, budget))["logits"]


def _teacher(name: str, width: int, seed: int, budget: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    training, _, test = bed(name, seed, budget)
    torch.manual_seed(seed + 1000)
    net = mlp(training.image[0].size, training.classes, (width,))
    labelled(net, training, seed, steps=LONGER[name] * budget["teacher_steps"], clip=CLIP)
    accuracy = metrics.accuracy(probabilities(net, test), test.label)
    with torch.no_grad():
        return {"logits": net(torch.from_numpy(training.image)), "accuracy": torch.tensor(accuracy)}


def _kept(name: str, score: str, fraction: float, training: Images, seed: int, budget: Mapping[str, Any]) -> np.ndarray:
    given = {"bed": name, "seed": seed, "rows": budget["rows"], "epochs": budget["score_epochs"]}
    scores = remember("pruned_scores", given, lambda: _scores(training, seed, budget["score_epochs"]))
    return pruning.kept_rows(scores[score].numpy(), training.label, fraction, order=ORDERS[score])


def _scores(training: Images, seed: int, epochs: int) -> dict[str, torch.Tensor]:
    """All scores of the training rows from three short runs of their own."""
    image, label = (torch.from_numpy(a) for a in (training.image, training.label))
    said, features, looks = [], [], []
    for run in range(3):
        torch.manual_seed(seed + 2000 + run)
        net, watch = mlp(image[0].numel(), training.classes, (WIDTH,)), pruning.Watch(image, label)
        plan = Plan(epochs=epochs, optimizer="sgd", lr=0.05, batch_size=64, clip=CLIP, seed=seed + 2000 + run,
                    device="cpu", log_every=-(-len(training) // 64))  # fmt: skip
        net = fit(Classification(net), columns(training), plan, observers=(watch,)).student.eval()
        said.append(probabilities(net, training))
        looks.append(pruning.forgetting(watch.correct))
        features.append(net[:-1](image).detach().numpy())
    found = {
        "random": pruning.chance(len(training), seed),
        "el2n": pruning.el2n(np.stack(said), training.label),
        "forgetting": np.mean(looks, 0),
        "herding": pruning.herding(features[0], training.label),
    }
    return {name: torch.from_numpy(score) for name, score in found.items()}


def full_data(steps: int, seed: int, budget: Mapping[str, Any]) -> dict[str, float]:
    """Plain training on all rows, under the names of the largest fraction: what a pruned student may hope for."""
    found: dict[str, float] = {}
    for name in ("clean", "noisy", "emoji"):
        training, _, test = bed(name, seed, budget)
        said = teacher_logits(name, WIDTH, seed, budget)
        net = student(training, said, "ce", seed, LONGER[name] * steps)
        found |= _measured(f"{name}_{FRACTIONS[name][-1]:g}", net, test)
    return found


def ridge_biases(seed: int, budget: Mapping[str, Any]) -> dict[str, float]:
    """Mean squared bias, and variance, of a ridge student on a tenth of the rows, by alpha and by what its teacher saw;
    bias as a share of the squared length of the truth. ``least_drop``: of the bias, when the teacher sees more."""
    n, d, lam = 300, 30, 10.0
    rng, kept = np.random.default_rng(seed), np.arange(n // 10)
    found: dict[str, float] = {}
    for _ in range(budget["draws"]):
        X, theta = rng.standard_normal((n, d)) * np.arange(1, d + 1) ** -0.5, rng.standard_normal(d)
        for alpha, share in product((0.0, 0.5, 1.0), TAUGHT):
            taught, key = np.arange(round(share * n)), f"{alpha:g}_{share:g}"
            bias = pruned_ridge.bias(X, theta, taught, kept, lam, alpha)
            variance = pruned_ridge.variance(X, taught, kept, lam, alpha)
            share_lost = float(bias @ bias / (theta @ theta))
            found[f"bias_{key}"] = found.get(f"bias_{key}", 0.0) + share_lost / budget["draws"]
            found[f"variance_{key}"] = found.get(f"variance_{key}", 0.0) + variance / budget["draws"]
    drops = [found[f"bias_{w}_{a:g}"] - found[f"bias_{w}_{b:g}"] for w in (0.5, 1) for a, b in pairwise(TAUGHT)]
    return found | {"least_drop": min(drops)}


def draw(results: Results, folder: Path) -> None:
    """Accuracy against the kept fraction with and without the teacher, and the bias of the ridge student."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 4.2), layout="constrained")
    clean, noisy, teachers, theory = figure.subplots(1, 4)
    colours = {"random": "tab:blue", "el2n": "tab:red", "herding": "tab:green"}
    for axis, name in ((clean, "clean"), (noisy, "noisy")):
        for (score, colour), (weight, style) in product(colours.items(), (("ce", "--"), ("kd", "-"))):
            if name in BEDS[score]:
                values = [results.values(f"{weight}_{score}", f"{name}_{f:g}") for f in FRACTIONS[name]]
                label = f"{score}, {'teacher' if weight == 'kd' else 'labels'}"
                _line(axis, FRACTIONS[name], 100 * np.array(values), style, color=colour, label=label)
        full = 100 * results.values("full", f"{name}_0.6").mean()
        axis.axhline(full, color="black", lw=0.8, ls=":", label="all rows, labels")
        axis.set(title=f"digits, {'10 % wrong' if name == 'noisy' else 'right'} labels", xlabel="kept fraction",
                 ylabel="test accuracy, %")  # fmt: skip
    for arm, label in (("kd_random_16", "width 16"), ("kd_random", "width 128"), ("kd_random_512", "width 512")):
        values = [results.values(arm, f"clean_{f:g}") - results.values("ce_random", f"clean_{f:g}")
                  for f in FRACTIONS["clean"]]  # fmt: skip
        _line(teachers, FRACTIONS["clean"], 100 * np.array(values), "o-", label=f"teacher of {label}")
    teachers.set(title="gain over labels alone, random rows", xlabel="kept fraction", ylabel="accuracy, points")
    for alpha in (0.0, 0.5, 1.0):
        values = [results.values("ridge", f"bias_{alpha:g}_{share:g}") for share in TAUGHT]
        theory.plot(TAUGHT, np.mean(values, 1), "o-", label=f"alpha = {alpha:g}")
    theory.set(title="ridge on a tenth of the rows, exact", xlabel="share of rows the teacher saw",
               ylabel="squared bias / |truth|^2")  # fmt: skip
    for axis in (clean, noisy, teachers, theory):
        axis.legend(fontsize=8)
    figure.savefig(folder / "fractions.png", dpi=90)


def _line(axis: Any, x: tuple[float, ...], values: np.ndarray, style: str, **how: Any) -> None:
    axis.errorbar(x, values.mean(1), yerr=values.std(1), fmt=style, capsize=2, **how)
    axis.set_xscale("log")
    axis.set_xticks(x, [f"{f:g}" for f in x])
    axis.minorticks_off()


PAPER = "CIFAR-100 at a tenth: alpha = 1 more than 8 points above alpha = 1/2"
ANY = "CIFAR-10, CIFAR-100, SVHN, ImageNet: a gain at every fraction, by every score"
STUDY = Study(
    slug="pruned_data_kd",
    question="Does a teacher that saw all rows restore what pruning takes away, whatever chose the kept rows?",
    arms={
        "full": "plain training on all rows, the steps of a teacher",
        "full_short": "plain training on all rows, the steps of a student",
        "ce_random": "random rows, labels alone",
        "long_random": "random rows, labels alone, the steps of a teacher and a student",
        "smooth_random": "random rows, labels alone, smoothed by 0.3",
        "half_random": "random rows, alpha 1/2",
        "kd_random": "random rows, teacher alone",
        "ce_el2n": "hardest rows by EL2N, labels alone",
        "kd_el2n": "EL2N, teacher alone",
        "ce_forgetting": "most forgotten rows, labels alone",
        "kd_forgetting": "forgetting, teacher alone",
        "ce_herding": "rows near the class mean, labels alone",
        "kd_herding": "herding, teacher alone",
        "kd_random_16": "random rows, teacher of width 16",
        "kd_random_512": "random rows, teacher of width 512",
        "ridge": "exact bias of pruned ridge regression",
    },
    claims=(
        headline(higher("clean_0.1", "kd_random", "ce_random", 0.02, ANY,
                        said="the teacher gains on a random tenth of the rows")),
        higher("clean_0.1", "kd_random", "long_random", 0.02),
        higher("clean_0.1", "kd_random", "smooth_random", 0.02),
        higher("clean_0.03", "kd_random", "ce_random", 0.02, ANY),
        higher("clean_0.3", "kd_random", "ce_random", 0.01, ANY),
        higher("clean_0.6", "kd_random", "ce_random", 0.005, ANY),
        *(higher("clean_0.1", f"kd_{score}", f"ce_{score}", 0.02, ANY) for score in ("el2n", "forgetting", "herding")),
        lower("clean_lost", "kd_random", "ce_random", 0.03,
              said="the gain is larger at 3 % than at 60 % (accuracy lost between them)"),
        *(higher(f"clean_{f:g}", "kd_random", f"kd_{score}", 0.0, "random is as good as the scores, or better")
          for f in FRACTIONS["clean"] for score in ("el2n", "forgetting", "herding")),
        higher("clean_0.6", "kd_random", "full", 0.0, "ImageNet: a random half with the teacher beats all without"),
        lower("clean_lost", "kd_random_16", "kd_random_512", 0.0,
              "at small fractions smaller teachers are better", said="the fewer rows, the smaller the better teacher"),
        higher("noisy_0.3", "kd_el2n", "ce_el2n", 0.1, said="wrong labels: the teacher repairs the hardest 30 %"),
        higher("noisy_0.03", "kd_random", "half_random", 0.01, PAPER),
        lower("noisy_lost", "kd_random", "half_random", 0.01, PAPER,
              said="wrong labels: the teacher's weight matters more at 3 % than at 60 %"),
        higher("emoji_0.1", "half_random", "ce_random", 0.02, ANY),
    ),
    cell=cell,
    budget={"rows": 3000, "steps": 400, "teacher_steps": 800, "score_epochs": 5, "draws": 20},
    smoke={"rows": 1000, "steps": 20, "teacher_steps": 40, "score_epochs": 1, "draws": 2},
    draw=draw,
    seeds=(11, 12, 13, 14, 15),
)  # fmt: skip
