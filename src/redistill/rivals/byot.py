"""BYOT, be your own teacher: branches after the stages learn labels and what the network's end says and sees (Zhang et
al. 2019).

    L = (1 - a) sum over heads CE + a tau^2 sum over branches KL(end || branch) + beta sum |phi_l - phi_L|^2

(arXiv 1905.08094.) Roles: student and branches (trained together); the end carries no gradient as a teacher. Branches
are not exported.

Differs from the paper's code: ``beta`` counts a mean over rows; its 1e-6 for a sum over 128 rows is 1.3e-4 here.
"""

from __future__ import annotations

from torch import nn

from redistill.core import Loss, Method, Progress, UserError
from redistill.core.method import Batch
from redistill.core.types import Count, NonNegative, Positive, Share, TwoOrMore
from redistill.supervised.branches import Branches, stage_shapes
from redistill.supervised.layers import logits_and_features, pooled
from redistill.supervised.matches import Kd
from redistill.supervised.targets import cross_entropy

kd = Kd()


class BeYourOwnTeacher(Method):
    """A branch ends in as many channels as the last stage has (phi, pooled)."""

    trains = {"student": ("student", "branches")}
    needs = ("label",)

    def __init__(
        self,
        student: nn.Module,
        *,
        layers: list[str],  # the stages, shallow to deep; all but the last get a branch
        input_shape: list[Count],  # of one row
        classes: TwoOrMore,
        a: Share = 0.1,  # the end's weight; the rest goes to the labels
        tau: Positive = 3.0,
        beta: NonNegative = 1.3e-4,  # weight of the embeddings
    ) -> None:
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
