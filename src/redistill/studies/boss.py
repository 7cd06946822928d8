"""What does a hyper-parameter search gain when its trials hand on their weights, and which of the two ways pays?

MNIST digits at 14x14 pixels, 1,000 to train on, with right labels and with 30 % wrong ones; a two-layer network. Every
arm takes the same number of epochs in all, two a trial: too few to train a network from nothing. The trial is chosen on
validation rows and measured on test rows.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from torch import nn

from redistill.beds.bench import columns, probabilities
from redistill.beds.figures import Figure, bars, curves
from redistill.beds.images import Images
from redistill.beds.mnist import digits
from redistill.core import Diverged, Plan
from redistill.core.claims import headline, higher
from redistill.core.progress import seed_of
from redistill.core.study import Budget, Outcome, Study
from redistill.methods.supervised.boss import Job, Search, Train, trainer
from redistill.methods.supervised.boss.pool import Weights
from redistill.methods.supervised.boss.trials import Finished, load_optuna
from redistill.models.nets import mlp

REGIMES = {"clean": 0.0, "noisy": 0.3}
ARMS = {
    "bo": "Bayesian optimisation alone",
    "long": "half of its trials, then one training of the best configuration for all epochs that are left",
    "sd": "the default configuration, again and again, taught by the best network so far",
    "warm": "Bayesian optimisation, each trial starts from a good checkpoint, no teacher",
    "teacher": "BOSS without inherited initial weights",
    "boss": "BOSS: one good checkpoint to start from, another to learn from",
}
PARTS: dict[str, dict[str, bool]] = {"warm": {"distil": False}, "teacher": {"warm_start": False}}
DEFAULT = {"lr": 0.4, "weight_decay": 5e-4, "slip": 0.1, "batch_size": 64}  # slip = 1 - momentum
Trainer = Callable[[int], Train]  # of a number of epochs


def space(trial: Any) -> dict[str, Any]:
    """The paper's hyper-parameters of stochastic gradient descent, with its ranges."""
    return {
        "lr": trial.suggest_float("lr", 1e-3, 1, log=True),
        "weight_decay": trial.suggest_float("weight_decay", 1e-5, 1e-2, log=True),
        "slip": trial.suggest_float("slip", 1e-3, 1, log=True),
        "batch_size": trial.suggest_int("batch_size", 64, 256),
    }


def plan(job: Job, epochs: int) -> Plan:
    """The budget of one trial."""
    config = job.config
    return Plan(
        epochs=epochs, optimizer="sgd", schedule="cosine", lr=config["lr"], weight_decay=config["weight_decay"],
        momentum=1 - config["slip"], batch_size=config["batch_size"], seed=job.seed, device="cpu", log_every=1000,
    )  # fmt: skip


def cell(arm: str, seed: int, budget: Budget) -> Outcome:
    """One arm with right and with wrong labels."""
    load_optuna().logging.set_verbosity(load_optuna().logging.WARNING)
    found = Outcome({})
    for regime, wrong in REGIMES.items():
        train, validation, test = map(_standard, digits(seed, *budget["rows"], wrong=wrong, side=14))
        score = partial(accuracy, validation)

        def of(epochs: int) -> Train:
            return trainer(partial(mlp, 196, 10), columns(train), partial(plan, epochs=epochs), score)  # noqa: B023

        with tempfile.TemporaryDirectory() as folder:
            scores, best = HOW.get(arm, partial(searched, arm))(of, folder, seed, budget)
        found.metrics[f"{regime}_accuracy"] = accuracy(test, best)
        found.arrays[f"{regime}_best"] = np.fmax.accumulate(scores)
    return found


def searched(arm: str, of: Trainer, folder: str, seed: int, budget: Budget) -> tuple[np.ndarray, nn.Module]:
    """The scores of all trials in order (nan where one diverged), and the best network."""
    search = _search(folder, seed, budget, budget["trials"], budget["warm_up"], **PARTS.get(arm, {}))
    ranked = search.run(of(budget["epochs"]))
    return _in_order(ranked, budget["warm_up"], budget["trials"]), _network(search.weights(ranked[0]))


