"""Differentiable architecture search (DARTS): weights learn on one half of the data, the mixture of operations on the
other; what a search regularises is a method on top of it.

A supernet is any module with ``forward(image, mixture) -> logits``, ``operations`` (words), ``edges`` (pairs of
nodes) and ``derive(genotype) -> network``; ``fresh(genotype) -> network`` makes one with new weights, to be trained
after the search (``redistill.models.cells.CellNet`` has all). Its norms use the statistics of the batch, in evaluation
too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from redistill.core import Loss, Method, Progress, UserError
from redistill.core.method import Again, Batch
from redistill.core.types import Count, NonNegative, ShareBelow1
from redistill.core.world import is_sharded, whole

cross_entropy = nn.functional.cross_entropy


class Architecture(nn.Module):
    """alpha [edges, operations], at first 1e-3 N(0, 1); a call gives its softmax, the weights of the mixture."""

    def __init__(self, edges: int, operations: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(1e-3 * torch.randn(edges, operations))

    def forward(self) -> Tensor:
        return self.alpha.softmax(-1)


class Searched(nn.Module):
    """A supernet with its architecture: image -> logits [B, C]. A copy of it is the same function later on."""

    def __init__(self, student: nn.Module, architecture: nn.Module) -> None:
        super().__init__()
        self.student, self.architecture = student, architecture

    def forward(self, image: Tensor) -> Tensor:
        return self.student(image, self.architecture())


class Darts(Method):
    """The search without regulariser, first order, or second order with ``unroll`` > 0 (Liu, Simonyan and Yang 2019).

        alpha <- alpha - eta_a grad_alpha L_val(w - unroll grad_w L_train(w, alpha), alpha),   then
        w     <- w - eta_w grad_w L_train(w, alpha),            both on one pair of batches

    ``keep`` is that of :func:`discretise`. What ``fit`` gives back is the network that was cut out, with its weights in
    the supernet, which is not trained to stand alone.
    Micro-batches are exact for ``unroll`` = 0 only: a look-ahead of a part is no part of the look-ahead.
    """

    trains = {"architecture": ["architecture"], "weights": ["student"]}
    needs = ("image", "label", "val_image", "val_label")

    def __init__(
        self,
        student: nn.Module,
        architecture: nn.Module | None = None,
        *,
        warmup: ShareBelow1 = 0.1,  # share of the run in which w learns alone
        unroll: NonNegative = 0.0,  # rate of the look-ahead; 0 is the first order
        keep: Count | None = None,  # edges into a node that stay; edge by edge if left out
    ) -> None:
        super().__init__()
        _check_supernet(student)
        edges, operations = len(student.edges), len(student.operations)  # type: ignore[arg-type]
        made = architecture or Architecture(edges, operations).to(next(student.parameters()))
        self.student, self.architecture = student, made
        self.warmup, self.unroll, self.keep = warmup, unroll, keep

    @property
    def searched(self) -> Searched:
        """The supernet as it is now."""
        return Searched(self.student, self.architecture)

    def turns(self, now: Progress) -> tuple[str, ...]:
        """Weights alone at first, then the architecture and, on the same pair of batches, the weights."""
        return ("weights",) if now.fraction < self.warmup else ("architecture", Again("weights"))

    def loss(self, turn: str, batch: Batch, now: Progress) -> Loss:
        """The named terms of the turn; ``top1`` (watched): share of its labels hit."""
        ahead = turn == "architecture" and self.unroll > 0
        z = self._looked_ahead(batch, now) if ahead else self.answers(turn, batch, now)  # [B, C]
        hit = (z.argmax(1) == batch[_half(turn) + "label"]).float().mean()
        return Loss(self.terms(turn, z, batch), watch={"top1": hit})

    def answers(self, turn: str, batch: Batch, now: Progress) -> Tensor:
        """Logits [B, C] on the half of the data that ``turn`` learns from."""
        return self.searched(batch[_half(turn) + "image"])

    def terms(self, turn: str, z: Tensor, batch: Batch) -> dict[str, Tensor]:
        """``ce``: cross-entropy with the labels of the half."""
        return {"ce": cross_entropy(z, batch[_half(turn) + "label"])}

    def _looked_ahead(self, batch: Batch, now: Progress) -> Tensor:
        """What the weights after one more step would answer; alpha's gradient also goes through that step."""
        named = {name: p.detach().requires_grad_() for name, p in self.student.named_parameters()}
        if is_sharded(list(named.values())):
            raise UserError("the second order needs whole weights; write parallel: replicate", place="options.unroll")
        mixture = self.architecture()
        z = functional_call(self.student, named, (batch["image"], mixture))
        loss = sum(self.terms("weights", z, batch).values())
        slopes = torch.autograd.grad(loss, list(named.values()), create_graph=True)  # type: ignore[arg-type]
        moved = {name: p - self.unroll * slope for (name, p), slope in zip(named.items(), slopes)}
        return functional_call(self.student, moved, (batch["val_image"], mixture))

    def genotype(self) -> list[str]:
        """The operation of every edge that the mixture prefers now."""
        with torch.no_grad():
            mixture = next(whole(p) for p in self.architecture.parameters()).softmax(-1)
        return discretise(mixture, self.student.operations, self.student.edges, self.keep)  # type: ignore[arg-type]

    def export(self) -> nn.Module:
        """The network cut out of the supernet."""
        return self.student.derive(self.genotype())  # type: ignore[operator]


