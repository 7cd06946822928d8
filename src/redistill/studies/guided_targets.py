"""How much of the true targets must rounds of self-distillation keep, and can the share be read from held-out rows?

For kernel regression on two tables, where the share is a projection, and for a network that learns wrong labels by
heart (digits, 40 % wrong), where it costs one more training a round. An arm is a weight of the true targets.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from torch import Tensor, nn

from redistill.beds import metrics, mnist, uci
from redistill.beds.bench import Bench, Parts, Regime, columns, probabilities
from redistill.beds.figures import Figure, bars, curves
from redistill.beds.images import Images
from redistill.core import Method, Plan
from redistill.core.claims import headline, higher, lower, within
from redistill.core.study import Budget, Outcome, Study
from redistill.methods.analysis.guided_targets import GuidedRidge, GuidedTargets
from redistill.methods.analysis.guided_targets.rounds import guided_rounds
from redistill.models.nets import mlp
from redistill.rivals.born_again import born_again
from redistill.supervised.classifier import Classification
from redistill.supervised.targets import LabelSmoothing

SHARES = {"alpha_0": 0.0, "alpha_25": 0.25, "alpha_50": 0.5, "alpha_75": 0.75, "alpha_100": 1.0}
PENALTIES = {"diabetes": 0.3, "autompg": 0.03}  # about a tenth of the best ones, so that rounds have work to do
Networks = Sequence[nn.Module]


def cell(arm: str, seed: int, budget: Budget) -> Outcome:
    """One weight on the tables and in the networks."""
    found = Outcome({})
    if arm in (*SHARES, "optimal", "tuned"):
        for name in PENALTIES:
            curves = np.mean([on_table(arm, name, [seed, i]) for i in range(budget["splits"])], 0)
            found.metrics |= {f"{name}_chosen": float(curves[-1]), f"{name}_last": float(curves[-2])}
            found.arrays[f"{name}_errors"] = curves[:-1]
    if arm in NETWORKS:
        bench = Bench.at("noisy", REGIME, seed, budget)
        nets, more = NETWORKS[arm](bench)
        found.metrics |= more | judged(bench, nets)
        found.arrays["noisy_rounds"] = np.array([accuracy(net, bench.test) for net in nets])
    return found


# ---- tables ----


def on_table(arm: str, name: str, seed: list[int], rounds: int = 10) -> np.ndarray:
    """Test errors on one split of every round, and of the round that is best on validation rows, as shares of the
    variance [rounds + 1]."""
    parts = uci.split(uci.load(name), seed, (0.6, 0.2, 0.2))

    def errors(model: GuidedRidge) -> tuple[float, float]:
        validation = np.mean((model.predict(parts.x_val) - parts.y_val) ** 2)
        return float(validation), float(np.mean((model.predict(parts.x_test) - parts.y_test) ** 2))

    if arm == "tuned":
        fits = [GuidedRidge(lam=lam).fit(parts.x_train, parts.y_train) for lam in np.logspace(-3, 3, 25)]
        return np.full(rounds + 1, min(map(errors, fits))[1])
    model = GuidedRidge(lam=PENALTIES[name]).fit(parts.x_train, parts.y_train)
    shares: float | Sequence[float] = SHARES.get(arm, 0.0)
    if arm == "optimal":
        shares = list(model.iterate("optimal", rounds, parts.x_val, parts.y_val).alpha)
    found = [errors(model.iterate(shares[:k] if isinstance(shares, list) else shares, k)) for k in range(1, rounds + 1)]
    return np.array([test for _, test in found] + [min(found)[1]])


# ---- networks ----


def digits(seed: int, budget: Budget) -> Parts:
    """Training and held-out digits with 40 % wrong labels, test digits with right ones."""
    both, test = mnist.digits(seed, *budget["rows"], wrong=0.4, side=14)
    train, held = both.split(round(0.8 * len(both)), seed=seed)
    return Parts(train, test, held)


REGIME = Regime(digits, partial(mlp, 196, 10), plan={"optimizer": "adam", "lr": 1e-3, "schedule": "constant",
                                                     "epochs": 40})  # fmt: skip


def guided(share: float | str, bench: Bench) -> tuple[Networks, dict[str, float]]:
    """The rounds with one share, or with the formula's, on the rows that are not held out."""
    assert bench.parts.held is not None
    data, held = columns(bench.parts.train), columns(bench.parts.held)
    done = guided_rounds(bench.student, data, plan(bench), held_out=held, rounds=bench.budget["rounds"],
                         alpha=share, penalty=0.0)  # type: ignore[arg-type]  # fmt: skip
    return [r.student for r in done], {"noisy_share": done[-1].alpha, "trainings": float(done[-1].trainings)}


