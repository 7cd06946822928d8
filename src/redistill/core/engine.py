"""The one training loop: turns, micro-batches, ranks, optimisers, checkpoints. It knows no paper and no domain."""

from __future__ import annotations

import copy
import math
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from redistill.core import checkpoint
from redistill.core.errors import Diverged, UserError
from redistill.core.followers import Ema
from redistill.core.loss import Sums, checked
from redistill.core.method import Again, Batch, Method
from redistill.core.observers import Display, JsonLines, Tracker, Window
from redistill.core.plan import Plan
from redistill.core.progress import Progress, Rows, own_generators, seed_of
from redistill.core.roles import Roles
from redistill.core.slot import describe
from redistill.core.source import Batches, cut
from redistill.core.world import World, backward_of_nothing, is_sharded, placed_like, shard, whole

Micro = tuple[Rows, Batch]


@dataclass
class Fitted:
    """What a run leaves: the student, the whole method, the logged rows and the seconds it took. The student is whole
    on every rank, the method keeps its shards; ``main``: whether this rank is the one that writes files."""

    student: nn.Module
    method: Method
    history: list[dict[str, Any]]
    seconds: float
    main: bool = True


def fit(
    method: Method,
    data: Any,
    plan: Plan,
    *,
    folder: str | Path | None = None,
    resume: bool = False,
    until: int | None = None,
    augment: Callable[[Batch, Progress], Batch] | None = None,
    observers: Sequence[Callable[..., None]] = (),
    show: bool = False,
) -> Fitted:
    """Train ``method`` on ``data`` within the budget of ``plan``; the last weights are the result.

    ``data``: a dict of equally long columns, a map-style data set of dicts, or None. ``folder``: where checkpoints and
    ``log.jsonl`` go; with ``resume`` the run continues from its last usable checkpoint to the same bits, for longer if
    neither rate nor method knew its length. ``until``: stop (with a checkpoint) before this step. ``augment``: changes
    every fresh micro-batch, with random numbers from ``now`` alone. ``show``: a progress bar.

    Raises :class:`UserError` for missing columns or a folder of another run, :class:`Diverged` for a loss or gradient
    that is not finite. The global generators of torch, numpy and Python are left as they were.
    """
    engine = Engine(method, data, plan, Path(folder) if folder else None, augment)
    engine.open(resume)
    with engine.watching(observers, show), checkpoint.graceful() as stop:
        engine.run(engine.steps if until is None else min(until, engine.steps), stop)
    return Fitted(engine.student(), method, engine.history, engine.seconds, engine.world.main)


