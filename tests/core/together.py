"""One of two gloo processes that go through all that ranks must agree on."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from redistill.core import Loss, Plan, UserError, fit
from redistill.core.checkpoint import Pace
from redistill.core.world import World, leave, shard, whole
from redistill.language.rollouts import sample
from tests.core.test_exactness import PLAN, Alone, Followed, Listed, Masked, Nothing
from tests.core.toys import WIDTH, data, net

DECAY = Plan(**PLAN, weight_decay=0.1)


class Spare(nn.Module):
    """A network with a parameter that no loss reaches, and running statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.spare, self.norm = net(0), nn.Linear(2, 2).double(), nn.BatchNorm1d(WIDTH).double()
        nn.init.ones_(self.spare.weight), nn.init.ones_(self.spare.bias)
        self.register_buffer("table", torch.rand(3, generator=torch.Generator().manual_seed(0)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.norm(x)  # its output is not used: normalising over half a batch is not normalising over all of it
        return self.net(x)


def spare() -> Alone:
    """Every parameter of the norm is without a gradient as well."""
    return Alone(Spare())


class Stopped(Alone):
    """Rank 1 alone is told to stop, in step 3."""

    def loss(self, turn: str, batch: dict, now) -> Loss:
        if now.step == 3 and os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGTERM)
        return super().loss(turn, batch, now)


class Chain(nn.Module):
    """A language model of one table: 1 -> end; 2 -> 3 -> 4 -> end."""

    eos, pad = (0,), 0

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding.from_pretrained(torch.eye(5)[[0, 0, 3, 4, 0]], freeze=False)

    def new_cache(self) -> None:
        return None

    def forward(self, new: torch.Tensor, mask: torch.Tensor, **_: object) -> torch.Tensor:
        return self.table(new[:, -1])


def refusal(rows: int) -> str:
    try:
        fit(Alone(net(0)), {"image": data()["image"][:rows]}, Plan(**PLAN))
    except UserError as error:
        return str(error)
    return ""


def stopped(folder: Path) -> int:
    try:
        fit(Stopped(net(0)), data(), Plan(**PLAN), folder=folder)
    except SystemExit as stop:
        return int(str(stop).split()[3].rstrip(";"))
    return -1


def saved(folder: Path, clock: str) -> int:
    """How many checkpoints eight steps leave where the rank ``clock`` alone always finds one due."""
    due, Pace.due = Pace.due, lambda self: os.environ["RANK"] == clock
    fit(Alone(net(0)), data(), Plan(**PLAN, keep=9), folder=folder)
    Pace.due = due
    return len(list((folder / "checkpoints").iterdir()))


def main(folder: Path) -> None:
    world = World("cpu")
    out: dict[str, torch.Tensor] = {}
    said = [refusal(21), refusal(1)]
    assert "last batch of an epoch has 1 row for 2 processes; set drop_last" in said[0], said
    assert "1 rows cannot be spread over 2 processes" in said[1], said

    lm = Chain()
    shard(lm, world)
    prompt = torch.tensor([[1 + world.rank]])
    out["rollout"] = sample(lm, prompt, torch.ones_like(prompt), torch.full((1, 6), 0.5), temperature=0.0).ids

    out["stopped"] = torch.tensor([stopped(folder / "run"), len(list((folder / "run" / "checkpoints").iterdir()))])
    out["saved"] = torch.tensor([saved(folder / f"clock{rank}", rank) for rank in "01"])
    out |= {f"spare.{k}": v for k, v in fit(spare(), data(), DECAY).method.state_dict().items()}
    out |= {f"masked.{k}": v for k, v in fit(Masked(net(0), rows=2), data(), DECAY).method.state_dict().items()}

    low = {"image": data()["image"].bfloat16()}
    sharded = fit(Followed(net(0).bfloat16()), low, Plan(**PLAN, parallel="shard"), folder=folder / "low").method
    twin = sharded.average.get_buffer("twin_0/weight")
    assert isinstance(twin, DTensor) and twin.dtype == torch.float32
    out["twin"] = twin.full_tensor()

    own = folder / f"own{world.rank}"  # only rank 0 writes, so rank 1 finds nothing to go on with
    fit(Alone(net(0)), data(), Plan(**PLAN), folder=own, until=3)
    try:
        fit(Alone(net(0)), data(), Plan(**PLAN), folder=own, resume=True)
    except UserError as error:
        assert "the processes differ ([3, 0]) in the step to go on from" in str(error), error
        out["apart"] = torch.ones(())

    for parallel in ("replicate", "shard"):
        plan = Plan(**PLAN, parallel=parallel, accumulate=4)  # micro-batches of a row or two: many in which none counts
        state = fit(Nothing(net(0), rows=20), data(), plan).method.state_dict()
        out |= {f"nothing.{parallel}.{k}": whole(v) for k, v in state.items()}

    listed = fit(Listed(net(0)), data(), Plan(**PLAN, parallel="shard"), folder=folder / "listed").method
    assert all(isinstance(p, DTensor) for p in listed.averages.parameters())
    out |= {f"listed.{k}": v.full_tensor() for k, v in listed.state_dict().items()}
    torch.save({k: v.clone() for k, v in out.items()}, folder / f"rank{world.rank}.pt")
    leave()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
