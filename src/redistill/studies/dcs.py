"""Does a student that is corrected where it contradicts its teacher beat plain fine-tuning, and what do its weights do
with wrong labels?

Bed: which of six novels is a sentence from? The last layer of all-MiniLM-L6-v2 and a new head are fine-tuned on 240
sentences, with right labels and with 20 % wrong ones. Teacher and students take as many steps each; fine-tuning, which
has no teacher, takes these or twice as many, whichever held-out sentences choose.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from redistill.beds import books, metrics, minilm
from redistill.beds.figures import Figure, bars, curves
from redistill.beds.images import corrupt
from redistill.core import Plan, fit
from redistill.core.cache import kept
from redistill.core.claims import headline, higher, lower
from redistill.core.study import Budget, Outcome, Study
from redistill.methods.supervised.dcs import Dcs
from redistill.supervised.targets import LabelSmoothing, OneHot
from redistill.supervised.weights import Boosting, Equal

BOOKS = (0, 3, 5, 6, 7, 8)  # Emma, Alice, Father Brown, Thursday, The Parent's Assistant, Moby Dick
RATE = 5e-4
LAYER, LENGTH = 5, 24  # the states after five of six layers are kept; sentences are cut at 24 tokens
REGIMES = {"clean": 0.0, "noisy": 0.2}
BOTH = ("teacher", "vanilla", "uniform", "dcs")  # arms that are measured in both regimes
ALONE = ("vanilla", "smoothing", "boosting")  # nobody teaches
WEIGHTS = {
    "vanilla": Equal(), "smoothing": Equal(), "boosting": Boosting("label", eta=0.3),
    "uniform": Boosting(eta=0.0),  # all weights stay 1; only the contradictions are counted
    "dcs": Boosting(eta=0.3),
}  # fmt: skip
BOOSTED = ("boosting", "dcs")
Rows = dict[str, Tensor]


def cell(arm: str, seed: int, budget: Budget) -> Outcome:
    """One arm in its regimes; metrics on test sentences with right labels, weights at the end of training."""
    train, held, test = books.load().among(*BOOKS).split(*budget["rows"], seed=seed)
    found = Outcome({})
    for regime in REGIMES if arm in BOTH else ("noisy",):
        rows, choose = (labelled(part, REGIMES[regime], seed) for part in (train, held))
        numbers, curve = measured(arm, rows, choose, train, test, seed, budget["epochs"])
        found.metrics |= {f"{regime}_{name}": value for name, value in numbers.items()}
        if len(curve):
            found.arrays[f"{regime}_contradicts"] = curve
    if arm in BOTH:
        found.metrics["accuracy"] = (found.metrics["clean_accuracy"] + found.metrics["noisy_accuracy"]) / 2
    return found


def measured(
    arm: str, rows: Rows, held: Rows, train: books.Sentences, test: books.Sentences, seed: int, epochs: int
) -> tuple[dict[str, float], np.ndarray]:
    """What one arm scores in one regime, and how often it contradicted its teacher."""
    if arm == "teacher":
        return scores(teacher(rows, seed, epochs), test), np.zeros(0)
    lengths = (epochs, 2 * epochs) if arm in ("vanilla", "smoothing") else (epochs,)
    runs = [trained(arm, rows, seed, length) for length in lengths]
    best = max(range(len(runs)), key=lambda k: _hits(runs[k][0].student, held))
    method, taught, history = runs[best]
    numbers = {**scores(method.student, test), "longer": float(best)}
    if arm in BOOSTED:
        assert method.table is not None
        numbers |= weights(method.table[:, 0], rows["label"].numpy() != train.label)
    if taught is None:
        return numbers, np.zeros(0)
    curve = contradictions(answers(method.student, rows["ids"], rows["mask"]), taught, history)
    return {**numbers, "contradicts": float(curve[-1])}, curve


def _hits(net: nn.Module, rows: Rows) -> float:
    """Share of labels that the network gives, wrong ones too."""
    return float((answers(net, rows["ids"], rows["mask"]).argmax(1) == rows["label"]).double().mean())


def labelled(sentences: books.Sentences, wrong: float, seed: int) -> Rows:
    """Hidden states, masks and labels, a share of them wrong."""
    hidden, mask = minilm.states(sentences.text, LAYER, LENGTH)
    label = corrupt(sentences.label, wrong, sentences.classes, seed)
    return {"ids": hidden, "mask": mask, "label": torch.from_numpy(label)}


def trained(arm: str, rows: Rows, seed: int, epochs: int) -> tuple[Dcs, Tensor | None, list[dict[str, Any]]]:
    """The method after training, its teacher's logits [N, K] (None: no teacher), and the log, one line an epoch."""
    if arm in ALONE:
        rectifier = LabelSmoothing(0.1) if arm == "smoothing" else OneHot()
        method = alone(network(seed), rows, weight=WEIGHTS[arm], rectifier=rectifier)
        return method, None, tuned(method, rows, seed, epochs)
    taught = answers(teacher(rows, seed, epochs), rows["ids"], rows["mask"])
    method = Dcs(network(seed), rows=len(taught), weight=WEIGHTS[arm])
    return method, taught, tuned(method, {**rows, "teacher_logits": taught}, seed, epochs)