def searched(bench: Bench) -> tuple[Networks, dict[str, float]]:
    """The rounds with the share of the grid that is best on the held-out rows, in its best round."""
    found = {share: guided(share, bench)[0] for share in SHARES.values()}
    best = max(found, key=lambda share: max(accuracy(net, bench.parts.held) for net in found[share]))
    return found[best], {"noisy_share": best, "trainings": float(len(found) * len(found[best]))}


def again(bench: Bench) -> tuple[Networks, dict[str, float]]:
    """Networks born again: cross-entropy with the labels and divergence from the last network."""
    data = columns(bench.parts.train)
    return born_again(bench.student, data, plan(bench), bench.budget["rounds"] - 1), {}


def once(make: Callable[[nn.Module], Method], bench: Bench) -> tuple[Networks, dict[str, float]]:
    """One training on the same rows."""
    return [bench.fit(make(bench.student()), bench.parts.train)], {}


def plan(bench: Bench) -> Plan:
    """The budget of a round."""
    return Plan(seed=bench.seed, log_every=1000, **bench.plan)


def judged(bench: Bench, nets: Networks) -> dict[str, float]:
    """Accuracy and Brier score on test digits of the round that is best on the held-out rows, and of the last."""
    best = max(nets, key=lambda net: accuracy(net, bench.parts.held))
    p = probabilities(best, bench.test)
    brier = ((p - np.eye(10)[bench.test.label]) ** 2).sum(1).mean()
    last = accuracy(nets[-1], bench.test)
    return {"noisy_accuracy": metrics.accuracy(p, bench.test.label), "noisy_brier": float(brier), "noisy_last": last}


def accuracy(net: nn.Module, images: Images | None) -> float:
    """Share of right answers."""
    assert images is not None
    return metrics.accuracy(probabilities(net, images), images.label)


NETWORKS: dict[str, Callable[[Bench], tuple[Networks, dict[str, float]]]] = {
    **{arm: partial(guided, share) for arm, share in SHARES.items()},
    "optimal": partial(guided, "optimal"),
    "grid": searched,
    "born_again": again,
    "smoothing": partial(once, lambda net: Classification(net, rectifier=LabelSmoothing(0.5))),
    "even": partial(once, lambda net: GuidedTargets(net, Even(10), alpha=0.5, penalty=0.0)),
}


class Even(nn.Module):
    """Says the same of all classes: a teacher that smooths the labels of the squared loss."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes

    def forward(self, image: Tensor) -> Tensor:
        return image.new_zeros(len(image), self.classes)


OURS = ("optimal",)
STUDY = Study(
    slug="guided_targets",
    question="How much of the true targets must rounds of self-distillation keep, and can it be known in advance?",
    arms={
        "alpha_0": "predictions alone", "alpha_25": "0.25 of the targets", "alpha_50": "0.5 of the targets",
        "alpha_75": "0.75 of the targets", "alpha_100": "targets alone", "optimal": "best share by formula",
        "grid": "the share of these five that held-out rows choose", "tuned": "one fit, penalty chosen",
        "born_again": "born again: cross-entropy and divergence from the last network",
        "smoothing": "cross-entropy with labels smoothed by 0.5", "even": "squared loss, labels smoothed by 0.5",
    },
    cell=cell,
    claims=(
        headline(higher("noisy_accuracy", "optimal", "alpha_100", 0.01,
                        said="the share by formula beats labels alone (networks, 40 % wrong labels)")),
        higher("noisy_accuracy", "optimal", "alpha_0", 0.0),
        higher("noisy_accuracy", "optimal", "born_again", 0.01),
        higher("noisy_accuracy", "optimal", "smoothing", 0.01),
        higher("noisy_accuracy", "optimal", "even", 0.01),
        within(0.005, "noisy_accuracy", "optimal", "grid", "the estimate agrees with a grid search on CIFAR-10"),
        lower("trainings", "optimal", "grid", 5.0, "two trainings a round instead of a grid"),
        *(lower(f"{name}_{when}", "optimal", rival, 0.02, relative=True)
          for name in PENALTIES for when, rival in (("chosen", "alpha_100"), ("last", "alpha_0"))),
        *(within(0.01, f"{name}_chosen", "optimal", "tuned", better="lower") for name in PENALTIES),
    ),
    figures=(
        Figure("rounds", (
            *(curves(f"{name}_errors", f"{name}: test error", xlabel="round") for name in PENALTIES),
            curves("noisy_rounds", "networks, 40 % wrong labels: accuracy, %", scale=100, xlabel="round",
                   arms=(*SHARES, "optimal", "born_again")),
            bars("noisy_accuracy", ours=OURS),
        ), columns=2),
    ),
    seeds=tuple(range(4, 14)),
    budget={"splits": 5, "rounds": 4, "rows": (2500, 2500)},
    smoke={"splits": 1, "rounds": 2, "rows": (300, 300), "plan": {"epochs": 2}},
)  # fmt: skip