def alone(of: Trainer, folder: str, seed: int, budget: Budget) -> tuple[np.ndarray, nn.Module]:
    """Bayesian optimisation: nothing but warming up."""
    trials = budget["trials"]
    search = _search(folder, seed, budget, trials, trials)
    ranked = search.run(of(budget["epochs"]))
    return _in_order(ranked, trials, trials), _network(search.weights(ranked[0]))


def long(of: Trainer, folder: str, seed: int, budget: Budget) -> tuple[np.ndarray, nn.Module]:
    """The best configuration of half the trials, from nothing, with the epochs of the other half."""
    trials = budget["trials"] // 2
    ranked = _search(folder, seed, budget, trials, trials).run(of(budget["epochs"]))
    left = budget["trials"] - trials
    score, net = of(left * budget["epochs"])(Job(ranked[0].config, seed))
    rest = np.append(np.full(left - 1, np.nan), score)
    return np.append(_in_order(ranked, trials, trials), rest), net


def born_again(of: Trainer, folder: str, seed: int, budget: Budget) -> tuple[np.ndarray, nn.Module]:
    """One configuration, again and again, taught by the best network so far."""
    train, best, scores = of(budget["epochs"]), None, np.full(budget["trials"], np.nan)
    for place in range(budget["trials"]):
        teacher = best.state_dict() if best else None
        try:
            scores[place], net = train(Job(DEFAULT, seed_of(seed, "sd", place) % 2**32, alpha=0.5, teacher=teacher))
        except Diverged:  # as in the searches: counted, without a score
            continue
        if scores[place] == np.nanmax(scores):
            best = net
    assert best is not None
    return scores, best


HOW = {"bo": alone, "long": long, "sd": born_again}


def _search(folder: str, seed: int, budget: Budget, trials: int, warm_up: int, **parts: bool) -> Search:
    sampler = partial(load_optuna().samplers.TPESampler, n_startup_trials=budget["startup"])
    return Search(folder, space, seed=seed, trials=trials, warm_up=warm_up, top=budget["top"],
                  sampler=lambda s: sampler(seed=s), **parts)  # fmt: skip


def _in_order(ranked: Sequence[Finished], warm_up: int, trials: int) -> np.ndarray:
    scores = np.full(trials, np.nan)
    for trial in ranked:
        scores[trial.notes["place"] + warm_up * (trial.study == "boss")] = trial.score
    return scores


def _network(weights: Weights) -> nn.Module:
    net = mlp(196, 10)
    net.load_state_dict(weights)
    return net


def _standard(images: Images) -> Images:
    """Pixels of mean 0 and deviation 1, roughly: rates mean then what they mean in the paper."""
    return Images((images.image - 0.13) / 0.27, images.label, images.classes)


def accuracy(images: Images, net: nn.Module) -> float:
    """Share of right answers."""
    return float((probabilities(net, images).argmax(1) == images.label).mean())


PAPER = "above Bayesian optimisation and above self-distillation, with right and with wrong labels"
STUDY = Study(
    slug="boss",
    question="Does a search end higher when its trials start from and learn from the best ones before?",
    arms=ARMS,
    cell=cell,
    claims=(
        headline(higher("clean_accuracy", "boss", "bo", 0.01, PAPER,
                        said="BOSS ends higher than Bayesian optimisation (right labels)")),
        higher("clean_accuracy", "boss", "long", 0.005),
        higher("clean_accuracy", "boss", "sd", 0.005, PAPER),
        higher("clean_accuracy", "boss", "warm", 0.005),
        higher("clean_accuracy", "boss", "teacher", 0.005),
        *(higher("noisy_accuracy", "boss", rival, 0.01, PAPER) for rival in ("bo", "long", "sd", "warm", "teacher")),
    ),
    figures=(
        Figure("search", (
            *(curves(f"{regime}_best", f"{regime}: best validation accuracy so far, %", scale=100, xlabel="trials")
              for regime in REGIMES),
            *(bars(f"{regime}_accuracy", ours={"boss"}) for regime in REGIMES),
        ), columns=2),
    ),
    budget={"rows": (1000, 1500, 2500), "epochs": 2, "trials": 40, "warm_up": 10, "top": 4, "startup": 5},
    smoke={"rows": (200, 100, 100), "epochs": 1, "trials": 6, "warm_up": 3, "top": 2},
    seeds=tuple(range(7, 17)),
)  # fmt: skip
