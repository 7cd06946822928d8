"""Should a student learn its teacher's answers with a weight above 1 when labels are wrong?

Exactly, for a ridge regression of six directions; then on MNIST digits with wrong labels, for a softmax head on random
features and for a network. An arm is a set of weights (or of the plain remedies against noise): one of them, and the
penalty of the head, are chosen on validation rows that are as noisy as the training rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache, partial
from typing import NamedTuple

import numpy as np

from redistill.beds import mnist
from redistill.beds.bench import Arm, Bench, Parts, Regime, chosen
from redistill.beds.figures import Figure, bars
from redistill.beds.images import Images, confuse, corrupt
from redistill.core import Method
from redistill.core.claims import headline, higher, lower
from redistill.core.study import Budget, Outcome, Study
from redistill.methods.analysis.label_noise_sd import best_weight, estimation_error, imitate
from redistill.models.nets import mlp
from redistill.supervised.classifier import Classification
from redistill.supervised.probe import Probe, fit_probe
from redistill.supervised.targets import LabelSmoothing
from redistill.theory.ridge import Truth

WEIGHTS = {"labels": (0.0,), "inside": (0.0, 0.5, 1.0), "above": (1.25, 1.5, 2.0)}  # of the teacher's answers
SMOOTHING = (0.1, 0.3, 0.5)
LAMBDAS = (0.01, 0.03, 0.1, 0.3, 1.0)
NOISE = {"uniform50": (corrupt, 0.5), "uniform30": (corrupt, 0.3), "confused30": (confuse, 0.3)}
STOPS = (1, 2, 3, 4, 6, 8, 12, 20, 40)  # steps of L-BFGS


def cell(arm: str, seed: int, budget: Budget) -> Outcome:
    """One arm everywhere: exact errors, the probe under every kind of noise, the network under uniform noise."""
    found = ridge(arm)
    for noise in NOISE:
        found |= {f"{noise}_{name}": value for name, value in probe(arm, seed, noise, budget["rows"]).items()}
    for noise, regime in REGIMES.items():
        bench = Bench.at(noise, regime, seed, budget)
        net = chosen(*networks(arm))(bench)
        found |= {f"{noise}_network": bench.judge(net)["accuracy"], f"{noise}_network_chosen": bench.noted["chosen"]}
    return Outcome(found)


# ---- exact ----


def ridge(arm: str) -> dict[str, float]:
    """The least estimation error over penalties and the arm's interval of weights, where the truth is the largest
    direction alone and where it is equal in all."""
    bounds = {"labels": (0.0, 0.0), "inside": (0.0, 1.0), "above": (1.0, np.inf)}
    if arm not in bounds:
        return {}
    s, found = np.arange(6.0, 0.0, -1.0), {}
    for name, truth in {"aligned": Truth(s, np.eye(6)[0], 3.0), "equal": Truth(s, np.ones(6), 3.0)}.items():
        pairs = [(lam, np.clip(best_weight(truth, lam), *bounds[arm])) for lam in np.logspace(-3, 3, 241)]
        found[f"ridge_{name}"] = min(estimation_error(truth, lam, float(xi)) for lam, xi in pairs)
    return found


# ---- the probe ----


def noisy_digits(seed: int, noise: str, rows: int) -> tuple[Images, Images, np.ndarray, Images]:
    """Training digits, as many validation digits (both with wrong labels), true labels of the first, the test."""
    wrong, share = NOISE[noise]
    parts = mnist.digits(seed, rows, rows, 2000)
    train, held = (Images(p.image, wrong(p.label, share, 10, seed + k), 10) for k, p in enumerate(parts[:2]))
    return train, held, parts[0].label, parts[2]


class Bed(NamedTuple):
    """Features of training, validation and test digits; given labels and true ones."""

    x: np.ndarray
    given: np.ndarray
    true: np.ndarray
    x_held: np.ndarray
    held: np.ndarray
    x_test: np.ndarray
    test: np.ndarray


@lru_cache(maxsize=4)
def bed(seed: int, noise: str, rows: int, width: int = 256) -> Bed:
    """Random ReLU features of the digits, standardised on the training rows."""
    train, held, true, test = noisy_digits(seed, noise, rows)
    weight = np.random.default_rng([seed, 1]).standard_normal((784, width))
    raw = [np.maximum(i.image.reshape(len(i), -1).astype(float) @ weight, 0) for i in (train, held, test)]
    mean, sd = raw[0].mean(0), raw[0].std(0) + 1e-9
    x, x_held, x_test = ((r - mean) / sd for r in raw)
    return Bed(x, train.label, true, x_held, held.label, x_test, test.label)


@lru_cache(maxsize=4)
def teachers(seed: int, noise: str, rows: int) -> dict[float, Probe]:
    """The probe of the labels at every penalty."""
    data = bed(seed, noise, rows)
    return {lam: fit_probe(data.x, np.eye(10)[data.given], lam) for lam in LAMBDAS}


def probes(arm: str, seed: int, noise: str, rows: int) -> Iterator[tuple[float, Probe]]:
    """All that the arm may choose among, with the penalty of each."""
    data = bed(seed, noise, rows)
    hard = np.eye(10)[data.given]
    if arm == "early":  # a number of steps at the smallest penalty
        yield from ((LAMBDAS[0], fit_probe(data.x, hard, LAMBDAS[0], iterations=k)) for k in STOPS)
        return
    for lam, teacher in teachers(seed, noise, rows).items():
        said = teacher.probabilities(data.x)
        soft = [(1 - e) * hard + e / 10 for e in SMOOTHING]
        targets = soft if arm == "smoothing" else [xi * said + (1 - xi) * hard for xi in WEIGHTS[arm]]
        yield from ((lam, fit_probe(data.x, target, lam, start=teacher)) for target in targets)


def probe(arm: str, seed: int, noise: str, rows: int) -> dict[str, float]:
    """Clean test accuracy with weight and penalty chosen, and with the weight chosen at every penalty; the share of
    wrong training labels whose true class is found."""
    data, found = bed(seed, noise, rows), list(probes(arm, seed, noise, rows))

    def best(candidates: list[Probe]) -> Probe:
        return max(candidates, key=lambda fitted: hits(fitted, data.x_held, data.held))

    wrong, free = data.given != data.true, best([fitted for _, fitted in found])
    measured = {
        "accuracy": hits(free, data.x_test, data.test),
        "recovered": hits(free, data.x[wrong], data.true[wrong]),
    }
    for lam in {lam for lam, _ in found}:
        at = best([fitted for where, fitted in found if where == lam])
        measured[f"at_{lam:g}"] = hits(at, data.x_test, data.test)
    return measured


def hits(fitted: Probe, features: np.ndarray, label: np.ndarray) -> float:
    """Share of rows whose first choice is the label."""
    return float((fitted.logits(features).argmax(1) == label).mean())


# ---- the network ----


def rows_of(noise: str, seed: int, budget: Budget) -> Parts:
    """The same digits for the network."""
    train, held, _, test = noisy_digits(seed, noise, budget["rows"])
    return Parts(train, test, held)


REGIMES = {
    noise: Regime(partial(rows_of, noise), partial(mlp, 784, 10), partial(mlp, 784, 10),
                  plan={"epochs": 39, "weight_decay": 3e-3})
    for noise in ("uniform50", "uniform30")
}  # fmt: skip


def plain(bench: Bench, smoothing: float = 0.0) -> Method:
    """Labels, perhaps smoothed."""
    return Classification(bench.student(), rectifier=LabelSmoothing(smoothing))


def student(xi: float, bench: Bench) -> Method:
    """The teacher's answers with the weight ``xi``."""
    return imitate(bench.student(), bench.teacher, xi) if xi else plain(bench)


