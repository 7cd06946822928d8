"""When does a student reach its teacher, and what in a soft label gets it there?

Digits: a perceptron of two layers of 256 teaches one of 32 on 300 of the rows that it learned from itself, and one of
its own size on all of them. Losses differ, and what is left of the soft label; each takes the rate that held rows
choose. The language part is in :mod:`redistill.studies.soft_label_language`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import nn

from redistill.beds import mnist
from redistill.beds.bench import Arm, Bench, Parts, Regime, cell, chosen
from redistill.beds.figures import Figure, bars
from redistill.core import Method
from redistill.core.claims import headline, higher, lower, within
from redistill.core.study import Budget, Derived, Outcome, Study
from redistill.methods.analysis.soft_label_study import Setting, distillation
from redistill.methods.analysis.soft_label_study.soft_labels import PARTS
from redistill.models.nets import mlp
from redistill.studies.soft_label_language import language
from redistill.supervised.classifier import Classification
from redistill.supervised.targets import LabelSmoothing
from redistill.supervised.temperature import log_of

CENTRE = Setting(tau=4.0, soft_weight=0.7)
RATES = (0.02, 0.05, 0.15)
Make = Callable[[Bench], Method]


def digits(few: bool, seed: int, budget: Budget) -> Parts:
    """All rows for the teacher; the student's: all or 300 of them; others that choose, and that judge."""
    seen, held, test = mnist.digits(seed, budget["rows"], budget["held"], 1500, side=14)
    return Parts(seen.take(np.arange(budget["student"])) if few else seen, test, held, seen)


def run(make: Make, part: str, lr: float, bench: Bench) -> nn.Module:
    """The student after a run at the rate ``lr``; its soft labels are what ``part`` leaves of the teacher's."""
    z, label, tau = bench.said, torch.from_numpy(bench.train.label), CENTRE.tau
    left = PARTS[part]((z / tau).softmax(1), label, torch.Generator().manual_seed(bench.seed))
    z = tau * log_of(left)
    rows = {**bench.rows(), "teacher_logits": z - z.mean(1, keepdim=True)}
    return bench.fit(make(bench), rows, lr=lr)


def at_best(*makes: Make, part: str = "whole") -> Callable[[Bench], nn.Module]:
    """The best of ``makes`` and rates on held rows, trained again on all."""
    return chosen(*(Arm(f"rate {lr}", partial(run, make, part, lr)) for make in makes for lr in RATES))


def taught(setting: Setting, bench: Bench) -> Method:
    """The loss of a setting."""
    return distillation(setting, bench.student())


def labels(smoothing: float, bench: Bench) -> Method:
    """Labels, smoothed."""
    return Classification(bench.student(), rectifier=LabelSmoothing(smoothing))


def as_other(**changes: object) -> Make:
    """The centre with another loss."""
    return partial(taught, Setting(**{**vars(CENTRE), **changes}))  # type: ignore[arg-type]


WIDE = partial(mlp, 196, 10, (256, 256))
REGIMES = {
    "few": Regime(partial(digits, True), partial(mlp, 196, 10, (32, 32)), WIDE, {"steps": 400}, {"steps": 1000}),
    "same": Regime(partial(digits, False), WIDE, WIDE, {"steps": 1000}, {"steps": 1000}),
}
CENTRAL, FEW = partial(taught, CENTRE), ("few",)
LANGUAGE = {"lm_labels": (0.0, 1.0), "lm_t1": (1.0, 1.0), "lm_t4": (1.0, 4.0)}
ARMS = {
    "teacher": Arm("the teacher itself", lambda bench: bench.teacher),
    "labels": Arm("labels alone", at_best(partial(labels, 0.0))),
    "smoothing": Arm("label smoothing, strength chosen", at_best(*(partial(labels, e) for e in (0.1, 0.3, 0.5)))),
    "kd": Arm("soft labels, T = 4, weight 0.7 (the centre)", at_best(CENTRAL)),
    "kd_t1": Arm("soft labels, T = 1", at_best(as_other(tau=1.0)), on=FEW),
    "soft_ce": Arm("cross-entropy with them: without T^2", at_best(as_other(form="soft_ce")), on=FEW),
    "mse": Arm("squared error of the logits", at_best(as_other(form="mse")), on=FEW),
    "hard": Arm("the teacher's most probable class", at_best(as_other(form="hard")), on=FEW),
    "confidence": Arm("soft labels: confidence alone", at_best(CENTRAL, part="confidence"), on=FEW),
    "shuffled": Arm("soft labels: other classes shuffled", at_best(CENTRAL, part="shuffled"), on=FEW),
    "smoothed": Arm("soft labels: mean confidence, even rest", at_best(CENTRAL, part="smoothed"), on=FEW),
}
TITLES = {
    "lm_labels": "language model, texts alone",
    "lm_t1": "language model, teacher alone, T = 1",
    "lm_t4": "language model, teacher alone, T = 4",
}
on_digits = cell(REGIMES, ARMS)


def measure(arm: str, seed: int, budget: Budget) -> Outcome:
    """One arm on digits, or a language model."""
    return Outcome(language(*LANGUAGE[arm], seed, budget)) if arm in LANGUAGE else on_digits(arm, seed, budget)


def of_teacher(taught: dict[str, float]) -> dict[str, float]:
    """What the language student's teacher reaches."""
    return {name: taught[f"teacher_{name}"] for name in ("exact", "perplexity")}


PAPER = "in words only: the student's architecture and the teacher's quality decide"
STUDY = Study(
    slug="soft_label_study",
    question="When does a student reach its teacher, and what in a soft label gets it there?",
    arms={**ARMS, **{name: Arm(title, lambda bench: bench.teacher) for name, title in TITLES.items()}},
    cell=measure,
    derived={"lm_teacher": Derived("language model, the teacher itself", ("lm_t1",), of_teacher)},
    ceiling="teacher",
    claims=(
        headline(higher("few_accuracy", "kd", "labels", 0.02,
                        said="soft labels beat labels, each at its best rate (300 rows)")),
        *(higher("few_accuracy", "kd", rival, 0.01) for rival in ("smoothing", "hard", "kd_t1", "soft_ce")),
        higher("few_accuracy", "kd", "confidence", 0.01),
        higher("few_accuracy", "confidence", "shuffled", 0.01),
        higher("few_accuracy", "confidence", "smoothed", 0.01),
        higher("same_accuracy", "kd", "labels", 0.003),
        higher("same_accuracy", "kd", "smoothing", 0.003),
        within(0.005, "same_accuracy", "kd", "teacher", PAPER),
        within(0.02, "exact", "lm_t1", "lm_teacher", PAPER),
        higher("exact", "lm_t1", "lm_labels", 0.02),
        lower("perplexity", "lm_t1", "lm_labels", 0.2),
        lower("perplexity", "lm_t1", "lm_t4", 0.2),
    ),
    figures=(Figure("arms", (bars("few_accuracy", ours={"kd"}), bars("same_accuracy", ours={"kd"}),
                             bars("exact", "language: brackets closed right, %", ours={"lm_t1"}))),),
    seeds=(4, 5, 6, 7, 8),
    budget={"rows": 3000, "held": 400, "student": 300, "lm_teacher_rows": 3000, "lm_teacher_steps": 250, "lm_rows": 300,
            "lm_steps": 300, "lm_test": 500},
    smoke={"rows": 300, "held": 60, "student": 60, "plan": {"steps": 8}, "lm_teacher_rows": 100, "lm_teacher_steps": 5,
           "lm_rows": 50, "lm_steps": 5, "lm_test": 40},
)  # fmt: skip
