"""Networks that follow another one: a moving average, or a copy taken now and then."""

from __future__ import annotations

import copy
from typing import Any, Self

import torch
from torch import Tensor, nn


def frozen_copy(net: nn.Module) -> nn.Module:
    """A copy that does not train. What does not train in ``net`` (the base under an adapter) is shared, not copied."""
    shared = {id(p): p for p in net.parameters() if not p.requires_grad} if any_trains(net) else {}
    return copy.deepcopy(net, memo=dict(shared)).requires_grad_(False).eval()


def any_trains(net: nn.Module) -> bool:
    """Whether some parameter of ``net`` requires a gradient."""
    return any(p.requires_grad for p in net.parameters())


class Follower(nn.Module):
    """Holds ``net``, a frozen copy of a network; part of every checkpoint."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        copied = {n for n, p in net.named_parameters() if p.requires_grad} or dict(net.named_parameters())
        self.copied = frozenset(copied)  # names; the rest is shared with ``net``
        self.net = frozen_copy(net)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.net(*args, **kwargs)

    def train(self, mode: bool = True) -> Self:
        """A follower is always in evaluation mode."""
        return super().train(False)

    @torch.no_grad()
    def _blend(self, net: nn.Module, decay: float, buffer_decay: float = 0.0) -> None:
        mine = dict(self.net.named_parameters())
        pairs = [(mine[name], p.detach()) for name, p in net.named_parameters() if name in self.copied]
        torch._foreach_lerp_([m for m, _ in pairs], [p for _, p in pairs], 1.0 - decay)
        for (_, b), (_, source) in zip(self.net.named_buffers(), net.named_buffers()):
            b.lerp_(source, 1.0 - buffer_decay) if buffer_decay and b.is_floating_point() else b.copy_(source)


class Ema(Follower):
    """Exponential moving average: ``w <- decay * w + (1 - decay) * w_student``; buffers are copied.

    ``decay=1`` is a frozen network, ``decay=0`` the live one. ``average_buffers``: buffers of fractions (the statistics
    of batch norm) are averaged as well; counters are always copied.
    """

    def __init__(self, net: nn.Module, decay: float = 0.999, *, average_buffers: bool = False) -> None:
        super().__init__(net)
        self.decay, self.average_buffers = decay, average_buffers

    def update(self, net: nn.Module, decay: float | None = None) -> None:
        """One step towards ``net``; ``decay`` overrides the constant (for schedules)."""
        decay = self.decay if decay is None else decay
        self._blend(net, decay, decay if self.average_buffers else 0.0)


class Snapshot(Follower):
    """The network as it was when :meth:`take` was last called."""

    def take(self, net: nn.Module) -> None:
        """Copy all parameters and buffers of ``net``."""
        self._blend(net, 0.0)


def same_weights(a: nn.Module, b: nn.Module) -> bool:
    """Whether two networks hold the same bits."""
    left, right = a.state_dict(), b.state_dict()
    return left.keys() == right.keys() and all(_equal(left[k], right[k]) for k in left)


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and torch.equal(a, b)
