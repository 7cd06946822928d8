"""How long and with which optimisers: the budget of a run, the only schema for it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn

from redistill.core.build import one_line, validated
from redistill.core.errors import UserError, unknown
from redistill.core.world import is_sharded


class Optim(BaseModel):
    """An optimiser and its schedule."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
    lr: float = Field(1e-3, ge=0)
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = Field(1e-8, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    nesterov: bool = False
    weight_decay: float = Field(0.0, ge=0)
    clip: float | None = Field(None, gt=0, description="greatest norm of the gradient")
    schedule: Literal["constant", "cosine", "linear", "multistep"] = "constant"
    warmup: int = Field(0, ge=0, description="steps of linear growth from 0")
    milestones: tuple[float, ...] = (0.5, 0.75)
    gamma: float = Field(0.1, gt=0)

    def factor(self, step: int, steps: int) -> float:
        """What the learning rate is multiplied by at ``step`` of ``steps``: a pure function, no state to save."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        done = (step - self.warmup) / max(steps - self.warmup, 1)
        if self.schedule == "cosine":
            return 0.5 * (1 + math.cos(math.pi * done))
        if self.schedule == "linear":
            return 1 - done
        if self.schedule == "multistep":
            return self.gamma ** sum(step / steps >= m for m in self.milestones)
        return 1.0

    def build(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        """The torch optimiser over ``parameters``."""
        fused = not is_sharded(parameters) and all(p.is_floating_point() for p in parameters)
        common: dict[str, Any] = {"lr": self.lr, "weight_decay": self.weight_decay, "fused": fused}
        if self.optimizer == "sgd":
            return torch.optim.SGD(parameters, momentum=self.momentum, nesterov=self.nesterov, **common)
        kind = torch.optim.AdamW if self.optimizer == "adamw" else torch.optim.Adam
        return kind(parameters, betas=self.betas, eps=self.eps, **common)

    def slots(self, parameters: list[nn.Parameter]) -> list[dict[str, Tensor]]:
        """What the optimiser keeps of each parameter once it was updated: scalars, or what is as the parameter is."""
        tried = {p.dtype: nn.Parameter(torch.zeros(2, dtype=p.dtype)) for p in parameters}
        for trial in tried.values():
            trial.grad = torch.zeros_like(trial)
        optimizer = self.build(list(tried.values()))
        optimizer.step()
        kept = {dtype: optimizer.state[trial].items() for dtype, trial in tried.items()}
        return [{k: p if v.ndim else v for k, v in kept[p.dtype] if isinstance(v, Tensor)} for p in parameters]


class Plan(Optim):
    """The budget of a run. ``steps`` or ``epochs``; ``turns`` overrides the optimiser turn by turn."""

    steps: int | None = Field(None, gt=0)
    epochs: int | None = Field(None, gt=0)
    batch_size: int = Field(64, gt=0, description="rows of a global batch: over all ranks and micro-batches")
    accumulate: int = Field(1, gt=0, description="micro-batches that a rank's part is cut into")
    drop_last: bool = False
    workers: int = Field(0, ge=0, le=64, description="processes that load data")
    turns: dict[str, dict[str, Any]] = {}
    precision: Literal["fp32", "bf16"] = "fp32"
    parallel: Literal["replicate", "shard"] = "replicate"
    device: str = "auto"
    seed: int = 0
    log_every: int = Field(10, gt=0)
    save_every: int | None = Field(None, gt=0, description="steps between checkpoints; without it ten minutes")
    keep: int = Field(2, gt=0, description="checkpoints kept")
    trackers: tuple[Literal["tensorboard", "trackio", "wandb"], ...] = ()

    def __init__(self, **given: Any) -> None:
        try:
            super().__init__(**given)
        except ValidationError as wrong:
            raise one_line(wrong, "plan", type(self).model_fields) from wrong
        if (self.steps is None) == (self.epochs is None):
            raise UserError("give either steps or epochs", place="plan")
        for turn in self.turns:
            self.optim(turn)
        with suppress(RuntimeError):
            if self.device == "auto" or torch.device(self.device).type != "meta":
                return
        raise unknown("device", self.device, ("auto", "cpu", "cuda", "cuda:0", "mps"), place="plan.device")

    def optim(self, turn: str) -> Optim:
        """The optimiser of ``turn``: the plan's own with the turn's overrides."""
        common = {name: getattr(self, name) for name in Optim.model_fields}
        return validated(Optim, {**common, **self.turns.get(turn, {})}, place=f"plan.turns.{turn}")

    def decisive(self, turns: Iterable[str]) -> dict[str, Any]:
        """What the weights depend on besides steps and batch size, as JSON; the optimisers are those of ``turns``."""
        rest = self.model_dump(include={"epochs", "accumulate", "drop_last", "precision", "seed"})
        return {**rest, "turns": {turn: self.optim(turn).model_dump(mode="json") for turn in turns}}
