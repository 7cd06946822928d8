"""What held-out rows say of a method in training: numbers by the kind of its rows and student."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from redistill.core import Method, Progress, UserError
from redistill.core.loss import checked
from redistill.core.method import Batch
from redistill.core.modes import evaluating
from redistill.core.progress import Rows, own_generators
from redistill.core.source import table
from redistill.language.tokens import log_prob_of
from redistill.models.transformers import CausalLm
from redistill.supervised.classifier import logits
from redistill.supervised.predict import predict
from redistill.supervised.targets import check_labels

Numbers = dict[str, float]


@dataclass(frozen=True)
class Judge:
    """``numbers(method, now)`` measures. ``goal``: the number that says which weights are best, empty
    where none does; ``sign``: 1 where more of it is better, -1 where less is."""

    numbers: Callable[[Method, Progress], Numbers]
    goal: str
    sign: int


def judge_of(method: Method, rows: Any, batch_size: int) -> Judge:
    """Accuracy and cross-entropy of a classifier on ``rows`` with labels, cross-entropy of the answers of a language
    model, else the method's own loss."""
    if len(table(rows)) == 0:
        raise UserError("there are no held-out rows", place="data.held_out")
    if _classifies(method.export(), rows):
        return Judge(partial(_accuracy, rows=rows, batch_size=batch_size), "accuracy", 1)
    if isinstance(method.export(), CausalLm) and "loss_mask" in table(rows).__getitems__([0]):
        return Judge(partial(_surprise, rows=rows, batch_size=batch_size), "cross_entropy", -1)
    goal = "loss" if len(method.trains) == 1 else ""  # of several turns none says which student is best
    return Judge(partial(_own_loss, rows=rows, batch_size=batch_size), goal, -1)


def _classifies(student: nn.Module, rows: Any) -> bool:
    """Whether ``student`` gives one score a class for rows that have labels: it is asked about two."""
    source = table(rows)
    batch = source.__getitems__(list(range(min(2, len(source)))))
    label = batch.get("label")
    if not isinstance(label, Tensor) or label.ndim != 1 or label.is_floating_point():
        return False
    try:
        with torch.no_grad(), evaluating(student), own_generators():
            z = logits(student, batch)
    except (TypeError, KeyError, RuntimeError, AttributeError):  # a denoiser, a language model
        return False
    if z.ndim == 2:
        check_labels(label, z.shape[1])
    return z.ndim == 2


def _accuracy(method: Method, now: Progress, *, rows: Any, batch_size: int) -> Numbers:
    p, label = predict(method.export(), rows, batch_size=batch_size)  # [N, C], [N]
    check_labels(label, p.shape[1])
    surprise = -p.gather(1, label[:, None]).clamp(min=1e-300).log().mean()
    return {"accuracy": float((p.argmax(1) == label).double().mean()), "cross_entropy": float(surprise)}


@torch.no_grad()
def _surprise(method: Method, now: Progress, *, rows: Any, batch_size: int) -> Numbers:
    """Nats a learned token, each counting alike."""
    source, student, total, count = table(rows), method.export(), 0.0, 0
    with evaluating(student):
        for part in torch.arange(len(source)).split(batch_size):
            batch = _placed(source.__getitems__(part.tolist()), now)
            answer = batch["loss_mask"][:, 1:].bool()  # [B, T - 1]
            keep = nn.functional.pad(answer, (0, 1))  # where the token after is learned
            logp = log_prob_of(student(batch["ids"], batch["mask"], keep=keep), batch["ids"][:, 1:][answer])  # [N]
            total, count = total - float(logp.double().sum()), count + len(logp)
    return {"cross_entropy": total / count}


@torch.no_grad()
def _own_loss(method: Method, now: Progress, *, rows: Any, batch_size: int) -> Numbers:
    """The mean loss of every turn in evaluation mode; its random numbers are the same at every look."""
    source, sums = table(rows), {turn: [0.0, 0.0] for turn in method.trains}
    look = copy.copy(now)  # whatever it is asked, the run is not
    with evaluating(method):
        for number, part in enumerate(torch.arange(len(source)).split(batch_size)):
            look.step, look.rows = 0, Rows(0, len(part), len(part))
            look.reseed("held out", number)  # as of step 0, whatever the step
            look.step = now.step
            batch = method.prepare(_placed({**source.__getitems__(part.tolist()), "index": part}, now), look)
            for turn, total in sums.items():
                look.turn = turn
                loss = checked(method.loss(turn, batch, look), turn)
                weight = float(len(part) if loss.weight is None else loss.weight)
                if weight:
                    total[0] += weight * float(loss.total)
                    total[1] += weight
    alone = len(sums) == 1
    return {"loss" if alone else turn: total / weight for turn, (total, weight) in sums.items() if weight}


def _placed(batch: Batch, now: Progress) -> Batch:
    return {name: value.to(now.device) if isinstance(value, Tensor) else value for name, value in batch.items()}
