"""Does a vote of its own past flatten an architecture search, and shrink what is lost when the mixture is cut down?

Handwritten digits of 8x8 pixels; a cell of three edges with five operations each, so that all 125 networks are trained
once and every choice can be looked up. Arms differ in what the supernet's weights are taught beside the labels.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from redistill.beds import digits
from redistill.beds.bench import columns, labelled, probabilities
from redistill.beds.figures import Figure, bars, curves
from redistill.beds.images import Images
from redistill.core import Ema, Plan, Progress, fit
from redistill.core.cache import remember
from redistill.core.claims import headline, lower
from redistill.core.method import Batch
from redistill.core.study import Outcome, Study
from redistill.methods.supervised.adr.attacks import sharpened
from redistill.methods.supervised.sd_darts import SdDarts
from redistill.methods.supervised.sd_darts.flatness import sharpness, top_eigenvalue
from redistill.models.cells import NAS_BENCH_201, CellNet
from redistill.rivals.darts import Darts, halves, one_hot_mixture

cross_entropy = nn.functional.cross_entropy
SPACE = [list(words) for words in product(NAS_BENCH_201, repeat=3)]


class AveragedTeacher(SdDarts):
    """Control: the vote is that of one moving average of the supernet instead of its snapshots."""

    def __init__(self, student: nn.Module, decay: float, **options: Any) -> None:
        super().__init__(student, snapshots=1, **options)
        self.past0 = Ema(self.searched, decay)
        self.taken.fill_(1)

    def prepare(self, batch: Batch, now: Progress) -> Batch:
        return {**batch, "past": self.voted(batch["image"])}

    def after(self, turn: str, stats: dict[str, Tensor], now: Progress) -> None:
        if turn == "weights":
            self.past0.update(self.searched)


class SharpnessAware(Darts):
    """Control: the weights' gradient is taken where every matrix was moved uphill by ``rho`` of its length."""

    def __init__(self, student: nn.Module, rho: float, **options: Any) -> None:
        super().__init__(student, **options)
        self.rho = rho

    def answers(self, turn: str, batch: Batch, now: Progress) -> Tensor:
        if turn == "architecture":
            return super().answers(turn, batch, now)
        here = self.searched
        there = sharpened(here, cross_entropy(here(batch["image"]), batch["label"]), self.rho)
        return there(batch["image"])


def data(budget: Mapping[str, Any]) -> tuple[Images, Images]:
    """Rows to search and train on, rows that judge: the same split for all seeds, because the table belongs to it."""
    seen, judge = digits.load().split(budget["rows"], seed=0)
    return seen, judge


def supernet(budget: Mapping[str, Any]) -> CellNet:
    """Two cells of ``width`` channels with all operations."""
    return CellNet(1, 10, widths=(budget["width"],) * 2, nodes=3)


def table(budget: Mapping[str, Any]) -> np.ndarray:
    """Accuracy [125] of every network of the space, trained alone."""
    seen, judge = data(budget)
    given = {k: budget[k] for k in ("rows", "width", "table_epochs", "space")}

    def trained(words: list[str]) -> float:
        torch.manual_seed(0)
        net = labelled(supernet(budget).fresh(words), seen, 0, epochs=budget["table_epochs"], lr=0.1)
        return float((probabilities(net, judge).argmax(1) == judge.label).mean())

    def make() -> dict[str, Tensor]:
        return {"accuracy": torch.tensor([trained(words) for words in SPACE[: budget["space"]]], dtype=torch.float64)}

    found = remember("sd_darts_table", given, make)["accuracy"].numpy()
    return np.pad(found, (0, len(SPACE) - len(found)), mode="edge")  # a smoke run trains the first few only


def method(arm: str, budget: Mapping[str, Any]) -> Darts:
    """The search of an arm, on the same blank supernet for the same global seed."""
    net, common = supernet(budget), {"warmup": budget["warmup"], "keep": 2}
    if arm == "sam":
        return SharpnessAware(net, budget["rho"], **common)
    if arm == "ema":
        return AveragedTeacher(net, budget["decay"], **common)
    return Darts(net, **common) if arm == "darts" else SdDarts(net, snapshots=int(arm[-1]), **common)


def cell(arm: str, seed: int, budget: Mapping[str, Any]) -> Outcome:
    """What the cell that was found is worth in the table, and how flat the supernet is where the search ended."""
    known = table(budget)
    found = [_search(arm, 1000 * repeat + seed, budget, known) for repeat in range(budget["searches"])]
    numbers = {key: float(np.mean([one[0][key] for one in found])) for key in found[0][0]}
    words = "; ".join(" ".join(one[2]) for one in found)
    gap, sharp = np.mean([one[1] for one in found], axis=0).T
    epoch = budget["every"] * np.arange(1, len(gap) + 1)
    return Outcome(numbers, {"gap_path": gap, "sharpness_path": sharp, "epoch": epoch}, {"cells": words})


