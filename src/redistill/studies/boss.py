"""What does a hyper-parameter search gain when its trials hand on their weights, and which of the two ways pays?

MNIST digits at 14x14 pixels, 1,000 to train on, with right labels and with 30 % wrong ones; a two-layer network. Every
arm trains as many networks for as many epochs. The trial is chosen on validation rows and measured on test rows.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from redistill.beds.bench import columns, probabilities
from redistill.beds.images import Images
from redistill.beds.mnist import digits
from redistill.core import Diverged, Plan
from redistill.core.progress import seed_of
from redistill.core.study import Claim, Outcome, Results, Study
from redistill.methods.supervised.boss import Job, Search, Train, trainer
from redistill.models.nets import mlp
from redistill.supervised.pool import Weights
from redistill.supervised.trials import Finished, load_optuna

REGIMES = {"clean": 0.0, "noisy": 0.3}
SEARCHES: dict[str, dict[str, bool]] = {
    "random": {}, "bo": {}, "warm": {"distil": False}, "teacher": {"warm_start": False}, "boss": {}
}  # fmt: skip
DEFAULT = {"lr": 0.05, "weight_decay": 5e-4, "slip": 0.1, "batch_size": 64}  # slip = 1 - momentum


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


def cell(arm: str, seed: int, budget: Mapping[str, Any]) -> Outcome:
    """One arm with right and with wrong labels."""
    load_optuna().logging.set_verbosity(load_optuna().logging.WARNING)
    found, kept = {}, {}
    for regime, wrong in REGIMES.items():
        train, validation, test = map(_standard, digits(seed, *budget["rows"], wrong=wrong, side=14))
        run = trainer(
            partial(mlp, 196, 10), columns(train), partial(plan, epochs=budget["epochs"]), partial(accuracy, validation)
        )
        with tempfile.TemporaryDirectory() as folder:
            history, best = _born_again(run, seed, budget) if arm == "sd" else _search(arm, run, folder, seed, budget)
        each = np.mean([_logits(weights, test) for weights in best], 0)
        found[f"{regime}_accuracy"] = _hit(_logits(best[0], test), test)
        found[f"{regime}_ensemble"] = _hit(each, test)
        found[f"{regime}_generations"] = float(_ancestors(max(history, key=lambda t: t.score), history))
        kept[f"{regime}_scores"] = np.full(budget["trials"], np.nan)  # a trial that diverged has no score
        for trial in history:
            kept[f"{regime}_scores"][trial.notes["place"]] = trial.score
    return Outcome(found, kept)


def _search(arm: str, train: Train, folder: str, seed: int, budget: Mapping[str, Any]) -> tuple[list, list[Weights]]:
    """Finished trials, best first, and the weights of the best ones."""
    samplers, trials = load_optuna().samplers, budget["trials"]
    sampler = (
        samplers.RandomSampler if arm == "random" else partial(samplers.TPESampler, n_startup_trials=budget["startup"])
    )
    search = Search(
        folder, space, seed=seed, trials=trials, warm_up=trials if arm in ("random", "bo") else budget["warm_up"],
        top=budget["top"], sampler=lambda s: sampler(seed=s), **SEARCHES[arm],
    )  # fmt: skip
    ranked = search.run(train)
    for trial in ranked:  # places in the whole search instead of in its study
        trial.notes["place"] += search.limits["warm-up"] * (trial.study == "boss")
    return ranked, [search.weights(trial) for trial in ranked[: budget["top"]]]


def _born_again(train: Train, seed: int, budget: Mapping[str, Any]) -> tuple[list[Finished], list[Weights]]:
    """One configuration, again and again, taught by the best network so far."""
    history: list[Finished] = []
    weights: list[Weights] = []
    for place in range(budget["trials"]):
        teacher = weights[int(np.argmax([trial.score for trial in history]))] if history else None
        job = Job(DEFAULT, seed_of(seed, "born again", place) % 2**32, alpha=0.5, teacher=teacher)
        try:
            score, net = train(job)
        except Diverged:  # as in the searches: counted, without a score
            continue
        history.append(Finished("sd", place, score, dict(DEFAULT), {"place": place}))
        weights.append(net.state_dict())
    best = np.argsort([-trial.score for trial in history], kind="stable")[: budget["top"]]
    return history, [weights[k] for k in best]


def _ancestors(trial: Finished, history: list[Finished]) -> int:
    """In how many trials, this one included, the weights of ``trial`` have been trained."""
    names = {one.name: one for one in history}
    count = 1
    while trial.notes.get("start"):
        trial, count = names[trial.notes["start"]], count + 1
    return count


def _standard(images: Images) -> Images:
    """Pixels of mean 0 and deviation 1, roughly: rates mean then what they mean in the paper."""
    return Images((images.image - 0.13) / 0.27, images.label, images.classes)


def accuracy(images: Images, net: nn.Module) -> float:
    """Share of right answers."""
    return float((probabilities(net, images).argmax(1) == images.label).mean())


@torch.no_grad()
def _logits(weights: Weights, images: Images) -> np.ndarray:
    net = mlp(196, 10)
    net.load_state_dict(weights)
    return net(torch.from_numpy(images.image)).numpy()


def _hit(logits: np.ndarray, images: Images) -> float:
    return float((logits.argmax(1) == images.label).mean())


def draw(results: Results, folder: Path) -> None:
    """The best validation accuracy so far over the trials, and the test accuracy of the chosen trial."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 7), layout="constrained")
    axes = figure.subplots(2, 2)
    colours = dict(zip(STUDY.arms, ("tab:gray", "black", "tab:green", "tab:blue", "tab:red", "tab:orange")))
    for row, regime in enumerate(REGIMES):
        for arm in STUDY.arms:
            curves = [np.fmax.accumulate(results.array(arm, s, f"{regime}_scores")) for s in results.seeds]
            axes[row, 0].plot(np.arange(len(curves[0])) + 1, 100 * np.mean(curves, 0), label=arm, color=colours[arm])
        values = 100 * np.array([results.values(arm, f"{regime}_accuracy") for arm in STUDY.arms])
        axes[row, 1].bar(list(STUDY.arms), values.mean(1), yerr=values.std(1), color=list(colours.values()))
        axes[row, 1].set_ylim(values.min() - 2, values.max() + 1)
        axes[row, 0].set_ylim(values.mean(1).min() - 6, None)
        axes[row, 0].set_title(f"{regime} labels: best validation accuracy so far, %", fontsize=10)
        axes[row, 1].set_title(f"{regime} labels: test accuracy of the chosen trial, %", fontsize=10)
    axes[1, 0].set_xlabel("trials")
    axes[0, 0].legend(fontsize=8)
    figure.savefig(folder / "search.png", dpi=100)


