"""How long and with which optimisers: the budget of a run, the only schema for it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor, nn

from redistill.core.build import one_line, validated
from redistill.core.errors import UserError, unknown
from redistill.core.types import Count, CountOrZero, NonNegative, Positive, Seed, Share, ShareBelow1, Workers
from redistill.core.world import is_sharded


class Optim(BaseModel):
    """An optimiser and its schedule."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
    lr: NonNegative = 1e-3
    betas: tuple[ShareBelow1, ShareBelow1] = (0.9, 0.999)  # of adam and adamw
    eps: Positive = 1e-8
    momentum: ShareBelow1 = 0.9  # of sgd
    nesterov: bool = False
    weight_decay: NonNegative = 0.0
    clip: Positive | None = None  # greatest norm of the gradient
    schedule: Literal["constant", "cosine", "linear", "multistep"] = "constant"
    warmup: CountOrZero = 0  # steps of linear growth from 0
    milestones: tuple[Share, ...] = (0.5, 0.75)  # of the run, where multistep multiplies the rate
    gamma: Positive = 0.1  # by this

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

    steps: Count | None = None
    epochs: Count | None = None
    batch_size: Count = 64  # rows of a global batch: over all ranks and micro-batches
    accumulate: Count = 1  # micro-batches that a rank's part is cut into
    drop_last: bool = False  # leave out the last batch of an epoch where it is smaller
    workers: Workers = 0  # processes that load data
    turns: dict[str, dict[str, Any]] = {}  # turn: what is other in its optimiser
    precision: Literal["fp32", "bf16"] = "fp32"
    parallel: Literal["replicate", "shard"] = "replicate"  # what several devices do with a network
    device: str = "auto"
    seed: Seed = 0
    log_every: Count = 10  # steps between logged rows
    save_every: Count | None = None  # steps between checkpoints; without it ten minutes
    keep: Count = 2  # checkpoints kept
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