def _check_supernet(student: nn.Module) -> None:
    for name in ("operations", "edges", "derive"):
        if not hasattr(student, name):
            raise UserError(f"the student is no supernet: it has no {name!r}; see CellNet", place="models.student")
    for name, layer in student.named_modules():
        if getattr(layer, "track_running_stats", False):
            raise UserError(f"{name} keeps running statistics, under which a snapshot is another function; give it "
                            "track_running_stats=False (CellNet: norm statistics)", place="models.student")  # fmt: skip


def _half(turn: str) -> str:
    return "val_" if turn == "architecture" else ""


def discretise(
    mixture: Tensor, operations: Sequence[str], edges: Sequence[tuple[int, int]], keep: int | None = None
) -> list[str]:
    """Words for the edges, from weights [edges, operations].

    ``keep`` None: the strongest operation of every edge (as NAS-Bench-201 counts). ``keep`` k: the strongest that is
    not "none", and each node keeps its k strongest edges (DARTS, k = 2); the others become "none".
    """
    mixture = mixture.detach().cpu()
    if keep is None:
        return [operations[int(k)] for k in mixture.argmax(1)]
    real = [k for k, name in enumerate(operations) if name != "none"]
    strength, best = mixture[:, real].max(1)
    words = [operations[real[int(k)]] for k in best]
    for node in {j for _, j in edges}:
        into = [row for row, (_, j) in enumerate(edges) if j == node]
        for row in sorted(into, key=lambda row: -float(strength[row]))[keep:]:
            words[row] = "none"
    return words


def one_hot_mixture(genotype: Sequence[str], operations: Sequence[str]) -> Tensor:
    """Weights [edges, operations] under which the supernet is the network of ``genotype``."""
    return torch.eye(len(operations))[[list(operations).index(word) for word in genotype]]


class Halves:
    """Rows of a data set in random pairs: one for the weights, one (columns ``val_...``) for the architecture."""

    def __init__(self, data: Any, pairs: np.ndarray) -> None:
        self.data, self.pairs = data, pairs

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, number: int) -> dict[str, Any]:
        one, two = (self._row(int(row)) for row in self.pairs[number])
        return {**one, **{f"val_{name}": value for name, value in two.items()}}

    def _row(self, row: int) -> dict[str, Any]:
        item = self.data[row]
        return dict(item) if isinstance(item, Mapping) else {"image": item[0], "label": item[1]}


def halves(data: Any, seed: int = 0) -> Any:
    """Labelled ``data`` (columns or a data set) as half as many pairs of rows, one row of an odd number left out.

    DARTS shuffles its halves separately; here a row keeps its partner, so that one batch holds both and may be cut.
    """
    total = len(next(iter(data.values()))) if isinstance(data, Mapping) else len(data)
    if total < 2:
        raise UserError(f"{total} rows; a search needs two or more", place="data")
    pairs = np.random.default_rng(seed).permutation(total)[: total // 2 * 2].reshape(-1, 2)
    if not isinstance(data, Mapping):
        return Halves(data, pairs)
    return {
        prefix + name: column[pairs[:, side]]
        for name, column in data.items()
        for side, prefix in enumerate(("", "val_"))
    }