STUDY = Study(
    slug="boss",
    question="Does a search end higher when its trials start from and learn from the best ones before?",
    arms={
        "random": "random search", "bo": "Bayesian optimisation alone",
        "sd": "the default configuration, again and again, taught by the best network so far",
        "warm": "Bayesian optimisation, each trial starts from a good checkpoint, no teacher",
        "teacher": "BOSS without inherited initial weights",
        "boss": "BOSS: one good checkpoint to start from, another to learn from",
    },
    claims=(
        Claim("above Bayesian optimisation, right labels", "clean_accuracy", "boss", "bo", "higher", 0.005),
        Claim("above Bayesian optimisation, wrong labels", "noisy_accuracy", "boss", "bo", "higher", 0.005),
        Claim("above random search, wrong labels", "noisy_accuracy", "boss", "random", "higher", 0.005),
        Claim("above self-distillation alone, right labels", "clean_accuracy", "boss", "sd", "higher", 0.002),
        Claim("above self-distillation alone, wrong labels", "noisy_accuracy", "boss", "sd", "higher", 0.005),
        Claim("what the teacher adds to a warm start, right labels", "clean_accuracy", "boss", "warm", "higher", 0.002),
        Claim("what the teacher adds to a warm start, wrong labels", "noisy_accuracy", "boss", "warm", "higher", 0.005),
        Claim("what the warm start adds to a teacher, right labels", "clean_accuracy", "boss", "teacher", "higher",
              0.002),
        Claim("what the warm start adds to a teacher, wrong labels", "noisy_accuracy", "boss", "teacher", "higher",
              0.005),
        Claim("the four best networks together are no worse than the four best of Bayesian optimisation, wrong labels",
              "noisy_ensemble", "boss", "bo", "higher", -0.01),
    ),
    cell=cell,
    budget={"rows": (1000, 1500, 2500), "epochs": 8, "trials": 40, "warm_up": 10, "top": 4, "startup": 5},
    smoke={"rows": (200, 100, 100), "epochs": 1, "trials": 6, "warm_up": 3, "top": 2},
    draw=draw,
    seeds=(4, 5, 6),
    notes=(
        "Card and bed differ: 40 trials of which 10 warm up, where the card has 24 and 8 (with 24 the arms differed by "
        "3 points from seed to seed); 14x14 pixels of mean 0; TPE proposes at random 5 times, not 10, in each study.",
        "Every arm takes the last epoch of a trial, not the best one; validation labels are right in both regimes.",
        "A network that inherits has been trained in several trials before: the table's 'generations' counts them. "
        "'warm' is the control that has as many epochs behind it and no teacher.",
        "Tuned on seeds 101 to 107: the default configuration of 'sd', the scale of the pixels, the number of trials. "
        "Without that scale Bayesian optimisation itself stayed below the default configuration.",
        "Judged twice: in the first run on seeds 1 to 3 most trials of 'sd' diverged, because its rate had been chosen "
        "before the pixels were scaled. It was lowered on seed 101 and the study judged on seeds 4 to 6; the "
        "other arms and all claims stayed as they were. Run once more on seeds 1 to 3 with the lowered rate, four "
        "verdicts came out otherwise (on wrong labels even random search was ahead): the differences are no larger "
        "than what three seeds vary by.",
        "Why little shows: a network of two layers is trained well by 8 epochs at any good rate, so a search is done "
        "after ten trials; and where labels are wrong, inherited weights have met the wrong labels "
        "in several trials and fit them. A squared error on the logits of a teacher that is no better than the student "
        "lowers accuracy here (seed 101, generation after generation).",
    ),
)  # fmt: skip
