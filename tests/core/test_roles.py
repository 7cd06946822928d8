"""Who trains, in which mode, and what a checkpoint holds: what plug-ins, observers and interruptions must not undo."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from redistill.core import Loss, Method, Plan, fit
from redistill.core.followers import same_weights
from tests.core.test_exactness import Alone
from tests.core.toys import WIDTH, data

PLAN = {"steps": 8, "batch_size": 10, "lr": 1e-2, "device": "cpu", "log_every": 2}


def noisy() -> nn.Module:
    """A student whose training mode shows: dropout and batch norm."""
    torch.manual_seed(0)
    layers = nn.Linear(WIDTH, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, WIDTH)
    return nn.Sequential(*layers).double()


class Sleepy(Alone):
    """``after`` or ``prepare`` leaves a part of the student in evaluation mode."""

    def __init__(self, student: nn.Module, where: str) -> None:
        super().__init__(student)
        self.where = where

    def prepare(self, batch, now):
        if self.where == "prepare":
            self.student[1:].eval()
        return batch

    def after(self, turn, stats, now):
        if self.where == "after":
            self.student.eval()


@pytest.mark.parametrize("where", ["observer", "prepare", "after"])
def test_whoever_evaluates_the_student_turns_nothing_off_for_the_steps_that_follow(where):
    observers = [lambda now, row, method: method.eval()] if where == "observer" else []
    plain, seen = fit(Alone(noisy()), data(), Plan(**PLAN)), Sleepy(noisy(), where)
    fit(seen, data(), Plan(**PLAN), observers=observers)
    assert same_weights(plain.student, seen.student)
