"""Networks that follow another one: a moving average, or a copy taken now and then."""

from __future__ import annotations

import copy
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor


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
        theirs = {name: p.detach() for name, p in net.named_parameters() if name in self.copied}
        self._average({name: mine[name] for name in theirs}, theirs, decay)
        held, given = dict(self.net.named_buffers()), dict(net.named_buffers())
        averaged = [name for name, b in held.items() if buffer_decay and b.is_floating_point()]
        self._average({name: held[name] for name in averaged}, {name: given[name] for name in averaged}, buffer_decay)
        for name in held.keys() - set(averaged):
            held[name].copy_(given[name])

    def _average(self, mine: dict[str, Tensor], theirs: dict[str, Tensor], decay: float) -> None:
        if mine:
            torch._foreach_lerp_(list(mine.values()), list(theirs.values()), 1.0 - decay)


def _twin(name: str) -> str:
    """The buffer that holds an average in 32 bits; names of buffers have no dots."""
    return "twin_" + name.replace(".", "/")


class Ema(Follower):
    """Exponential moving average: ``w <- decay * w + (1 - decay) * w_student``; buffers are copied.

    ``decay=1`` is a frozen network, ``decay=0`` the live one. ``average_buffers``: buffers of fractions (the statistics
    of batch norm) are averaged as well; counters are always copied. 16 bits would round each small step to nothing: the
    average of such parameters is kept in twins of 32 bits (buffers, saved with the rest) and copied into ``net``.
    """

    def __init__(self, net: nn.Module, decay: float = 0.999, *, average_buffers: bool = False) -> None:
        super().__init__(net)
        self.decay, self.average_buffers = decay, average_buffers
        self.keep_twins()

    def keep_twins(self) -> None:
        """Give whatever is averaged and has 16 bits a twin of 32 that lies as it does, and nothing else one."""
        averaged = {name: p.detach() for name, p in self.net.named_parameters() if name in self.copied}
        for name, like in {**averaged, **(dict(self.net.named_buffers()) if self.average_buffers else {})}.items():
            key = _twin(name)
            twin = self._buffers.pop(key, None)
            if like.dtype in (torch.float16, torch.bfloat16):
                full = (like if twin is None else twin).float()
                if isinstance(like, DTensor) and not isinstance(full, DTensor):
                    full = distribute_tensor(full, like.device_mesh, like.placements)
                self.register_buffer(key, full)

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        super()._apply(fn, recurse)
        self.keep_twins()  # ``to(torch.bfloat16)`` changed the parameters, and the twins with them
        return self

    def _average(self, mine: dict[str, Tensor], theirs: dict[str, Tensor], decay: float) -> None:
        twins = {name: self._buffers[_twin(name)] for name in mine if _twin(name) in self._buffers}
        rest = [name for name in mine if name not in twins]
        super()._average({n: mine[n] for n in rest}, {n: theirs[n] for n in rest}, decay)
        for name, twin in twins.items():
            assert twin is not None
            mine[name].copy_(twin.lerp_(theirs[name].float(), 1.0 - decay))

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
    same = (left[k].dtype == right[k].dtype and torch.equal(left[k], right[k]) for k in left)
    return left.keys() == right.keys() and all(same)