class Engine:
    """One run of :func:`fit`."""

    def __init__(
        self, method: Method, data: Any, plan: Plan, folder: Path | None,
        augment: Callable[[Batch, Progress], Batch] | None = None,
    ) -> None:  # fmt: skip
        self.method, self.plan, self.folder = method, plan, folder
        self.augment = augment or (lambda batch, now: batch)
        self.world = World(plan.device)
        if not isinstance(method, Method):
            raise UserError(f"a {type(method).__name__} is no Method; wrap it, as Classification(it)", place="method")
        if unknown := set(plan.turns) - set(method.trains):
            raise UserError(f"unknown turns {sorted(unknown)}; valid: {sorted(method.trains)}", place="plan.turns")
        self.batches = Batches(data, plan, self.world)
        method.check({**self.batches.table.__getitems__([0]), "index": torch.zeros(1, dtype=torch.int64)})
        self.roles = Roles(method)
        self._place()
        self.optimizers = {turn: plan.optim(turn).build(self.roles.parameters(turn)) for turn in method.trains}
        self.now = Progress(seed=plan.seed, steps=plan.steps or 1, device=self.world.device)
        fresh = max(1, sum(not isinstance(turn, Again) for turn in self.roles.turns(self.now)))  # batches of a step
        self.now.steps = self.steps = plan.steps or max(1, (plan.epochs or 1) * self.batches.per_epoch // fresh)
        self.now.epochs = plan.epochs or max(1, math.ceil(self.steps * fresh / self.batches.per_epoch))
        self.history: list[dict[str, Any]] = []
        self.observers: list[Any] = []
        self.window, self.seconds, self.drawn = Window(), 0.0, 0  # drawn: global batches
        self._micros: list[Micro] = []
        self._stop, self._asked = threading.Event(), False  # this rank is asked to stop; some rank was
        self.pace, self._due = checkpoint.Pace(), False  # by the clock of rank 0
        self._blank, self._counted = Counter[str](), set[str]()  # by turn: batches without a row that counts; any with

    def _place(self) -> None:
        self.method.to(self.world.device)
        torch.manual_seed(seed_of(self.plan.seed, "meet"))
        with own_generators(seed_of(self.plan.seed, "meet")):  # of numpy and Python as well
            self.method.meet(self.batches.table)
        self.world.agree(self.method)  # on what was drawn as well
        for name, net in self.method.networks().items():
            if name not in self.roles.trained:
                net.eval()  # the first ``prepare`` comes before any turn
        if self.plan.parallel == "shard":
            if self.world.size == 1:
                raise UserError("'shard' needs several processes (torchrun)", place="plan.parallel")
            self._unsharded = copy.deepcopy(self.method.export())  # a sharded module cannot be made whole again
            followers = self.roles.followers().values()
            for net in (*(follower.net for follower in followers), *self.roles.trained.values()):
                shard(net, self.world)
            for follower in followers:
                if isinstance(follower, Ema):
                    follower.keep_twins()  # sharded as well

    def student(self) -> nn.Module:
        """What the method exports; where it is sharded, a copy with the whole weights (all ranks must call)."""
        student = self.method.export()
        state = student.state_dict()
        if not is_sharded(list(state.values())):  # or made anew from whole weights
            return student.eval()
        self._unsharded.load_state_dict({name: whole(t) for name, t in state.items()})
        return self._unsharded.eval()

    # --- the loop ---------------------------------------------------------------------------------------------------

    def run(self, until: int, stop: threading.Event) -> None:
        """Steps up to ``until``; saves on the way, at the end and when asked to stop. However it ends, the networks
        are given back."""
        begin = self.window.since = self.window.begin = time.perf_counter()
        self.pace = checkpoint.Pace()
        stream, self._stop, alike, asked = self.batches.since(self.drawn), stop, False, False
        try:
            while self.now.step < until and not asked:
                self.step(stream)
                if (self.now.step + 1) % self.plan.log_every == 0 or self.now.step + 1 == self.steps:
                    self._log()
                self.now.step += 1
                asked = self._asked if self.world.size > 1 else stop.is_set()
                every = self.plan.save_every
                due = self.now.step % every == 0 if every else self._due
                if self.now.step == until or asked or due:
                    self.save()
            alike = True
        except Diverged:
            alike = True
            raise
        finally:
            self.roles.leave(alike=alike)
        if asked:
            raise SystemExit(f"stopped at step {self.now.step}; {self._remedy()}")
        if self.now.step == self.steps:
            self.roles.demand(end=True)  # what was learnt is saved by now
        self.seconds = time.perf_counter() - begin

    def step(self, stream: Iterator[Micro]) -> None:
        """All turns of one step."""
        for position, turn in enumerate(self.roles.turns(self.now)):
            self.now.turn = str(turn)
            self.roles.enter(turn)  # before ``prepare``, which may ask the student
            if not isinstance(turn, Again):
                self._micros = self._fetch(stream, position)
                self.roles.enter(turn)  # and after it, which may have left the student in evaluation mode
            stats = self._update(str(turn), self._accumulate(str(turn), position))
            with torch.no_grad():
                self.world.level(self.roles.statistics(turn) if self.world.size > 1 else [])
                self.now.rows = None
                if stats is not None:
                    self.method.after(str(turn), stats, self.now)

    def _fetch(self, stream: Iterator[Micro], position: int) -> list[Micro]:
        rows, batch = next(stream)
        self.now.epoch = self.drawn // self.batches.per_epoch
        self.drawn += 1
        self.now.ends_epoch = self.drawn % self.batches.per_epoch == 0
        moved = tree_map(lambda v: v.to(self.world.device) if isinstance(v, Tensor) else v, batch)
        self.method.check(moved)
        prepared = []
        least = rows.total // self.world.size  # rows of the smallest share
        for part, micro in cut(rows, moved, min(self.plan.accumulate, least)):
            self._begin(part, position, "prepare")
            with torch.no_grad(), self._precision():
                prepared.append((part, self.method.prepare(self.augment(micro, self.now), self.now)))
        return prepared

    def _begin(self, rows: Rows, position: int, what: str) -> None:
        self.now.rows = rows
        self.now.reseed(position, what)

    def _precision(self) -> Any:
        low = self.plan.precision == "bf16"
        return torch.autocast(self.world.device.type, torch.bfloat16) if low else nullcontext()

    def _accumulate(self, turn: str, position: int) -> Sums:
        """Forward and backward over the micro-batches; gradients are sums of (weight x mean), divided once in
        `_update`."""
        sums = Sums()
        alone = len(self._micros) == 1 and self.world.size == 1
        for rows, batch in self._micros:
            self._begin(rows, position, "loss")
            with self._precision():
                loss = checked(self.method.loss(turn, batch, self.now), turn)
            weight = float(rows.stop - rows.start) if loss.weight is None else loss.weight
            counts = alone or bool(weight > 0)
            sums.add(loss, weight, counts)
            if counts:
                (loss.total if alone else loss.total * weight).backward()
            elif self.plan.parallel == "shard":
                backward_of_nothing(loss.total)
        return sums

    def _update(self, turn: str, sums: Sums) -> dict[str, Tensor] | None:
        """Combine micro-batches and ranks, check, clip, step. Returns the statistics for ``after``; None where there
        are none because no row counts."""
        weight, numbers, stats = self._combine(sums)
        optim, optimizer = self.plan.optim(turn), self.optimizers[turn]
        if weight <= 0:
            optimizer.zero_grad(set_to_none=True)
            self._skip(turn)
            return None if sums.average else stats
        self._counted.add(turn)
        self._check_finite(turn, numbers)
        parameters = self.roles.parameters(turn)
        self.world.sum_gradients(parameters)
        self.roles.audit(turn)  # of all ranks together: a network may be used by some rows only
        gradients = [p.grad for p in parameters if p.grad is not None]
        if gradients and (len(self._micros) > 1 or self.world.size > 1):
            # fully_shard averages over ranks in the backward pass, replicas were summed
            torch._foreach_mul_(gradients, (self.world.size if self.plan.parallel == "shard" else 1) / weight)
        norm = nn.utils.clip_grad_norm_(parameters, optim.clip) if optim.clip else nn.utils.get_total_norm(gradients)
        self._check_finite(turn, {"gradient": float(whole(norm))})
        if optim.clip:
            numbers["grad_norm"] = float(whole(norm))
        lr = optim.lr * optim.factor(self.now.step, self.steps)
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        prefix = f"{turn}/" if len(self.method.trains) > 1 else ""
        self.window.add({prefix + k: v for k, v in {**numbers, "lr": lr}.items()}, self._micros[0][0].total)
        return stats

    def _combine(self, sums: Sums) -> tuple[float, dict[str, float], dict[str, Tensor]]:
        """One sum over ranks for the weight, the logged numbers, the averaged statistics, and what all must do alike:
        stop after the same step, save after the same step."""
        device = self.world.device
        parts = [torch.as_tensor(sums.weight, dtype=torch.float32, device=device).reshape(1)]
        parts += [value.to(device).reshape(-1) for value in (*sums.numbers.values(), *sums.average.values())]
        wishes = [self._stop.is_set(), self.world.main and self.pace.due()]
        parts += [torch.tensor(wishes, dtype=torch.float32, device=device)]
        flat = self.world.sum(torch.cat(parts)).split([p.numel() for p in parts])
        weight = float(flat[0])
        asked, due = flat[-1].tolist()
        self._asked, self._due = self._asked or asked > 0, self._due or due > 0
        gathered = {name: self.world.gather(torch.cat(rows)) for name, rows in sums.gather.items()}
        if weight <= 0:
            return weight, {}, gathered
        split = 1 + len(sums.numbers)
        numbers = {name: float(v) / weight for name, v in zip(sums.numbers, flat[1:split])}
        means = zip(sums.average.items(), flat[split:])
        stats = {name: (v / weight).view_as(like).to(like.dtype) for (name, like), v in means}
        return weight, numbers, stats | gathered

    def _skip(self, turn: str) -> None:
        """A batch in which no row counts takes no step; where the first epoch has no other, there is no run."""
        self._blank[turn] += 1
        if turn not in self._counted and self._blank[turn] >= min(self.batches.per_epoch, self.steps):
            raise UserError(f"no row or token of the first {self._blank[turn]} batches counts (masked)", place="data")
        if self._blank[turn] == 1:
            warnings.warn(f"step {self.now.step}: no row or token of the batch counts (masked); skipped", stacklevel=2)

    def _check_finite(self, turn: str, numbers: dict[str, float]) -> None:
        if wrong := [f"{name!r} is {value}" for name, value in numbers.items() if not math.isfinite(value)]:
            saved = self.folder and checkpoint.steps(self.folder / "checkpoints")
            where = f"; the last good checkpoint is in {self.folder}" if saved else ""
            raise Diverged(f"step {self.now.step}, turn {turn!r}: {wrong[0]}{where}")

    # --- what is written --------------------------------------------------------------------------------------------

    @contextmanager
    def watching(self, observers: Sequence[Callable[..., None]], show: bool) -> Iterator[None]:
        """The observers of this run, closed at its end."""
        self.observers = list(observers)
        if self.world.main and self.folder:
            self.observers += [JsonLines(self.folder / "log.jsonl", self.now.step)]
            self.observers += [Tracker(name, self.folder) for name in self.plan.trackers]
        if self.world.main and show:
            self.observers += [Display(type(self.method).__name__)]
        try:
            yield
        finally:
            for observer in self.observers:
                getattr(observer, "close", lambda: None)()

    def _log(self) -> None:
        row = self.window.flush(step=self.now.step + 1, epoch=self.now.epoch)
        self.history.append(row)
        if self.drawn >= self.batches.per_epoch:
            self.roles.demand(end=False)
        for observer in self.observers:
            observer(self.now, row, self.method)
        self.window.since = time.perf_counter()  # what observers took is no training

    def identity(self) -> dict[str, Any]:
        """What must agree between a checkpoint and the run that continues it, as JSON gives it back."""
        options = {k: checkpoint.plain(v, f"options.{k}") for k, v in describe(self.method).items()}
        plan = self.plan.decisive(self.method.trains) | {"steps": self.steps, "batch_size": self.batches.size}
        return {"method": type(self.method).__name__, "options": options, "rows": len(self.batches.table), "plan": plan}

    def state(self) -> dict[str, Tensor]:
        """Every tensor that changes, by name: networks, followers, buffers, optimisers (full tensors on every rank)."""
        tensors = self.roles.state()
        for turn, optimizer in self.optimizers.items():
            for i, slots in optimizer.state_dict()["state"].items():
                tensors |= {f"optim.{turn}.{i}.{k}": v for k, v in slots.items() if isinstance(v, Tensor)}
        return {name: whole(t) for name, t in tensors.items()}

    def save(self) -> None:
        """A checkpoint, if there is a folder for it."""
        self._due = False
        if self.folder is None:
            return
        with self.pace.saving():
            tensors = self.state()
            if self.world.main:
                kept = {"run": self.identity(), "drawn": self.drawn, "history": self.history, "asked": self.now.asked}
                kept |= {"silent": self.roles.silent, "sums": self.window.sums, "seen": self.window.rows}
                checkpoint.write(self.folder / "checkpoints", self.now.step, tensors, kept, keep=self.plan.keep)
            self.world.barrier()

    def _remedy(self) -> str:
        """How a run that was stopped goes on."""
        if self.folder is None:
            return "nothing is saved, for the run has no folder"
        return f"saved in {self.folder}; go on with resume=True (redistill run: --resume)"

    def open(self, resume: bool) -> None:
        """Claim the folder, or continue from the last usable checkpoint in it."""
        if self.folder is None:
            if resume:
                raise UserError("resume needs the folder of the run that goes on", place="folder")
            return
        there = checkpoint.steps(self.folder / "checkpoints")
        if there and not resume:
            raise UserError(f"{self.folder} holds another run; resume it or choose another folder", place="folder")
        found, passed = checkpoint.latest(self.folder / "checkpoints", self._expected())
        if there and found is None:
            raise UserError(f"no checkpoint in it belongs to this run: {passed[0]}", place=str(self.folder))
        for reason in passed:
            warnings.warn(f"passed over a checkpoint: {reason}", stacklevel=2)
        if found:
            self.load(found)
        self.world.same(
            self.now.step, "the step to go on from; every process must see the run's folder", str(self.folder)
        )

    def _expected(self) -> checkpoint.Expected:
        kept = {turn: self.plan.optim(turn).slots(self.roles.parameters(turn)) for turn in self.optimizers}
        slots = {f"optim.{turn}.{i}": like for turn, likes in kept.items() for i, like in enumerate(likes)}
        return checkpoint.Expected(self.identity(), self.steps, self.roles.trains, self.roles.state(), slots)

    def load(self, found: checkpoint.Checkpoint) -> None:
        """Put a checkpoint's tensors and position in place."""
        numbers = found.numbers
        with torch.no_grad():
            for name, tensor in self.roles.state().items():
                tensor.copy_(placed_like(found.tensors[name], tensor))
        for turn, optimizer in self.optimizers.items():
            optimizer.load_state_dict(_optimizer_state(found.tensors, turn, optimizer, self.roles.parameters(turn)))
        self.now.step, self.drawn = numbers.step, numbers.drawn
        self.now.epoch = max(self.drawn - 1, 0) // self.batches.per_epoch
        self.now.ends_epoch = self.drawn > 0 and self.drawn % self.batches.per_epoch == 0
        self._counted.update(self.method.trains if self.now.step else ())
        self.history, self.roles.silent, self.now.asked = numbers.history, numbers.silent, numbers.asked
        self.window.sums, self.window.rows = numbers.sums, numbers.seen


def _optimizer_state(
    tensors: dict[str, Tensor], turn: str, optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter]
) -> dict[str, Any]:
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith(f"optim.{turn}."):
            i, key = name.removeprefix(f"optim.{turn}.").split(".", 1)
            like = parameters[int(i)]
            state.setdefault(int(i), {})[key] = placed_like(tensor, like) if tensor.shape == like.shape else tensor
    return {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
