"""Is a good embedding all that few-shot learning needs, and is a born-again embedding better?

Emoji subgroups: 40 to train on, 20 others for the episodes. Heads are compared on one network, networks under one head,
over the same episodes. The prototypical network is trained for the number of shots at which it is judged.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import nn

from redistill.beds import emoji_subgroups
from redistill.beds.bench import PLAN, columns
from redistill.beds.figures import Figure, bars
from redistill.beds.images import Images
from redistill.core import Plan, fit
from redistill.core.cache import kept
from redistill.core.claims import headline, higher
from redistill.core.progress import seed_of
from redistill.core.study import Budget, Outcome, Study
from redistill.methods.supervised.rfs import Rfs, heads
from redistill.methods.supervised.rfs.heads import Array, unit
from redistill.models.nets import staged_convnet
from redistill.rivals import protonet
from redistill.vision.augmentations import CropFlipJitter

CLASSES, WAYS, SHOTS = 40, 5, (1, 5)
AUGMENT = CropFlipJitter(2, True, 0.3)
HEADS = ("nearest", "prototype", "raw", "logistic")
LENGTH = {"longer": 2, "longest": 3}  # times the epochs: of one teacher and student, and of two generations


@cache
def pictures() -> tuple[Images, Array]:
    """Emoji of 60 subgroups (the largest one, flags of countries, left out), and the number of what each shows."""
    found, code = emoji_subgroups.subgroups(60, first=1, side=16)
    return Images(4 * found.image - 2, found.label, 60), code


def bed(seed: int, each: int) -> tuple[Images, Images, Array]:
    """Pictures of the base classes (at most ``each`` of one), pictures of the other classes, and what each of the
    latter shows. Which subgroups are base classes is drawn from the seed."""
    images, shown = pictures()
    rng = np.random.default_rng(seed)
    label = rng.permutation(images.classes)[images.label]
    order = rng.permutation(len(label))
    base = np.concatenate([order[label[order] == c][:each] for c in range(CLASSES)])
    new = np.flatnonzero(label >= CLASSES)
    others = Images(images.image[new], label[new] - CLASSES, images.classes - CLASSES)
    return Images(images.image[base], label[base], CLASSES), others, shown[new]


def cell(arm: str, seed: int, budget: Budget) -> Outcome:
    """Mean accuracy over the episodes of one shot and of five: ``one``, ``five``."""
    _, others, shown = bed(seed, budget["each"])
    found = Outcome({})
    for name, shots in zip(("one", "five"), SHOTS):
        which = f"protonet{shots}" if arm == "protonet" else "gen0" if arm in HEADS else arm
        embedded = heads.embed(network(which, seed, budget), torch.from_numpy(others.image), head="head")
        head = "prototype" if arm == "protonet" else arm if arm in HEADS else "logistic"
        drawn = (
            protonet.draw_episode(others.label, k, ways=WAYS, shots=shots, queries=8, seed=seed, groups=shown)
            for k in range(budget["episodes"])
        )
        found.metrics[name] = float(np.mean([hit(head, embedded, episode) for episode in drawn]))
    return found


def hit(head: str, embedded: Array, episode: protonet.Episode) -> float:
    """Share of the queries that the head names right; ``logistic`` normalises the embeddings, ``raw`` does not."""
    support, query = embedded[episode.support], embedded[episode.query]
    if head == "logistic":
        support, query = unit(support), unit(query)
    answer = {"nearest": heads.nearest, "prototype": heads.prototype}.get(head, heads.logistic)
    return float((answer(support, episode.support_label, query).argmax(1) == episode.query_label).mean())


def network(which: str, seed: int, budget: Budget) -> nn.Module:
    """``gen0`` to ``gen2``, ``longer`` and ``longest`` (generation 0), ``protonet1``, ``protonet5``, ``random``."""
    torch.manual_seed(seed_of(seed, which) % 2**32)
    net = staged_convnet(3, CLASSES, budget["widths"])
    if which == "random":
        return net.eval()
    if which.startswith("protonet"):
        net.head = nn.Identity()
    named = {"which": which, "seed": seed, "budget": dict(budget)}
    return kept("rfs", net, named, lambda net: trained(which, net, seed, budget))


def trained(which: str, net: nn.Module, seed: int, budget: Budget) -> nn.Module:
    """The network after its training."""
    base, _, _ = bed(seed, budget["each"])
    run = seed_of(seed, which, "run") % 2**32
    if which.startswith("protonet"):
        return episodic(net, base, int(which[-1]), budget["epochs"], run)
    taught = which in ("gen1", "gen2")
    teacher = network(f"gen{int(which[-1]) - 1}", seed, budget) if taught else None
    weights: Mapping[str, Any] = {} if taught else {"gamma": 1.0, "alpha": 0.0}
    epochs = budget["epochs"] * LENGTH.get(which, 1)
    plan = Plan(**{**PLAN, "epochs": epochs, "batch_size": 32, "weight_decay": 5e-4, "seed": run, "log_every": 1000})
    return fit(Rfs(net, teacher, **weights), columns(base), plan, augment=AUGMENT.rows).student.eval()


def episodic(net: nn.Module, base: Images, shots: int, epochs: int, run: int) -> nn.Module:
    """A prototypical network that sees as many images in training episodes as ``epochs`` hold."""
    count = epochs * len(base) // (WAYS * 15)
    data = protonet.Episodes(
        torch.from_numpy(base.image), base.label, count=count, ways=WAYS, seed=run, augment=AUGMENT, shots=shots,
        queries=15 - shots,
    )  # fmt: skip
    plan = Plan(epochs=1, batch_size=1, optimizer="adam", lr=RATE, schedule="cosine", seed=run, device="cpu",
                log_every=1000)  # fmt: skip
    return fit(protonet.PrototypicalNetwork(net, shots=shots), data, plan).student.eval()


RATE = 2e-3  # of the prototypical network
PAPER = "miniImageNet, ResNet-12, 5 ways: "
META = PAPER + "above the meta-learners of its time"
DISTILLED = PAPER + "without and with distillation, 1 shot 62.02 -> 64.82, 5 shots 79.64 -> 82.14"
ABLATION = "each step up: nearest neighbour, regression, normalised, distillation"
STUDY = Study(
    slug="rfs",
    question="Is a good embedding all that few-shot learning needs, and is a born-again embedding better?",
    arms={
        "random": "untrained network, logistic regression on normalised embeddings",
        "protonet": "prototypical network, trained on episodes of as many shots and images",
        "nearest": "generation 0, nearest neighbour",
        "prototype": "generation 0, nearest class mean",
        "raw": "generation 0, logistic regression on embeddings as they are",
        "gen0": "generation 0, logistic regression on normalised embeddings",
        "gen1": "generation 1, taught by generation 0",
        "gen2": "generation 2, taught by generation 1",
        "longer": "generation 0 with twice the epochs",
        "longest": "generation 0 with three times the epochs",
    },
    cell=cell,
    claims=(
        headline(higher("five", "gen0", "protonet", 0.02, META,
                        said="a plain embedding beats a prototypical network (5 shots)")),
        higher("one", "gen0", "protonet", 0.02, META),
        higher("five", "gen1", "gen0", 0.005, DISTILLED),
        higher("one", "gen1", "gen0", 0.005, DISTILLED),
        higher("five", "gen1", "longer", 0.005),
        higher("five", "gen2", "longest", 0.005),
        higher("five", "gen0", "prototype", 0.005),
        higher("five", "raw", "nearest", 0.01, ABLATION),
        higher("five", "gen0", "raw", 0.005, ABLATION),
        higher("one", "gen0", "raw", 0.005, ABLATION),
    ),
    figures=(
        Figure("arms", tuple(bars(name, f"5 ways, {name}: accuracy, %", ours={"gen1", "gen2"})
                             for name in ("one", "five"))),
    ),
    seeds=tuple(range(4, 14)),
    budget={"widths": [32, 32, 64, 64], "each": 36, "epochs": 30, "episodes": 200},
    smoke={"widths": [8, 8], "each": 16, "epochs": 1, "episodes": 10},
)  # fmt: skip