def _search(
    arm: str, seed: int, budget: Mapping[str, Any], known: np.ndarray
) -> tuple[dict[str, float], np.ndarray, list[str]]:
    seen, judge = data(budget)
    pairs = halves(columns(seen), seed)
    torch.manual_seed(seed)
    searching, path = method(arm, budget), []
    alone = {"optimizer": "adam", "lr": budget["lr_alpha"], "betas": (0.5, 0.999), "weight_decay": 1e-3}
    plan = Plan(
        epochs=budget["epochs"], batch_size=64, optimizer="sgd", lr=budget["lr"], weight_decay=3e-4,
        clip=5.0, seed=seed, device="cpu", log_every=budget["every"] * -(-len(pairs["label"]) // 64),
        turns={"architecture": alone},
    )  # fmt: skip

    def watch(now: Any, row: Any, method: Any) -> None:
        numbers = _flatness(method, pairs, judge, budget["radius"])
        path.append([numbers["gap"], numbers["sharpness"]])

    fit(searching, pairs, plan, observers=(watch,))
    words = searching.genotype()
    accuracy = known[SPACE.index(words)]
    numbers = {
        "regret": float(known.max() - accuracy),
        **_flatness(searching, pairs, judge, budget["radius"]), "curvature": _curvature(searching, pairs),
    }  # fmt: skip
    return numbers, np.array(path), words


def _flatness(method: Darts, pairs: Mapping[str, Tensor], judge: Images, radius: float) -> dict[str, float]:
    """``gap``: accuracy that the supernet loses when its mixture becomes one-hot, its weights as they are;
    ``sharpness``: rise of the loss of the architecture's half within ``radius`` of the weights."""
    image, label = torch.from_numpy(judge.image), torch.from_numpy(judge.label)
    student, mixture = method.student, method.architecture().detach()
    cut = one_hot_mixture(method.genotype(), NAS_BENCH_201)
    with torch.no_grad():
        before, after = (float((student(image, m).argmax(1) == label).float().mean()) for m in (mixture, cut))
    weights = list(student.parameters())
    rise = sharpness(lambda: _loss(method, pairs, mixture), weights, radius)
    return {"gap": before - after, "sharpness": rise}


def _loss(method: Darts, pairs: Mapping[str, Tensor], mixture: Tensor) -> Tensor:
    return cross_entropy(method.student(pairs["val_image"], mixture), pairs["val_label"])


def _curvature(method: Darts, pairs: Mapping[str, Tensor]) -> float:
    """The greatest eigenvalue of the Hessian of that loss in alpha."""
    parameters = list(method.architecture.parameters())
    return top_eigenvalue(lambda: _loss(method, pairs, method.architecture()), parameters, iterations=15)


PAPER = "a flatter loss and a smaller discretisation gap (abstract; no figure at hand)"
COMMON = {"warmup": 0.1, "lr": 0.1, "lr_alpha": 0.3, "decay": 0.95,
          "rho": 0.02, "radius": 0.1}  # fmt: skip
STUDY = Study(
    slug="sd_darts",
    question="Does a vote of its own past flatten an architecture search and shrink the loss at its end?",
    arms={
        "darts": "DARTS, first order",
        "ema": "and a moving average of the supernet as teacher",
        "sam": "and weights moved uphill before each gradient",
        "sd_1": "SD-DARTS, the last snapshot teaches",
        "sd_3": "SD-DARTS, the last three vote",
    },
    cell=cell,
    claims=(
        headline(lower("curvature", "sd_3", "darts", 0.15, PAPER, relative=True,
                       said="a vote of three snapshots leaves a search less curved than DARTS's")),
        lower("sharpness", "sd_3", "darts", 0.1, PAPER, relative=True),
        lower("gap", "sd_3", "darts", 0.03, PAPER),
        lower("regret", "sd_3", "darts", 0.005, "better final architectures than DARTS"),
        lower("curvature", "sd_3", "ema", 0.1, relative=True),
        lower("curvature", "sd_3", "sam", 0.1, relative=True),
        lower("curvature", "sd_3", "sd_1", 0.05, relative=True),
    ),
    figures=(
        Figure("arms", (
            curves("gap_path", "accuracy lost when the mixture is cut, %", scale=100, x="epoch", xlabel="epoch"),
            curves("sharpness_path", "sharpness of the validation loss", x="epoch", xlabel="epoch"),
            bars("curvature", scale=1, ours={"sd_1", "sd_3"}),
            bars("regret", "regret: below the best network, points", ours={"sd_1", "sd_3"}),
        ), columns=2),
    ),
    seeds=tuple(range(4, 14)),
    budget={"rows": 800, "width": 8, "table_epochs": 12, "space": 125, "epochs": 25, "searches": 2, "every": 5,
            **COMMON},
    smoke={"rows": 160, "width": 4, "table_epochs": 1, "space": 2, "epochs": 3, "searches": 1, "every": 1},
)  # fmt: skip