def networks(arm: str) -> tuple[Arm, ...]:
    """All that the arm may choose among."""
    if arm == "early":
        return tuple(Arm(f"{epochs} epochs", plain, {"epochs": epochs}) for epochs in (4, 8, 16))
    if arm == "smoothing":
        return tuple(Arm(f"{share}", partial(plain, smoothing=share)) for share in SMOOTHING)
    return tuple(Arm(f"weight {xi}", partial(student, xi)) for xi in WEIGHTS[arm])


PAPER = "a weight above 1 beats weights up to 1 where noise is large"
STUDY = Study(
    slug="label_noise_sd",
    question="Under wrong labels, does a weight above 1 for the teacher's answers beat every weight up to 1?",
    arms={
        "labels": "labels alone (weight 0)", "inside": "weights up to 1", "above": "weights above 1",
        "smoothing": "smoothed labels, 0.1 to 0.5", "early": "early stopping",
    },
    cell=cell,
    claims=(
        headline(higher("uniform50_accuracy", "above", "inside", 0.01, PAPER,
                        said="weights above 1 beat weights up to 1 (50 % wrong labels, all chosen on noisy rows)")),
        *(higher("uniform50_accuracy", "above", rival, 0.01) for rival in ("smoothing", "early")),
        *(higher(f"{noise}_accuracy", "above", "inside", 0.005, PAPER) for noise in ("uniform30", "confused30")),
        *(higher(f"uniform50_at_{lam:g}", "above", "inside", 0.01, PAPER) for lam in LAMBDAS),
        higher("uniform50_recovered", "above", "inside", 0.02),
        *(higher(f"{noise}_network", "above", rival, 0.01, PAPER)
          for noise in REGIMES for rival in ("inside", "smoothing", "early")),
        lower("ridge_aligned", "above", "inside", 0.05, "proved under conditions", relative=True),
    ),
    figures=(
        Figure("weights", tuple(bars(f"{noise}_{what}", ours={"above"}) for what, kinds in
                                (("accuracy", NOISE), ("network", REGIMES)) for noise in kinds), columns=3),
    ),
    seeds=(4, 5, 6, 7, 8),
    budget={"rows": 1500},
    smoke={"rows": 200, "plan": {"epochs": 2}},
)  # fmt: skip
