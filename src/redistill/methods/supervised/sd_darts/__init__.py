"""SD-DARTS: the supernet of an architecture search is taught by its own last K snapshots, which vote on every row.

    alpha <- alpha - eta_a grad_alpha CE(f(x; w, alpha), y)                                          (x, y) in D_val
    w <- w - eta_w grad_w [ CE(f(x; w, alpha), y) + lambda_SD T^2 KL( p_bar || softmax(f(x; w, alpha) / T) ) ]
                                                                                                   (x, y) in D_train
    p_bar = (1/K) sum_k softmax(f(x; w_k, alpha_k) / T),  no gradient;  (w_k, alpha_k) as of the last K epochs' ends

(arXiv 2302.05629.) Roles: student (the supernet's weights w) and architecture (alpha), trained in turns on two halves
of the data; the snapshots (frozen, each with its own alpha); nobody teaches in the first epoch. After the search every
edge keeps one operation, and the network that is left is trained anew (``redistill.procedures.sd_darts``).

Differs from the paper: weights, temperature, vote and the number of snapshots are not in the text that was at hand;
they are options here. The two halves are drawn as fixed pairs of rows.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from redistill.core import Progress, Slot, Snapshot
from redistill.core.method import Batch
from redistill.core.types import Count, NonNegative, Positive, ShareBelow1
from redistill.rivals.darts import Darts
from redistill.supervised.matches import Kd
from redistill.supervised.temperature import log_of

kd = Kd()


class Vote(Slot):
    """Several teachers' softened probabilities [K, B, C] -> one answer [B, C]."""

    def __call__(self, probability: Tensor) -> Tensor:
        raise NotImplementedError


class SoftVote(Vote):
    """Their mean."""

    def __call__(self, probability: Tensor) -> Tensor:
        return probability.mean(0)


class MajorityVote(Vote):
    """The share of teachers that put each class first: loses what flattens the loss, kept to compare."""

    def __call__(self, probability: Tensor) -> Tensor:
        first = probability.argmax(-1)
        return nn.functional.one_hot(first, probability.shape[-1]).to(probability).mean(0)


class SdDarts(Darts):
    """DARTS with a term for the snapshots; ``warmup``, ``unroll`` and ``keep`` are those of :class:`Darts`."""

    def __init__(
        self,
        student: nn.Module,
        architecture: nn.Module | None = None,
        *,
        snapshots: Count = 3,  # K
        every: Count = 1,  # epochs between snapshots
        soft_weight: NonNegative = 1.0,  # lambda_SD; 0 is plain DARTS to the bit
        temperature: Positive = 1.0,  # T
        vote: Vote | None = None,  # soft_vote if left out
        distil_alpha: bool = False,  # the architecture's turn gets the same term, on its own half
        warmup: ShareBelow1 = 0.1,
        unroll: NonNegative = 0.0,
        keep: Count | None = None,
    ) -> None:
        super().__init__(student, architecture, warmup=warmup, unroll=unroll, keep=keep)
        self.snapshots, self.every, self.vote, self.distil_alpha = snapshots, every, vote or SoftVote(), distil_alpha
        self.soft_weight, self.temperature = soft_weight, temperature
        for k in range(snapshots):
            self.add_module(f"past{k}", Snapshot(self.searched))
        self.taken: Tensor
        self.register_buffer("taken", torch.zeros((), dtype=torch.int64))  # snapshots so far; the oldest makes room

    def teachers(self) -> list[nn.Module]:
        """The snapshots that have been taken, at most K."""
        return [self.get_submodule(f"past{k}") for k in range(min(int(self.taken), self.snapshots))]

    def prepare(self, batch: Batch, now: Progress) -> Batch:
        """At the start of an epoch keep the supernet as the last one left it; ask the snapshots about the rows."""
        if now.epoch // self.every > int(self.taken):
            oldest = self.get_submodule(f"past{int(self.taken) % self.snapshots}")
            oldest.take(self.searched)  # type: ignore[operator]
            self.taken += 1
        if not (self.soft_weight and self.teachers()):
            return batch
        asked = ("", "val_") if self.distil_alpha else ("",)
        return {**batch, **{f"{half}past": self.voted(batch[f"{half}image"]) for half in asked}}

    def voted(self, image: Tensor) -> Tensor:
        """p_bar [B, C]."""
        said = [(teacher(image) / self.temperature).softmax(-1) for teacher in self.teachers()]
        return self.vote(torch.stack(said))

    def terms(self, turn: str, z: Tensor, batch: Batch) -> dict[str, Tensor]:
        """``ce``: the labels; ``past``: distance from what the snapshots voted, where they were asked."""
        terms, past = super().terms(turn, z, batch), "val_past" if turn == "architecture" else "past"
        if past in batch:
            tau = self.temperature
            terms["past"] = self.soft_weight * kd(z, tau * log_of(batch[past]), None, tau).mean()
        return terms
