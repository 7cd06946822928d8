"""Rounds of networks: each learns the labels and what the one before says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from redistill.core import Plan, UserError, fit
from redistill.core.types import Count, NonNegative, Share, checked
from redistill.methods.analysis.guided_targets import GuidedTargets
from redistill.methods.analysis.guided_targets.kernel import best_share
from redistill.supervised.predict import predict
from redistill.supervised.targets import one_hot


@dataclass(frozen=True)
class Round:
    """A network and the weight of the labels it was trained with. ``trainings``: how many it took so far."""

    student: nn.Module
    alpha: float
    trainings: int


@checked
def guided_rounds(
    make: Callable[[int], nn.Module],
    data: Any,
    plan: Plan,
    *,
    held_out: Any = None,
    rounds: Count = 5,
    alpha: Share | Literal["optimal"] = "optimal",
    penalty: NonNegative = 1e-4,
) -> list[Round]:
    """``rounds`` networks: the first learns the labels of ``data``, each later one labels and its predecessor.

    ``make(k)`` gives the student of round k = 0, 1, ..., fresh. ``"optimal"``: alpha* on ``held_out`` rows (never on
    training rows, where the labels always win), from the first network and ``make(rounds + k)``, which is trained on
    the student of round k - 1 alone.
    """
    if alpha == "optimal" and held_out is None:
        raise UserError("the best alpha needs held-out rows", place="held_out")
    first = fit(GuidedTargets(make(0), penalty=penalty), data, plan).student.eval()
    done = [Round(first, 1.0, 1)]
    for k in range(1, rounds):
        last, count, share = done[-1].student, done[-1].trainings, alpha
        if share == "optimal":
            alone = fit(GuidedTargets(make(rounds + k), last, alpha=0.0, penalty=penalty), data, plan).student
            share, count = network_share(first, alone, held_out), count + 1
        method = GuidedTargets(make(k), last, alpha=float(share), penalty=penalty)
        done.append(Round(fit(method, data, plan).student.eval(), float(share), count + 1))
    return done


def network_share(labels: nn.Module, teacher: nn.Module, held_out: Any) -> float:
    """alpha* in [0, 1] for two networks: one that learned the labels, one that learned the teacher alone."""
    (p_a, label), (p_b, _) = predict(labels, held_out), predict(teacher, held_out)
    return min(max(best_share(one_hot(label, p_a).numpy(), p_a.numpy(), p_b.numpy()), 0.0), 1.0)
