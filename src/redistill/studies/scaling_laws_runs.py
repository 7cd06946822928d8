"""The runs of the scaling laws' study: one-layer decoders on a random Markov chain, from labels and from teachers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from redistill.beds import markov
from redistill.core import Plan
from redistill.core.cache import remember
from redistill.core.study import Outcome
from redistill.methods.analysis.scaling_laws import fit_supervised
from redistill.methods.analysis.scaling_laws import runs as scaling_runs

LENGTH = 16
Table = dict[str, np.ndarray]  # columns N, D, loss, teacher_loss
Budget = Mapping[str, Any]


@dataclass(frozen=True)
class Bed:
    """The chain and its texts at one seed."""

    seed: int
    budget: Budget

    @cached_property
    def source(self) -> markov.Source:
        return markov.random_source(self.seed)

    def text(self, number: int) -> Tensor:
        """The students' text (0), the teachers' (1), the validation rows (2)."""
        rows = self.budget["validation"] if number == 2 else self.budget["tokens"][-1] // LENGTH
        return self.source.text(rows, LENGTH, 10 * self.seed + number)

    def student(self, width: int, again: int = 0) -> nn.Module:
        return markov.student(self.source.symbols, width, self.seed + 1000 * again)

    def trained(self, width: int, tokens: int) -> tuple[nn.Module, float]:
        """A teacher and its loss."""
        net = markov.student(self.source.symbols, width, self.seed + 1)
        rows = self.text(1)[: tokens // LENGTH]
        return net, scaling_runs.run(net, None, rows, self.text(2), self.plan(width))["loss"]

    def plan(self, width: int, again: int = 0) -> Plan:
        """One base rate for all sizes, divided by the width; linear decay, 256 tokens a step."""
        return Plan(
            epochs=1, optimizer="adamw", betas=(0.9, 0.98), lr=0.3 / width, schedule="linear", warmup=20, clip=1.0,
            batch_size=256 // LENGTH, device="cpu", log_every=100_000, seed=self.seed + 1000 * again,
        )  # fmt: skip


@dataclass(frozen=True)
class Runs:
    """Students of one teacher, every size at every number of tokens. The teacher: ``width`` and which of the numbers of
    tokens; or ``exact``; neither: the labels. ``like``: as good as another arm's, by fewer tokens. ``again``: another
    start and order of the students."""

    title: str
    width: int = 0
    tokens: int = 0
    exact: bool = False
    like: Runs | None = None
    again: int = 0

    def teacher(self, bed: Bed) -> nn.Module | None:
        """The frozen model that teaches."""
        if self.exact:
            return markov.ExactModel(bed.source)
        if self.like:
            aim = bed.trained(self.like.width, bed.budget["tokens"][self.like.tokens])[1]
            return as_good(bed, self.width, aim)
        return bed.trained(self.width, bed.budget["tokens"][self.tokens])[0] if self.width else None

    def table(self, seed: int, budget: Budget) -> Table:
        """All runs; kept on disk."""
        inputs = {"arm": repr(self), "seed": seed, "budget": dict(budget)}
        return {k: v.numpy() for k, v in remember("scaling_runs", inputs, lambda: self._measured(seed, budget)).items()}

    def _measured(self, seed: int, budget: Budget) -> dict[str, Tensor]:
        bed = Bed(seed, budget)
        columns = scaling_runs.grid(
            lambda width: bed.student(width, self.again), budget["widths"], budget["tokens"], bed.text(0), bed.text(2),
            lambda width: bed.plan(width, self.again), self.teacher(bed),
        )  # fmt: skip
        return {name: torch.tensor(values, dtype=torch.float64) for name, values in columns.items()}

    def outcome(self, seed: int, budget: Budget) -> Outcome:
        """Mean losses at every number of tokens; against the labels at equal tokens and at equal FLOPs; against the
        students of the narrow teacher."""
        runs, alone, narrow = (arm.table(seed, budget) for arm in (self, LABELS, NARROW))
        few, many = (runs["D"] == budget["tokens"][i] for i in (0, -1))
        metrics = {"loss_few": float(runs["loss"][few].mean()), "loss_many": float(runs["loss"][many].mean())}
        metrics["off"] = float(np.abs(runs["loss"] / narrow["loss"] - 1).mean())
        if self.width or self.exact:
            metrics["teacher_loss"] = float(runs["teacher_loss"][0])
        if self.width and not self.like:
            metrics |= self._paid(runs, fit_supervised(alone), budget)
        return Outcome(metrics, dict(runs))

    def _paid(self, runs: Table, supervised: Any, budget: Budget) -> dict[str, float]:
        """Nats more than the labels give for the same FLOPs, at the fewest tokens, if nothing of the teacher
        is paid for, its answers, or its training as well."""
        at = runs["D"] == budget["tokens"][0]
        N, D = runs["N"][at], runs["D"][at]
        N_T = scaling_runs.parameters_without_embeddings(markov.student(2, self.width, 0))
        answers, training = D * N_T / (3 * N), budget["tokens"][self.tokens] * N_T / N  # in tokens of the student
        more = {"free": 0.0, "answers": answers, "both": answers + training}
        return {f"paid_{k}": float((runs["loss"][at] - supervised(N, D + extra)).mean()) for k, extra in more.items()}


def as_good(bed: Bed, width: int, loss: float) -> nn.Module:
    """A teacher of another ``width`` with this loss, by bisection of its tokens."""
    low, high = np.log(bed.budget["tokens"][0] / 4), np.log(bed.budget["tokens"][-1])
    tried = []
    for _ in range(bed.budget["bisections"]):
        net, found = bed.trained(width, int(np.exp((low + high) / 2)))
        tried.append((abs(found - loss), len(tried), net))
        low, high = (low, (low + high) / 2) if found < loss else ((low + high) / 2, high)
    return min(tried)[2]


LABELS = Runs("trained on the text")
NARROW = Runs("a weak teacher of width 12", 12, 1)
TEACHERS = {
    "narrow": NARROW,
    "wide": Runs("one as weak of width 48, from fewer tokens", 48, like=NARROW),
    "middle": Runs("a teacher of width 20, kept from the fit", 20, 2),
    "strong": Runs("a strong teacher of width 32", 32, 3),
    "best": Runs("a stronger one of width 48", 48, 3),
    "exact": Runs("the true conditional probabilities", exact=True),
}
AGAIN = Runs("the weak teacher of width 12, other starts of the students", 12, 1, again=1)
