"""Should a student learn its teacher's answers with a weight above 1 when labels are wrong?

Exactly, for a ridge regression of six directions and for a symmetric logistic problem; then on MNIST digits with wrong
labels, for a softmax head on random features (penalty x weight, three kinds of wrong labels) and for a network. An arm
is a weight, or a way to choose penalty and weight on validation rows that are as noisy as the training rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from redistill.beds.bench import probabilities
from redistill.beds.images import Images, confuse, corrupt
from redistill.beds.mnist import digits
from redistill.core.study import Claim, Outcome, Results, Study
from redistill.methods.analysis.label_noise_sd import best_weight, estimation_error, imitate
from redistill.models.nets import mlp
from redistill.studies.classifiers import train, train_on_labels
from redistill.supervised.classifier import Classification
from redistill.supervised.probe import Probe, fit_probe
from redistill.supervised.targets import LabelSmoothing
from redistill.theory.logistic import FlippedPair
from redistill.theory.ridge import Truth, shrinkage

WEIGHTS = {"teacher": 0.0, "half": 0.5, "plain": 1.0, "w125": 1.25, "w150": 1.5, "w200": 2.0}
CHOICES = {"tuned": (0.0, 0.0), "inside": (0.0, 1.0), "free": (0.0, 2.0)}  # which weights may be chosen
LAMBDAS = (0.01, 0.03, 0.1, 0.3, 1.0)
NOISE = {"uniform50": (corrupt, 0.5), "uniform30": (corrupt, 0.3), "confused30": (confuse, 0.3)}
VARIANCES = (0, 1, 4, 9, 25)
GRID = np.logspace(-3, 3, 241)
STOPS = (1, 2, 3, 4, 6, 8, 12, 20, 40)  # steps of L-BFGS


def cell(arm: str, seed: int, budget: Mapping[str, Any]) -> Outcome:
    """One arm everywhere: exact errors, the probe under every kind of noise, the network under uniform noise."""
    found = ridge(arm, seed) | logistic(arm)
    if arm == "free":
        found["lean"] = lean(seed, "uniform50", budget["rows"]) - lean(seed, "uniform30", budget["rows"])
    for noise in NOISE:
        found |= {f"{name}_{noise}": value for name, value in probe(arm, seed, noise, budget["rows"]).items()}
    if arm not in CHOICES:
        for noise in ("uniform50", "uniform30"):
            found[f"network_{noise}"] = network(arm, seed, noise, budget["rows"], budget["epochs"])
    return Outcome(found)


# ---- exact ----


def ridge(arm: str, seed: int) -> dict[str, float]:
    """Estimation errors at the penalty 1 (``free``: with the best weight) and at the best penalty of a grid."""
    found, s = {}, np.arange(6.0, 0.0, -1.0)
    problems = {str(v): Truth(s, np.ones(6), v**0.5) for v in VARIANCES} | {"aligned": Truth(s, np.eye(6)[0], 3.0)}
    for name, truth in problems.items():
        if arm in WEIGHTS or arm == "free":
            xi = WEIGHTS.get(arm, best_weight(truth, 1.0))
            found[f"ridge_{name}"] = estimation_error(truth, 1.0, xi)
        if arm in CHOICES:
            low, high = CHOICES[arm] if arm != "free" else (-np.inf, np.inf)
            weights = [np.clip(best_weight(truth, lam), low, high) for lam in GRID]
            found[f"ridge_tuned_{name}"] = min(map(estimation_error, [truth] * len(GRID), GRID, weights))
        if arm == "free":
            found[f"weight_{name}"] = best_weight(truth, 1.0)
    return found | ({"formula_gap": simulated_gap(problems["9"], seed)} if arm == "free" else {})


def simulated_gap(truth: Truth, seed: int, draws: int = 20000) -> float:
    """Distance of the formula from the weight of least mean error over drawn labels, at the penalty 1."""
    a = shrinkage(truth.s, 1.0)
    labels = truth.s * truth.t + truth.sigma * np.random.default_rng(seed).standard_normal((draws, len(a)))
    teacher = a * labels / truth.s
    slope = -(1 - a) * teacher  # of the student in xi
    simulated = -((teacher - truth.t) * slope).sum() / (slope**2).sum()
    return float(abs(simulated - best_weight(truth, 1.0)))


def logistic(arm: str) -> dict[str, float]:
    """The share of flipped labels up to which a student knows the true class of all its rows (100 a class, inner
    product 0.1, penalty 0.002)."""
    if arm not in WEIGHTS:
        return {}
    shares = np.linspace(0, 0.5, 101)[1:-1]
    right = [(FlippedPair(100, p, 0.1, 0.002).student(WEIGHTS[arm]) > 0).all() for p in shares]
    return {"repaired_share": float(max([p for p, ok in zip(shares, right) if ok], default=0.0))}


# ---- the probe ----


class Bed(NamedTuple):
    """Features of training, validation and test digits; given labels and true ones."""

    train: np.ndarray
    given: np.ndarray
    true: np.ndarray
    validation: np.ndarray
    validation_given: np.ndarray
    test: np.ndarray
    test_true: np.ndarray


def noisy_digits(seed: int, noise: str, rows: int) -> tuple[Images, np.ndarray, Images, np.ndarray, Images]:
    """Training digits and their given labels, validation digits (a quarter as many) and theirs, 2,000 test digits."""
    train_set, validation, test = digits(seed, rows, rows // 4, 2000)
    wrong, share = NOISE[noise]
    given = [wrong(images.label, share, 10, seed + k) for k, images in enumerate((train_set, validation))]
    return train_set, given[0], validation, given[1], test


@lru_cache(maxsize=4)
def bed(seed: int, noise: str, rows: int, width: int = 256) -> Bed:
    """Random ReLU features of the digits, standardised on the training rows."""
    train_set, given, validation, validation_given, test = noisy_digits(seed, noise, rows)
    weight = np.random.default_rng([seed, 1]).standard_normal((784, width))
    raw = [np.maximum(i.image.reshape(len(i), -1).astype(float) @ weight, 0) for i in (train_set, validation, test)]
    mean, sd = raw[0].mean(0), raw[0].std(0) + 1e-9
    x, x_val, x_test = ((r - mean) / sd for r in raw)
    return Bed(x, given, train_set.label, x_val, validation_given, x_test, test.label)


@lru_cache(maxsize=4)
def sweep(seed: int, noise: str, rows: int) -> dict[tuple[float, float | str], Probe]:
    """Probes for every penalty and weight (fitted once for all arms), and with smoothed labels."""
    data, found = bed(seed, noise, rows), {}
    hard = np.eye(10)[data.given]
    for lam in LAMBDAS:
        teacher = fit_probe(data.train, hard, lam)
        said = teacher.probabilities(data.train)
        targets = {xi: xi * said + (1 - xi) * hard for xi in WEIGHTS.values()} | {"smoothing": 0.9 * hard + 0.01}
        found |= {(lam, name): fit_probe(data.train, t, lam, start=teacher) for name, t in targets.items()}
    return found


def hits(fitted: Probe, features: np.ndarray, label: np.ndarray) -> float:
    """Share of rows whose first choice is the label."""
    return float((fitted.logits(features).argmax(1) == label).mean())


def probe(arm: str, seed: int, noise: str, rows: int) -> dict[str, float]:
    """Clean test accuracy and the share of wrong training labels whose true class is found: at every penalty for a
    weight, at the chosen one for a choice."""
    data, probes = bed(seed, noise, rows), sweep(seed, noise, rows)

    def measured(name: str, fitted: Probe) -> dict[str, float]:
        wrong = data.given != data.true
        recovered = hits(fitted, data.train[wrong], data.true[wrong])
        return {f"accuracy_{name}": hits(fitted, data.test, data.test_true), f"recovered_{name}": recovered}

    def chosen(candidates: list[Probe]) -> Probe:
        return max(candidates, key=lambda fitted: hits(fitted, data.validation, data.validation_given))

    if arm in WEIGHTS:
        return {k: v for lam in LAMBDAS for k, v in measured(str(lam), probes[lam, WEIGHTS[arm]]).items()}
    if arm == "early":
        hard = np.eye(10)[data.given]
        return measured("tuned", chosen([fit_probe(data.train, hard, LAMBDAS[0], iterations=k) for k in STOPS]))
    if arm == "smoothing":
        at_each = {k: v for lam in LAMBDAS for k, v in measured(str(lam), probes[lam, arm]).items()}
        return at_each | measured("tuned", chosen([probes[lam, arm] for lam in LAMBDAS]))
    low, high = CHOICES[arm]
    allowed = [xi for xi in WEIGHTS.values() if low <= xi <= high]
    return measured("tuned", chosen([probes[lam, xi] for lam in LAMBDAS for xi in allowed]))


def lean(seed: int, noise: str, rows: int) -> float:
    """By how much the weight 1.5 is more accurate than 0.5 at the penalty 0.1."""
    data, probes = bed(seed, noise, rows), sweep(seed, noise, rows)
    less, more = (hits(probes[0.1, xi], data.test, data.test_true) for xi in (0.5, 1.5))
    return more - less


# ---- the network ----


def network(arm: str, seed: int, noise: str, rows: int, epochs: int) -> float:
    """Clean test accuracy of a two-layer network with weight decay; ``early`` stops after a third of the epochs."""
    train_set, given, _, _, test = noisy_digits(seed, noise, rows)
    noisy = Images(train_set.image, given, 10)
    if arm == "teacher":
        trained = net_teacher(seed, noise, rows, epochs)
    else:
        methods = {"smoothing": lambda: Classification(start(seed), rectifier=LabelSmoothing(0.1)),
                   "early": lambda: Classification(start(seed))}  # fmt: skip
        method = methods.get(arm, lambda: imitate(start(seed), net_teacher(seed, noise, rows, epochs), WEIGHTS[arm]))()
        trained = train(method, noisy, seed, epochs=epochs // 3 if arm == "early" else epochs, weight_decay=3e-3)
    return float((probabilities(trained, test).argmax(1) == test.label).mean())


@lru_cache(maxsize=4)
def net_teacher(seed: int, noise: str, rows: int, epochs: int) -> nn.Module:
    """The network after training on the given labels."""
    train_set, given, *_ = noisy_digits(seed, noise, rows)
    return train_on_labels(start(seed), Images(train_set.image, given, 10), seed, epochs=epochs, weight_decay=3e-3)


def start(seed: int) -> nn.Module:
    """The same first weights for all arms."""
    torch.manual_seed(seed)
    return mlp(784, 10)


def draw(results: Results, folder: Path) -> None:
    """The best ridge weight against the noise; accuracy against the weight at every penalty; what choosing gives."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 8), layout="constrained")
    exact, fifty, thirty, bars = figure.subplots(2, 2).ravel()
    _draw_exact(exact)
    for axis, noise in ((fifty, "uniform50"), (thirty, "uniform30")):
        for lam in LAMBDAS:
            found = [100 * results.values(arm, f"accuracy_{lam}_{noise}").mean() for arm in WEIGHTS]
            axis.plot(list(WEIGHTS.values()), found, "o-", label=f"penalty {lam}")
        axis.set(xlabel="weight of the teacher's answers", ylabel="test accuracy, %", ylim=(45, 87))
        axis.set_title(f"softmax on features, {noise[-2:]} % wrong labels", fontsize=10)
    fifty.legend(fontsize=8)
    arms = ["smoothing", "early", *CHOICES]
    for k, noise in enumerate(NOISE):
        values = 100 * np.array([results.values(arm, f"accuracy_tuned_{noise}") for arm in arms])
        bars.bar(np.arange(len(arms)) + 0.27 * (k - 1), values.mean(1), 0.27, yerr=values.std(1), label=noise)
    bars.set_xticks(range(len(arms)), arms)
    bars.set(ylim=(65, 90), ylabel="test accuracy, %")
    bars.set_title("penalty (and weight) chosen on noisy validation rows", fontsize=10)
    bars.legend(fontsize=8, ncols=3)
    figure.savefig(folder / "weights.png", dpi=100)


