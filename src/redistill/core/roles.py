"""Who trains in which turn, decided by whole modules and by parameter *names*: sharding swaps parameter objects."""

from __future__ import annotations

import warnings

from torch import Tensor, nn

from redistill.core.errors import UserError, nearest, unknown
from redistill.core.followers import Follower, any_trains
from redistill.core.method import Again, Method
from redistill.core.progress import Progress
from redistill.core.slot import Slot
from redistill.core.world import require_gradient


class Roles:
    """Freezes and thaws the networks of a method before each turn, and knows which tensors change in a run."""

    def __init__(self, method: Method) -> None:
        self.method = method
        for name, _ in method.named_parameters(recurse=False):
            message = f"{type(method).__name__} holds the parameter {name!r} itself, so no turn would train it; put it "
            raise UserError(message + "in a module and name that in trains, or register it as a buffer", place="method")
        self.trains, have = _with_plugins(method), method.networks()
        names = dict.fromkeys(name for nets in self.trains.values() for name in nets)
        for name in names:
            assert name in have, f"{type(method).__name__}.trains names {name!r}; {nearest(name, have)}"
        self.trained = {name: have[name] for name in names}
        self.trainable = {
            role: {n for n, p in net.named_parameters() if p.requires_grad} for role, net in self.trained.items()
        }
        for role, keys in self.trainable.items():
            if not keys:
                raise UserError(f"no parameter of {role!r} requires a gradient; nothing would train", place="method")
        self._now: str | None = None
        self._modes: list[tuple[nn.Module, bool]] = []
        self._frozen: dict[str, list[nn.Parameter]] = {}
        self.silent: dict[str, list[str]] = {}  # turn that has run -> networks of it that no gradient has reached yet

    def enter(self, turn: str) -> None:
        """Thaw the networks of ``turn`` (train mode), freeze all others (eval mode). A gradient still flows through
        them. In the same turn again, undo what somebody's ``eval()`` changed since."""
        for module, mode in self._modes:
            if module.training != mode:  # the look is cheap, to set is not
                module.training = mode
        if turn == self._now:
            return
        self._now, networks = str(turn), self.method.networks()
        for name, net in networks.items():
            active = name in self.trains[turn]
            net.train(active)
            require_gradient(net, self.trainable.get(name, set()) if active else set())
        self._frozen = {n: [p for p in net.parameters() if not p.requires_grad] for n, net in networks.items()}
        self._modes = [(module, module.training) for module in self.method.modules()]

    def leave(self, *, alike: bool = True) -> None:
        """Give every network back as it came, in evaluation mode, without gradients. ``alike``: all ranks do so."""
        self._now, self._modes = None, []
        for name, net in self.method.networks().items():
            net.eval().zero_grad(set_to_none=True)
            require_gradient(net, self.trainable.get(name, set()), alike=alike)

    def turns(self, now: Progress) -> tuple[str, ...]:
        """The turns of this step; refuses an unknown one, and a first one that wants the batch of another step."""
        turns, place = tuple(self.method.turns(now)), f"{type(self.method).__name__}.turns"
        for turn in turns:
            if turn not in self.trains:
                raise unknown("turn", turn, self.trains, place=place)
        if turns and isinstance(turns[0], Again):  # no checkpoint holds a batch
            repeat = f"repeat it within one step: ({turns[0]!r}, Again({turns[0]!r}))"
            raise UserError(f"the first turn of a step cannot be Again; {repeat}", place=place)
        return turns

    def parameters(self, turn: str) -> list[nn.Parameter]:
        """The parameters that ``turn`` trains, in a stable order."""
        nets = [(name, self.trained[name]) for name in self.trains[turn]]
        return [p for name, net in nets for key, p in net.named_parameters() if key in self.trainable[name]]

    def statistics(self, turn: str) -> list[Tensor]:
        """The saved buffers of fractions in the networks that ``turn`` trains: the running statistics of batch norm."""
        nets = [self.trained[name] for name in self.trains[turn]]
        return [b for net in nets for b in _buffers(net).values() if b.is_floating_point()]

    def audit(self, turn: str) -> None:
        """After every backward pass: no gradient in what ``turn`` does not train. Notes whom of the others one met."""
        for name, parameters in self._frozen.items():
            leaks = any(p.grad is not None for p in parameters)
            assert not leaks, f"turn {turn!r} left a gradient in {name!r}, which it does not train"
        waiting = self.silent.get(turn, self.trains[turn])
        self.silent[turn] = [n for n in waiting if all(p.grad is None for p in self.trained[n].parameters())]

    def demand(self, *, end: bool) -> None:
        """A gradient must have met every network by the ``end`` (a loss may begin late); a warning before that."""
        for turn, name in ((turn, name) for turn, names in self.silent.items() for name in names):
            said = f"turn {turn!r} trains {name!r}, but no gradient reached it"
            if end:
                owner = "options" if isinstance(self.trained[name], Slot) else type(self.method).__name__
                raise UserError(f"the loss does not depend on it ({said})", place=f"{owner}.{name}")
            warnings.warn(f"{said} so far", stacklevel=2)

    def state(self) -> dict[str, Tensor]:
        """What changes in a run, by name, not copied, each tensor once: trained parameters, what followers copied, all
        buffers, however deep in the method they lie. Parameters of frozen networks come from outside."""
        names = {f"{role}.{key}" for role, keys in self.trainable.items() for key in keys}
        names |= {f"{name}.net.{key}" for name, follower in self.followers().items() for key in follower.copied}
        every = self.method.named_parameters(remove_duplicate=False)  # a shared one may be frozen under its first name
        found = dict(self.method.named_buffers(recurse=False)) | _buffers(self.method)
        found |= {name: p for name, p in every if name in names}
        once = {id(tensor): name for name, tensor in reversed(found.items())}
        return {f"net.{name}": found[name] for name in once.values()}

    def followers(self) -> dict[str, Follower]:
        """All averages and snapshots, however deep in the method they lie."""
        return {name: m for name, m in self.method.named_modules() if isinstance(m, Follower)}


def _buffers(net: nn.Module) -> dict[str, Tensor]:
    """The buffers of ``net`` that are saved, by name."""
    held = ((name, m, key, b) for name, m in net.named_modules() for key, b in m.named_buffers(recurse=False))
    return {f"{name}.{key}".lstrip("."): b for name, m, key, b in held if key not in m._non_persistent_buffers_set}


def _with_plugins(method: Method) -> dict[str, list[str]]:
    """Turn -> networks. A plug-in with parameters (a learned temperature) trains in every turn that trains the
    student, whatever the method."""
    learned = [name for name, net in method.networks().items() if isinstance(net, Slot) and any_trains(net)]
    return {turn: [*nets, *(learned if "student" in nets else ())] for turn, nets in method.trains.items()}
