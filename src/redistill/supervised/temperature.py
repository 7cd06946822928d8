"""Temperatures by which logits are divided before a softmax: constant, annealed, drawn, or learned against the student.

A learned temperature is a module as well as a plug-in: any method with a temperature trains it beside the student.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from redistill.core import Progress, Slot, UserError
from redistill.core.types import Count, Finite, Positive


class Temperature(Slot):
    """The temperature of this moment: a number, or a tensor that broadcasts against logits [B, C]."""

    def __call__(self, student: Tensor, teacher: Tensor, now: Progress) -> Tensor | float:
        """From both logits [B, C] (a learned temperature may look at them)."""
        raise NotImplementedError


class Constant(Temperature):
    """One temperature throughout."""

    def __init__(self, tau: Positive = 1.0) -> None:
        self.tau = float(tau)

    def __call__(self, student: Tensor, teacher: Tensor, now: Progress) -> float:
        return self.tau


class Cosine(Temperature):
    """From ``start`` to ``end`` along half a cosine over the run."""

    def __init__(
        self,
        start: Positive = 2.5,  # before the first step
        end: Positive = 2.0,  # after the last
    ) -> None:
        self.start, self.end = start, end

    def __call__(self, student: Tensor, teacher: Tensor, now: Progress) -> float:
        return half_cosine(self.start, self.end, now.fraction)


class Uniform(Temperature):
    """Drawn anew for every step between ``low`` and ``high``: the control of a learned one."""

    def __init__(
        self,
        low: Positive = 1.0,  # least temperature
        high: Positive = 21.0,  # greatest
    ) -> None:
        self.low, self.high = low, high

    def __call__(self, student: Tensor, teacher: Tensor, now: Progress) -> float:
        return self.low + (self.high - self.low) * now.shared_rand()


class _Learned(nn.Module, Temperature):
    """tau = low + span sigmoid(GRL_lambda(theta)) of a number theta that the subclass makes (Li et al. 2023).

    ``theta`` climbs the loss that the student descends, by lambda times its gradient; lambda goes from ``least`` to
    ``most`` over the first ``epochs`` epochs along half a cosine and stays there. -1 is an ordinary gradient: a
    temperature that helps the student.
    """

    def __init__(self, low: float, span: float, epochs: int, least: float, most: float) -> None:
        super().__init__()
        self.low, self.span, self.epochs = low, span, epochs
        self.least, self.most = least, most

    def strength(self, now: Progress) -> float:
        """lambda in the epoch of ``now``; the first epoch is e = 1."""
        return half_cosine(self.least, self.most, (now.epoch + 1) / self.epochs)

    def _squash(self, theta: Tensor, now: Progress) -> Tensor:
        return self.low + self.span * reverse_gradient(theta, self.strength(now)).sigmoid()


class GlobalCurriculum(_Learned):
    """One learned number for all rows; it starts at low + 0.73 span."""

    def __init__(
        self,
        low: Positive = 1.0,  # least temperature
        span: Positive = 20.0,  # the greatest less the least
        epochs: Count = 10,  # until lambda is at its most
        least: Finite = 0.0,  # lambda at first: 0 learns nothing, -1 helps the student
        most: Finite = 1.0,  # lambda at last
    ) -> None:
        super().__init__(low, span, epochs, least, most)
        self.theta = nn.Parameter(torch.ones(1))  # a vector of one: scalars cannot be sharded

    def forward(self, student: Tensor, teacher: Tensor, now: Progress) -> Tensor:
        return self._squash(self.theta, now).squeeze(0)  # []


class InstanceCurriculum(_Learned):
    """A number for each row from both logits, which pass no gradient on, by two layers; all rows start alike."""

    def __init__(
        self,
        classes: Count,
        hidden: Count = 32,  # width of the layer between
        low: Positive = 1.0,  # least temperature
        span: Positive = 20.0,  # the greatest less the least
        epochs: Count = 10,  # until lambda is at its most
        least: Finite = 0.0,  # lambda at first: 0 learns nothing, -1 helps the student
        most: Finite = 1.0,  # lambda at last
    ) -> None:
        super().__init__(low, span, epochs, least, most)
        self.net = nn.Sequential(nn.Linear(2 * classes, hidden), nn.ReLU(), nn.Linear(hidden, 1))
        nn.init.zeros_(self.net[2].weight)
        nn.init.ones_(self.net[2].bias)

    def forward(self, student: Tensor, teacher: Tensor, now: Progress) -> Tensor:
        pair = torch.cat([student, teacher], -1).detach()  # [B, 2 C]
        if pair.shape[-1] != self.net[0].in_features:
            raise UserError(f"logits of {pair.shape[-1] // 2} classes; set classes to that", place="temperature")
        theta = self.net(pair.to(self.net[0].weight))  # [B, 1]
        return self._squash(theta.to(pair), now)


def reverse_gradient(x: Tensor, strength: float) -> Tensor:
    """``x`` to the bit; its gradient is multiplied by ``-strength`` (Ganin and Lempitsky 2015)."""
    return x.detach() - strength * (x - x.detach())


def log_of(probability: Tensor) -> Tensor:
    """log p [B, C], finite where p is 0: logits that give the probabilities back."""
    return probability.clamp_min(torch.finfo(probability.dtype).tiny).log()


def soften(probability: Tensor, tau: Tensor | float) -> Tensor:
    """softmax(log p / tau) [B, C]: what the logits behind the probabilities would give, divided by ``tau``."""
    return (log_of(probability) / tau).softmax(-1)


def half_cosine(start: float, end: float, share: float) -> float:
    """From ``start`` at share 0 to ``end`` at share 1, and ``end`` beyond."""
    return end + 0.5 * (start - end) * (1 + math.cos(math.pi * min(share, 1.0)))