def _draw_exact(axis: Any) -> None:
    s, variances = np.arange(6.0, 0.0, -1.0), np.logspace(-2, 3, 120)
    for lam in (0.3, 1.0, 3.0):
        best = [best_weight(Truth(s, np.ones(6), v**0.5), lam) for v in variances]
        axis.plot(variances, best, label=f"penalty {lam}")
    axis.axhline(1, color="black", lw=0.8, ls="--")
    axis.set(xscale="log", ylim=(-3, 4), xlabel="variance of the label noise", ylabel="best weight")
    axis.set_title("ridge, exact", fontsize=10)
    axis.legend(fontsize=8)


STUDY = Study(
    slug="label_noise_sd",
    question="Under wrong labels, does a weight above 1 for the teacher's answers beat every weight up to 1?",
    arms={
        "teacher": "labels alone (weight 0)", "half": "weight 0.5", "plain": "weight 1", "w125": "weight 1.25",
        "w150": "weight 1.5", "w200": "weight 2", "smoothing": "label smoothing 0.1", "early": "early stopping",
        "tuned": "labels alone, penalty chosen", "inside": "penalty and weight up to 1 chosen",
        "free": "penalty and any weight chosen",
    },
    claims=(
        Claim("ridge: the best weight exceeds 1 when the noise is large", "weight_9", "free", "", "higher", 1.0,
              paper="proved for high noise"),
        Claim("ridge: with right labels the best weight is negative", "weight_0", "free", "", "lower", 0.0),
        Claim("ridge: the formula is where simulated errors are least", "formula_gap", "free", "", "lower", 0.02),
        Claim("ridge: the best weight beats weight 1 at a fixed penalty", "ridge_9", "free", "plain", "lower", 0.1,
              relative=True, paper="proved"),
        Claim("ridge: penalty and weight together beat the best penalty, truth along one direction",
              "ridge_tuned_aligned", "free", "tuned", "lower", 0.1, relative=True, paper="proved under conditions"),
        Claim("ridge: and they beat penalty and weights up to 1", "ridge_tuned_aligned", "free", "inside", "lower",
              0.05, relative=True),
        Claim("control: a truth that is equal in all directions leaves the best penalty nothing to gain",
              "ridge_tuned_9", "tuned", "free", "lower", -0.001, relative=True),
        Claim("logistic: weight 1 repairs a larger share of flipped labels than the teacher", "repaired_share",
              "plain", "teacher", "higher", 0.1, paper="a range of corruption in which the student is more accurate"),
        Claim("logistic: weight 1.5 repairs a larger share than weight 1", "repaired_share", "w150", "plain", "higher",
              0.05),
        Claim("small penalty, 50 % wrong: weight 2 beats weight 1", "accuracy_0.01_uniform50", "w200", "plain",
              "higher", 0.03, paper="a weight above 1 beats weights up to 1"),
        Claim("small penalty, 30 % wrong: weight 2 beats weight 1", "accuracy_0.01_uniform30", "w200", "plain",
              "higher", 0.01, paper="a weight above 1 beats weights up to 1"),
        Claim("small penalty, 30 % confused classes: weight 2 beats weight 1", "accuracy_0.01_confused30", "w200",
              "plain", "higher", 0.01, paper="a weight above 1 beats weights up to 1"),
        Claim("small penalty, 50 % wrong: weight 2 finds more true classes of wrong training labels than weight 1",
              "recovered_0.01_uniform50", "w200", "plain", "higher", 0.05),
        Claim("the reverse: at a large penalty the teacher beats weight 1", "accuracy_0.3_uniform50", "teacher",
              "plain", "higher", 0.005),
        Claim("more noise leans to larger weights (penalty 0.1, 50 % against 30 %)", "lean", "free", "", "higher",
              0.005),
        Claim("50 % wrong, penalty chosen too: any weight beats weights up to 1", "accuracy_tuned_uniform50", "free",
              "inside", "higher", 0.005, paper="a weight above 1 beats weights up to 1"),
        Claim("50 % wrong: penalty and weight chosen beat the penalty alone", "accuracy_tuned_uniform50", "free",
              "tuned", "higher", 0.005),
        Claim("50 % wrong: penalty and weight chosen cost at most 1 % against the penalty alone",
              "accuracy_tuned_uniform50", "free", "tuned", "higher", -0.01),
        Claim("30 % confused classes: penalty and weight chosen beat early stopping", "accuracy_tuned_confused30",
              "free", "early", "higher", 0.02),
        Claim("50 % wrong: penalty and weight chosen beat label smoothing", "accuracy_tuned_uniform50", "free",
              "smoothing", "higher", 0.005),
        Claim("network, 50 % wrong: weight 1 beats the teacher", "network_uniform50", "plain", "teacher", "higher",
              0.02),
        Claim("network, 50 % wrong: weight 1.5 beats weight 1", "network_uniform50", "w150", "plain", "higher", 0.003,
              paper="a weight above 1 beats weights up to 1"),
        Claim("network, 30 % wrong: weight 1.5 beats weight 1", "network_uniform30", "w150", "plain", "higher", 0.003,
              paper="a weight above 1 beats weights up to 1"),
        Claim("control: stopping a network that learns wrong labels by heart early beats weight 1.5",
              "network_uniform50", "early", "w150", "higher", 0.05),
    ),
    cell=cell,
    budget={"rows": 2000, "epochs": 39},
    smoke={"rows": 200, "epochs": 3},
    draw=draw,
    notes=(
        "The paper's features come from networks trained on ImageNet and its labels from several sets of fine-grained "
        "pictures; here 256 random ReLU features of MNIST digits, 2,000 rows. Confused labels become the next class.",
        "All probes of a seed are fitted once and shared by the arms. Test rows have right labels; the 500 validation "
        "rows, on which penalties, weights and stopping steps are chosen, are as noisy as the training rows.",
        "Seeds 101 to 103 set the thresholds. They showed that the gain of a weight above 1 belongs to a penalty that "
        "is too small: at 0.01 weight 2 beats weight 1 by 5 points (50 % wrong), at 0.3 the teacher beats all weights "
        "above 0.5, and once the penalty is chosen on validation rows little is left. Ridge says the same exactly.",
        "The network (two hidden layers of 128, weight decay 0.003, 39 epochs) was chosen to learn part of the wrong "
        "labels by heart. With 20 epochs and weight decay 0.01 its teacher reaches 84 % and every weight above 0 "
        "loses (seed 101); stopping after a third of the epochs gives the same 84 %.",
        "Early stopping of the probe is a number of L-BFGS steps at the smallest penalty.",
        "Not shown on seeds 1 to 3: that any weight beats weights up to 1 once the penalty is chosen too (the same "
        "probe was chosen on every seed), nor that it beats the penalty alone or label smoothing at 50 % (means are "
        "higher, seeds disagree); weight 1.5 against 1 for the network at 50 % (0.1 points); and the teacher's lead at "
        "the penalty 0.3, which one seed in three does not have.",
    ),
)  # fmt: skip
