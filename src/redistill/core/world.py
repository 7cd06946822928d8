"""One process or many: placement through Accelerate, sums and gathers over ranks, sharding by ``fully_shard``."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection
from functools import cache
from typing import Any

import torch
import torch.distributed as dist
from accelerate import PartialState
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from redistill.core.errors import UserError, reading
from redistill.core.progress import Rows

_BUCKET = 32 * 2**20  # bytes of gradients that travel together


class World:
    """The processes of this run and the device of this one."""

    def __init__(self, device: str = "auto") -> None:
        with reading(f"{device!r} is not available here", place="plan.device", remedy="write cpu or auto"):
            torch.zeros(1, device=None if device == "auto" else device)
        launched = _launched()
        # without cpu=True Accelerate joins no group where there is no accelerator, and says nothing
        if device == "auto" and not torch.accelerator.is_available():
            device = "cpu"
        state = PartialState(cpu=True) if device == "cpu" else PartialState()
        self.rank, self.size = state.process_index, state.num_processes
        self.device = torch.device(device) if device not in ("auto", "cuda") else state.device
        if launched != self.size:
            found = f"{launched} processes were launched, but this one joined a group of {self.size}"
            raise UserError(f"{found}; set device to cpu or cuda, or start one process", place="plan.device")
        if self.main and self.size > 1:
            _announce(self.size, self.device.type)

    @property
    def main(self) -> bool:
        """Whether this process writes files and draws."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.size > 1:
            dist.barrier()

    def agree(self, module: nn.Module) -> None:
        """Give every rank the weights and buffers of rank 0, whatever it drew or read itself."""
        if self.size > 1:
            for values in (*module.parameters(), *module.buffers()):
                dist.broadcast(values.data, 0)

    def sum(self, values: Tensor) -> Tensor:
        """The sum over ranks (in place)."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def same(self, number: int, what: str, place: str) -> None:
        """Refuse to go on where the ranks have different numbers."""
        numbers = self.gather(torch.tensor([number], device=self.device)).tolist()
        if len(set(numbers)) > 1:
            raise UserError(f"the processes differ ({numbers}) in {what}", place=place)

    def gather(self, rows: Tensor) -> Tensor:
        """The rows of all ranks in the order of the global batch; ranks may hold unequal numbers of rows."""
        if self.size == 1:
            return rows
        counts = [torch.zeros(1, dtype=torch.int64, device=rows.device) for _ in range(self.size)]
        dist.all_gather(counts, torch.tensor([len(rows)], device=rows.device))
        longest = int(max(counts))
        padded = rows.new_zeros(longest, *rows.shape[1:])
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in range(self.size)]
        dist.all_gather(parts, padded.contiguous())
        return torch.cat([part[: int(n)] for part, n in zip(parts, counts)])

    def sum_gradients(self, parameters: list[nn.Parameter]) -> None:
        """Replicated networks: add up the gradients of all ranks, in buckets. Sharded ones were summed in the
        backward pass. What no rank has a gradient for keeps none: weight decay and momentum leave it alone."""
        if self.size == 1:
            return
        reached = self.sum(torch.tensor([float(p.grad is not None) for p in parameters], device=self.device))
        for p, ranks in zip(parameters, reached.tolist()):
            if ranks and p.grad is None:  # a rank without a gradient still takes part in the sum
                p.grad = torch.zeros_like(p)
        plain = [p.grad for p in parameters if p.grad is not None and not isinstance(p.grad, DTensor)]
        for bucket in _buckets(plain):
            flat = torch.cat([g.flatten() for g in bucket])
            dist.all_reduce(flat)
            for g, part in zip(bucket, flat.split([g.numel() for g in bucket])):
                g.copy_(part.view_as(g))

    def level(self, buffers: list[Tensor]) -> None:
        """Replace each buffer by its mean over ranks (in place); what is equal everywhere keeps its bits."""
        if self.size > 1 and buffers:
            flat = self.sum(torch.cat([b.double().flatten() for b in buffers])) / self.size
            for b, part in zip(buffers, flat.split([b.numel() for b in buffers])):
                b.copy_(part.view_as(b))

    def rows(self, total: int) -> Rows:
        """This rank's part of a global batch of ``total`` rows."""
        cuts = [total * r // self.size for r in range(self.size + 1)]
        return Rows(cuts[self.rank], cuts[self.rank + 1], total)


def _launched() -> int:
    """How many processes the launcher started, as it says in the environment, or a group that is there already."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_world_size()
    said = {name: os.environ.get(name, "") for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK")}
    if said["WORLD_SIZE"] in ("", "1"):
        return 1
    if not all(number.isdecimal() for number in said.values()):
        given = ", ".join(f"{name}={number}" for name, number in said.items())
        remedy = "start the processes with torchrun, or unset WORLD_SIZE"
        raise UserError(f"{given} names no process of a launch; {remedy}", place="environment")
    return int(said["WORLD_SIZE"])


@cache
def _announce(size: int, device: str) -> None:
    """Say once what a run is spread over: one process where two were meant is seen at once."""
    print(f"redistill: {size} processes on {device}", file=sys.stderr, flush=True)


def _buckets(gradients: list[Tensor]) -> list[list[Tensor]]:
    out: list[list[Tensor]] = []
    size = 0
    for g in gradients:
        if not out or size + g.nbytes > _BUCKET or out[-1][0].dtype != g.dtype:
            out.append([])
            size = 0
        out[-1].append(g)
        size += g.nbytes
    return out


def shard(net: nn.Module, world: World) -> None:
    """Shard ``net`` over all ranks, each repeated block by itself; call the net only through its ``forward``."""
    from torch.distributed.device_mesh import init_device_mesh

    mesh = init_device_mesh(world.device.type, (world.size,))
    for blocks in [m for m in net.modules() if isinstance(m, nn.ModuleList)]:
        for block in blocks:
            fully_shard(block, mesh=mesh, reshard_after_forward=True)
    fully_shard(net, mesh=mesh, reshard_after_forward=True)


def leave() -> None:
    """End this process together with the others of its launch; does nothing where it is alone.

    Threads of gloo may outlive their group and abort an ordinary exit, so nothing after this call is run.
    """
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        dist.barrier()  # none leaves while another still needs it
        dist.destroy_process_group()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def require_gradient(net: nn.Module, names: Collection[str], *, alike: bool = True) -> None:
    """Let exactly the parameters called ``names`` require a gradient.

    A sharded network holds every parameter twice, as a shard and gathered for the forward pass; both are set. A rank
    that others may not follow (not ``alike``) sets what it holds: to gather, it would wait for them.
    """
    sharded = [module for module in net.modules() if alike and isinstance(module, FSDPModule)]
    for module in sharded:
        module.unshard()
    _set_required(net, names)
    for module in sharded:
        module.reshard()
    if sharded:
        _set_required(net, names)


def _set_required(net: nn.Module, names: Collection[str]) -> None:
    for name, parameter in net.named_parameters():
        parameter.requires_grad_(name in names)


def backward_of_nothing(total: Tensor) -> None:
    """The backward pass of ``total`` for the sake of its collective calls: adds zeros to the gradients, even of NaN."""
    nodes, queue = set[Any](), [total.grad_fn]
    while queue:
        node = queue.pop()
        if node is not None and node not in nodes:
            nodes.add(node)
            queue += [following for following, _ in node.next_functions]
    hooks = [node.register_prehook(_zeros) for node in nodes if hasattr(node, "variable")]  # where gradients are added
    total.backward()
    for hook in hooks:
        hook.remove()


def _zeros(gradients: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
    return tuple(None if g is None else torch.zeros_like(g) for g in gradients)


def whole(tensor: Tensor) -> Tensor:
    """The full tensor behind a shard, detached."""
    detached = tensor.detach()
    return detached.full_tensor() if isinstance(detached, DTensor) else detached


def placed_like(value: Tensor, reference: Tensor) -> Tensor:
    """``value`` (a full tensor) on the device, in the type and with the sharding of ``reference``."""
    value = value.to(device=reference.device, dtype=reference.dtype)
    if isinstance(reference, DTensor) and value.shape == reference.shape:
        return distribute_tensor(value, reference.device_mesh, reference.placements)
    return value


def is_sharded(tensors: list[Any]) -> bool:
    """Whether any of the tensors is a shard."""
    return any(isinstance(t, DTensor) for t in tensors)
