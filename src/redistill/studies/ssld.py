"""How far does a teacher alone carry a small network, without labels, on images that it picked itself?

MNIST at 14x14: the teacher saw 2,000 labelled digits, the student has 300 of them. The pool holds 1,700 other digits
among as many strangers (crops of digits, emoji in grey). All arms take equally many steps, long ones six times as many,
on images that are shifted by up to a pixel as they come.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from redistill.beds import digits as small_digits
from redistill.beds import emoji_subgroups, mnist
from redistill.beds.bench import Arm, Bench, Parts, Regime, cell, chosen, joined, probabilities, variants
from redistill.beds.figures import Figure, bars
from redistill.beds.images import Images
from redistill.core import Method
from redistill.core.claims import headline, higher, within
from redistill.core.study import Budget, Outcome, Study
from redistill.methods.supervised.ssld import Ssld
from redistill.methods.supervised.ssld.mining import duplicates, top_k_per_class
from redistill.models.nets import convnet
from redistill.supervised.classifier import Classification, Distillation
from redistill.supervised.matches import Jeffreys, JensenShannon, Match
from redistill.vision.augmentations import CropFlipJitter

LONG = {"steps": 4800}


def images(seed: int, budget: Budget) -> Parts:
    """The student's labelled rows, test digits, 100 more labels that choose, and what the teacher saw."""
    seen, _, test = mnist.digits(seed, budget["seen"], budget["pool"], budget["test"], side=14)
    few = budget["labelled"]
    return Parts(seen.take(np.arange(few)), test, seen.take(np.arange(few, few + few // 3)), seen)


def pool(bench: Bench) -> tuple[Images, np.ndarray]:
    """Digits and strangers without labels, and which are digits; test digits are copied in on purpose, to be found."""
    b = bench.budget
    _, others, test = mnist.digits(bench.seed, b["seen"], b["pool"], b["test"], side=14)
    image = np.concatenate([others.image, strangers(others, bench.seed), test.image[:50]])
    fresh, true = ~duplicates(image, test.image), np.arange(len(image)) < len(others)
    return Images(image[fresh], np.full(int(fresh.sum()), -1), 10), true[fresh]


def strangers(images: Images, seed: int) -> np.ndarray:
    """As many pictures that are no digits: half of them corners of digits, enlarged; half grey emoji."""
    rng, half = np.random.default_rng(seed), len(images) // 2
    side = images.image.shape[-1]
    corners = images.image[:half, :, : side // 2, : side // 2].repeat(2, 2).repeat(2, 3)
    glyphs = emoji_subgroups.subgroups(20, side=16)[0].image.mean(1, keepdims=True)[:, :, 1:15, 1:15]
    picked = 1 - glyphs[rng.permutation(len(glyphs))[: len(images) - half]]
    return np.concatenate([corners, picked]).astype(np.float32)


def taken(bench: Bench, *, mined: bool = True) -> Images:
    """The labelled pictures and those taken from the pool: the surest of each class, or as many at random. All carry
    the class that the teacher gives them, which label-free arms never read."""
    found, true = pool(bench)
    rows = top_k_per_class(probabilities(bench.teacher, found), bench.budget["k"])
    if not mined:
        rows = np.random.default_rng(bench.seed).permutation(len(found))[: len(rows)]
    bench.noted |= {"purity": float(true[rows].mean()), "taken": float(len(rows))}
    both = joined(bench.train, found.take(rows))
    return Images(both.image, probabilities(bench.teacher, both).argmax(1), 10)


def alone(match: Match, bench: Bench) -> Method:
    """The teacher alone, on the labelled pictures."""
    return Ssld(bench.student(), bench.teacher, match=match)


def labels(bench: Bench) -> Method:
    """The labels of the few."""
    return Classification(bench.student())


def on_pool(kind: str, bench: Bench, *, mined: bool = True, **plan: int) -> nn.Module:
    """Taught on labelled and taken pictures: label-free, by classic distillation, or by the teacher's class."""
    ways = {
        "js": partial(alone, JensenShannon()),
        "kd": lambda b: Distillation(b.student(), b.teacher, hard_weight=0.0, soft_weight=1.0),
        "pseudo": labels,
    }
    return bench.fit(ways[kind](bench), taken(bench, mined=mined), **plan)


def tuned(bench: Bench) -> nn.Module:
    """The paper's second stage: the last sixth of the steps at a twentieth of the rate on the labelled pictures."""
    last = LONG["steps"] // 6
    student = on_pool("js", bench, steps=LONG["steps"] - last)
    return bench.fit(Ssld(student, bench.teacher), steps=last, lr=1e-4)


@torch.no_grad()
def transfer(bench: Bench, arm: str, student: nn.Module) -> Outcome:
    """Accuracy of a logistic regression on the backbone's features of other people's 8x8 digits, enlarged."""
    fit_on, test, _ = small_digits.load().split(300, 1000, seed=bench.seed)
    enlarged = partial(nn.functional.interpolate, size=14, mode="bilinear")
    one, two = (student[:-1](enlarged(torch.from_numpy(part.image))).numpy() for part in (fit_on, test))
    mean, scale = one.mean(0), one.std(0) + 1e-6
    probe = LogisticRegression(max_iter=2000).fit((one - mean) / scale, fit_on.label)
    return Outcome({"transfer": float(probe.score((two - mean) / scale, test.label))})


REGIMES = {
    "": Regime(images, partial(convnet, 1, 10, (8, 16, 32)), partial(convnet, 1, 10, (16, 32, 64)),
               taught={"epochs": 80}, augment=CropFlipJitter(1, flip=False, jitter=0.0).rows),
}  # fmt: skip
ARMS = {
    "teacher": Arm("the teacher itself", lambda bench: bench.teacher),
    "ce": Arm("labels of 400 digits", labels),
    "ce_best": Arm("the same, as long as held rows choose: one, three or six times",
                   chosen(*variants(labels, {"steps": 800}, {"steps": 2400}, LONG))),
    "js": Arm("teacher alone on the 400, Jensen-Shannon", partial(alone, JensenShannon())),
    "jeffreys": Arm("teacher alone on the 400, Jeffreys", partial(alone, Jeffreys())),
    "random": Arm("and as many pool images, at random", partial(on_pool, "js", mined=False)),
    "mined": Arm("and the pool images that the teacher is surest of, class by class", partial(on_pool, "js")),
    "mined_long": Arm("the same, six times as long", partial(on_pool, "js", **LONG)),
    "kd_long": Arm("these by KL at temperature 4", partial(on_pool, "kd", **LONG)),
    "pseudo_long": Arm("these with the teacher's class as label", partial(on_pool, "pseudo", **LONG)),
    "tuned_long": Arm("mined, the last sixth at a twentieth of the rate on the 400 alone", tuned),
}  # fmt: skip
PLAN = {"steps": 800, "optimizer": "adam", "lr": 2e-3}
STEP = "MobileNetV3-L, ImageNet: "

STUDY = Study(
    slug="ssld",
    question="How far does a teacher carry a small network without labels, on images that it picked?",
    arms=ARMS,
    cell=cell(REGIMES, ARMS, PLAN, transfer),
    ceiling="teacher",
    claims=(
        headline(higher("accuracy", "mined_long", "ce_best", 0.01, STEP + "75.3 -> 79.0 %",
                        said="the teacher alone, on images that it picked, beats labels at their best length")),
        higher("accuracy", "mined_long", "pseudo_long", 0.005, STEP + "soft labels, no hard ones"),
        higher("accuracy", "mined_long", "kd_long", 0.005, STEP + "cross-entropy with soft labels 76.0 -> JS 76.2 %"),
        higher("accuracy", "js", "ce", 0.01),
        higher("accuracy", "js", "jeffreys", 0.0),
        higher("accuracy", "mined", "js", 0.02, STEP + "77.1 -> 78.5 % by 4 M mined images"),
        higher("accuracy", "mined", "random", 0.005),
        higher("purity", "mined", "random", 0.3),
        higher("accuracy", "mined_long", "mined", 0.0, STEP + "76.2 -> 77.1 % from 120 to 360 epochs"),
        higher("accuracy", "tuned_long", "mined_long", 0.0, STEP + "78.5 -> 78.9 %"),
        higher("transfer", "mined_long", "ce_best", 0.01, "better pre-training for detection and segmentation"),
        within(0.02, "transfer", "mined", "random"),
    ),
    figures=(
        Figure("arms", tuple(bars(m, ours=("mined", "mined_long", "tuned_long")) for m in ("accuracy", "transfer"))),
    ),
    budget={"seen": 2000, "labelled": 300, "pool": 1700, "test": 1000, "k": 150},
    smoke={"seen": 200, "labelled": 60, "pool": 100, "test": 100, "k": 5, "plan": {"steps": 6}},
    seeds=(11, 12, 13, 14, 15),
)  # fmt: skip
