"""A method with all that the core has to carry: two networks, unequal turns, a reused batch, an average, a centre, a
table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from redistill.core import Again, Ema, Loss, Method, Progress, Slot, checkpoint

ROWS, WIDTH = 37, 4


class Scale(Slot):
    """A plug-in slot."""

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError


class Plain(Scale):
    """As it is."""

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return x


class Times(Scale):
    """Multiplied."""

    def __init__(self, factor: float = 2.0) -> None:
        self.factor = factor

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.factor * x


class Toy(Method):
    """A critic fits noise from the student's output, the student pleases the critic and its own average."""

    trains = {"critic": ["critic"], "student": ["student"]}
    needs = ("image",)

    def __init__(
        self,
        student: nn.Module,
        critic: nn.Module,
        teacher: nn.Module,
        *,
        critic_steps: int = 2,
        scale: Scale | None = None,
    ) -> None:
        super().__init__()
        self.student, self.critic, self.teacher = student, critic, teacher
        self.average, self.critic_steps, self.scale = Ema(student, 0.9), critic_steps, scale or Plain()
        self.register_buffer("centre", torch.zeros(WIDTH))
        self.register_buffer("table", torch.zeros(ROWS, WIDTH))

    def turns(self, now: Progress) -> tuple[str, ...]:
        return ("critic",) * self.critic_steps + (Again("student"),)

    def prepare(self, batch: dict[str, Any], now: Progress) -> dict[str, Any]:
        return {**batch, "noise": now.randn(len(batch["image"]), WIDTH)}

    def loss(self, turn: str, batch: dict[str, Any], now: Progress) -> Loss:
        x, noise = batch["image"], self.scale(batch["noise"])
        y = self.student(x)
        if turn == "critic":
            return Loss({"fit": (self.critic(y.detach()) - noise).square().mean()})
        keep = now.rand(len(x)) < 0.7  # unequal weights per micro-batch, like tokens under a mask
        row = ((self.critic(y) - self.teacher(x)) ** 2 + (y - self.average(x) - self.centre) ** 2).mean(1)
        mean = (row * keep).sum() / keep.sum().clamp(min=1)
        centre = (y.detach() * keep[:, None]).sum(0) / keep.sum().clamp(min=1)
        gather = {"index": batch["index"], "output": y.detach()}
        return Loss({"please": mean, "size": 0.1 * mean}, weight=keep.sum(), average={"mean": centre}, gather=gather)

    def after(self, turn: str, stats: dict[str, torch.Tensor], now: Progress) -> None:
        if turn == "student":
            self.average.update(self.student)
            self.centre.lerp_(stats["mean"], 0.1)
            self.table[stats["index"]] = stats["output"].to(self.table)


def net(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(WIDTH, 8), nn.Tanh(), nn.Linear(8, WIDTH)).double()


def toy(**options: Any) -> Toy:
    method = Toy(net(0), net(1), net(2), **options).double()
    return method


def data() -> dict[str, torch.Tensor]:
    return {"image": torch.randn(ROWS, WIDTH, generator=torch.Generator().manual_seed(5), dtype=torch.float64)}


def reseal(path: Path, **changes: Any) -> None:
    """Change numbers of the checkpoint at ``path``, with a checksum that fits."""
    given = json.loads((path / "state.json").read_text())
    del given["sha256"]
    (path / "state.json").write_bytes(checkpoint.sealed(json.dumps({**given, **changes}).encode()[1:]))