def network(seed: int) -> nn.Module:
    """A fresh copy of the pre-trained layer with a new head."""
    return minilm.UpperLayers(LAYER, len(BOOKS), seed)


def alone(net: nn.Module, rows: Rows, **options: Any) -> Dcs:
    """Fine-tuning on labels."""
    return Dcs(net, rows=len(rows["label"]), hard_weight=1.0, soft_weight=0.0, **options)


def teacher(rows: Rows, seed: int, epochs: int) -> nn.Module:
    """The network after plain fine-tuning from a head of its own; made once for all arms."""

    def make(net: nn.Module) -> nn.Module:
        tuned(alone(net, rows, weight=Equal()), rows, seed + 1000, epochs)
        return net

    given = {"label": rows["label"].tolist(), "seed": seed, "epochs": epochs, "layer": LAYER, "rate": RATE}
    return kept("dcs_teacher", network(seed + 1000), given, make)


def tuned(method: Dcs, rows: Rows, seed: int, epochs: int) -> list[dict[str, Any]]:
    """Fine-tune in place; the log, one line an epoch."""
    every = -(-len(rows["label"]) // 16)
    plan = Plan(
        epochs=epochs, batch_size=16, lr=RATE, schedule="linear", warmup=every * epochs // 10, weight_decay=0.01,
        seed=seed, device="cpu", log_every=every,
    )  # fmt: skip
    return fit(method, rows, plan).history


@torch.no_grad()
def answers(net: nn.Module, hidden: Tensor, mask: Tensor) -> Tensor:
    """Logits [N, K] in evaluation mode."""
    net.eval()
    return torch.cat([net(h, m) for h, m in zip(hidden.split(100), mask.split(100))])


def scores(net: nn.Module, test: books.Sentences) -> dict[str, float]:
    """Accuracy, macro F1, negative log-likelihood and calibration error on test sentences."""
    from sklearn.metrics import f1_score

    probability = answers(net, *minilm.states(test.text, LAYER, LENGTH)).double().softmax(1).numpy()
    f1 = float(f1_score(test.label, probability.argmax(1), average="macro"))
    return {**metrics.classification(probability, test.label), "f1": f1}


def weights(weight: Tensor, wrong: np.ndarray) -> dict[str, float]:
    """Where the weight [N] is at the end: ``top``: the share that the heaviest tenth of the rows holds;
    ``wrong_mass``: the share of the rows with wrong labels, if there are any."""
    share = (weight / weight.sum()).double().numpy()
    found = {"top": float(np.sort(share)[-(len(share) // 10) :].sum())}
    return {**found, "wrong_mass": float(share[wrong].sum())} if wrong.any() else found


def contradictions(student: Tensor, taught: Tensor, history: list[dict[str, Any]]) -> np.ndarray:
    """Share of training rows where student and teacher name another class: in each epoch from the second on, and after
    training (from ``student`` and ``taught``, logits [N, K])."""
    last = float((student.argmax(1) != taught.argmax(1)).double().mean())
    return np.array([*(row["contradicts"] for row in history if "contradicts" in row), last])


PAPER = "GLUE, BERT-base: about +1 point on average over fine-tuning"
STUDY = Study(
    slug="dcs",
    question="Does correcting a student where it contradicts its own fine-tuned twin beat plain fine-tuning?",
    arms={
        "teacher": "fine-tuning, the steps of a student",
        "vanilla": "fine-tuning, the steps of a student or twice as many, chosen",
        "smoothing": "label smoothing 0.1, the same",
        "boosting": "boosting against the labels, no teacher (eta 0.3)",
        "uniform": "self-distillation with equal weights",
        "dcs": "DCS (eta 0.3)",
    },
    cell=cell,
    claims=(
        headline(higher("accuracy", "dcs", "vanilla", 0.01, PAPER,
                        said="correcting contradictions beats fine-tuning of chosen length")),
        higher("accuracy", "dcs", "teacher", 0.01),
        higher("accuracy", "dcs", "uniform", 0.005),
        higher("noisy_accuracy", "dcs", "boosting", 0.02),
        higher("noisy_accuracy", "dcs", "smoothing", 0.01),
        lower("noisy_contradicts", "dcs", "uniform", 0.01),
        lower("noisy_wrong_mass", "dcs", "boosting", 0.1),
        lower("noisy_ece", "dcs", "vanilla", 0.02),
    ),
    figures=(
        Figure("arms", (
            *(bars(f"{regime}_accuracy", ours={"dcs"}) for regime in REGIMES),
            curves("noisy_contradicts", "training rows where student contradicts teacher, %", scale=100,
                   xlabel="epoch, from the second on"),
        )),
    ),
    seeds=(4, 5, 6, 7, 8),
    budget={"epochs": 5, "rows": (40, 40, 280)},
    smoke={"epochs": 2, "rows": (4, 4, 8)},
)  # fmt: skip
