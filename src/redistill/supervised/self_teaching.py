"""Baselines without a stronger teacher: peers, earlier generations, deeper layers, other rows of the class, a rule.

All are classifiers; the student that comes out is the plain network that went in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from redistill.core import Loss, Method, Plan, Progress, UserError, fit
from redistill.core.method import Again, Batch
from redistill.supervised.branches import Branches, stage_shapes
from redistill.supervised.classifier import Classification, Distillation, logits
from redistill.supervised.layers import logits_and_features, pooled
from redistill.supervised.matches import Kd
from redistill.supervised.targets import cross_entropy
from redistill.supervised.temperature import Constant

kd = Kd()


class MutualLearning(Method):
    """K peers learn the labels and each other's answers, in turn on the same batch (Zhang et al. 2018).

        L_k = CE(z_k, y) + weight mean over l != k of KL(p_l || p_k),   p_l without gradient, as peer l answers now

    Differs from the paper: a peer that teaches is in evaluation mode. ``student`` is the first peer.
    """

    needs = ("label",)

    def __init__(self, student: nn.Module, *peers: nn.Module, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = weight
        if not peers:
            raise UserError("mutual learning needs two peers or more", place="models")
        self.student = student
        names = ["student"] + [f"peer{k}" for k in range(1, len(peers) + 1)]
        for name, peer in zip(names[1:], peers):
            self.add_module(name, peer)
        self.trains = {name: [name] for name in names}  # type: ignore[misc]

    def turns(self, now: Progress) -> tuple[str, ...]:
        """The student draws the batch, its peers learn from the same one."""
        first, *others = self.trains
        return (first, *map(Again, others))

    def loss(self, turn: str, batch: Batch, now: Progress) -> Loss:
        """``ce``: the labels; ``peers``: mean divergence from the others."""
        z = logits(self.get_submodule(turn), batch)
        with torch.no_grad():
            others = [logits(self.get_submodule(name), batch) for name in self.trains if name != turn]
        parts = [kd(z, other, None, 1.0).mean() for other in others]
        return Loss(
            {"ce": cross_entropy(z, batch["label"]), "peers": self.weight * sum(parts[1:], parts[0]) / len(parts)}
        )


def next_generation(student: nn.Module, last: nn.Module, weight: float = 1.0) -> Distillation:
    """L = CE(z, y) + weight KL(p_last || p), temperature 1: a network born again (Furlanello et al. 2018)."""
    return Distillation(student, last, temperature=Constant(1.0), hard_weight=1.0, soft_weight=weight)


def born_again(make: Callable[[int], nn.Module], data: Any, plan: Plan, generations: int) -> list[nn.Module]:
    """``generations`` + 1 networks: ``make(0)`` learns the labels, ``make(k)`` labels and network k - 1. All come in
    evaluation mode, oldest first; each trains for the whole ``plan``."""
    networks = [fit(Classification(make(0)), data, plan).student.eval()]
    for k in range(1, generations + 1):
        networks.append(fit(next_generation(make(k), networks[-1]), data, plan).student.eval())
    return networks


class Ensemble(nn.Module):
    """Logarithm [B, C] of the members' mean probability: what an ensemble says, usable as a teacher's logits."""

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, *inputs: Tensor) -> Tensor:
        return torch.stack([member(*inputs).softmax(-1) for member in self.members]).mean(0).log()


class BeYourOwnTeacher(Method):
    """Branches after the stages learn labels and what the network's end says and sees (Zhang et al. 2019, BYOT).

        L = (1 - a) sum over heads CE + a tau^2 sum over branches KL(end || branch) + beta sum |phi_l - phi_L|^2

    ``layers``: the stages from shallow to deep; all but the last get a branch, which ends in as many channels as the
    last one has (phi, pooled). The end carries no gradient as a teacher. Branches are not exported.

    Differs from the paper's code: ``beta`` counts a mean over rows; its 1e-6 for a sum over 128 rows is 1.3e-4 here.
    """

    trains = {"student": ("student", "branches")}
    needs = ("label",)

    def __init__(
        self, student: nn.Module, *, layers: list[str], input_shape: list[int], classes: int, a: float = 0.1,
        tau: float = 3.0, beta: float = 1.3e-4,
    ) -> None:  # fmt: skip
        super().__init__()
        if len(layers) < 2:
            raise UserError(f"{len(layers)} stages; give two or more, the last one teaches", place="layers")
        self.student, self.layers, self.a, self.tau, self.beta = student, list(layers), a, tau, beta
        shapes = stage_shapes(student, layers, input_shape)
        self.branches = Branches(shapes, classes, len(layers) - 1).to(next(student.parameters()))

    def loss(self, turn: str, batch: Batch, now: Progress) -> Loss:
        """``ce``: labels at every head; ``depth``: the end teaches the branches; ``features``: their embeddings."""
        z, found = logits_and_features(self.student, batch, self.layers)
        scores, embeddings = self.branches(found)
        end, seen = z.detach(), pooled(found[-1]).detach()
        terms = {
            "ce": (1 - self.a) * sum(cross_entropy(s, batch["label"]) for s in (z, *scores)),
            "depth": self.a * sum(kd(s, end, None, self.tau).mean() for s in scores),
            "features": self.beta * sum((e - seen).square().sum(1).mean() for e in embeddings),
        }
        return Loss(terms)


class ClassWise(Method):
    """A row's answer is compared with that of another row of its class (CS-KD, Yun et al. 2020).

        L = CE + weight tau^2 KL(softmax(z' / tau) || softmax(z / tau)),   z' without gradient

    Differs from the paper: the other row is the next one of the class in the batch (:func:`partners`) instead of one
    drawn for the purpose, so a step costs one forward pass; a row that is alone has none.
    """

    needs = ("label",)

    def __init__(self, student: nn.Module, *, tau: float = 4.0, weight: float = 1.0) -> None:
        super().__init__()
        self.student, self.tau, self.weight = student, tau, weight

    def loss(self, turn: str, batch: Batch, now: Progress) -> Loss:
        """``ce``: the labels; ``class``: the partner's answer."""
        z = logits(self.student, batch)
        pair = z.detach()[partners(batch["label"])]
        terms = {"ce": cross_entropy(z, batch["label"]), "class": self.weight * kd(z, pair, None, self.tau).mean()}
        return Loss(terms)


def partners(label: Tensor) -> Tensor:
    """For every row [B] the next row of the same class, the first one for the last; the row itself where it is
    alone."""
    order = label.argsort(stable=True)
    found = torch.arange(len(label), device=label.device)
    for rows in order.split(label.unique(return_counts=True)[1].tolist()):
        found[rows] = rows.roll(-1)
    return found


class VirtualTeacher(Distillation):
    """The teacher is a rule that is right with probability ``correct`` and knows nothing else (TF-KD, Yuan et al.
    2020); a network of the same kind as teacher, their other variant, is plain :class:`Distillation`.

        p_T = correct at y, (1 - correct) / (C - 1) elsewhere
        L = (1 - share) CE(z, y) + share KL(softmax(p_T / tau) || softmax(z))

    As in the authors' code the probabilities are softened, not their logarithms, and the student is not: with tau = 20
    the target is almost uniform, and the loss that of label smoothing by ``share`` but for a constant.
    """

    def __init__(
        self, student: nn.Module, *, classes: int, correct: float = 0.99, tau: float = 20.0, share: float = 0.1
    ) -> None:
        super().__init__(student, None, temperature=Constant(1.0), hard_weight=1 - share, soft_weight=share)
        if not 1 / classes < correct <= 1:
            raise UserError(f"correct={correct}; give a number above 1/{classes}, at most 1", place="correct")
        self.needs = ("label",)  # type: ignore[misc]
        self.classes, self.correct, self.tau = classes, correct, tau

    def prepare(self, batch: Batch, now: Progress) -> Batch:
        """Add the rule's logits [B, C], its probabilities over tau."""
        y = batch["label"]
        p = torch.full((len(y), self.classes), (1 - self.correct) / (self.classes - 1), device=y.device)
        return {**batch, "teacher_logits": p.scatter(1, y[:, None], self.correct) / self.tau}
