"""The budget of the demo: steps that fit into wall time, told by a clock that the test moves."""

from __future__ import annotations

import copy
from itertools import count

import pytest
import torch
from torch import nn

from redistill.core import Loss, Method, Plan
from redistill.core.followers import same_weights
from redistill.studies.faces_demo import TIMED, WARM, steps_within

DATA = {"x": torch.ones(8, 2)}


class Regression(Method):
    """Pulls a linear map to 0; every step takes the seconds that ``pace`` gives next on ``clock``."""

    needs = ("x",)

    def __init__(self, pace):
        super().__init__()
        self.student, self.trains = nn.Linear(2, 1), {"student": ["student"]}
        self.pace, self.clock = pace, [0.0]

    def __deepcopy__(self, memo):
        other = Regression(self.pace)
        other.clock, other.student = self.clock, copy.deepcopy(self.student)
        return other

    def loss(self, turn, batch, now):
        self.clock[0] += next(self.pace)
        return Loss({"square": self.student(batch["x"]).square().mean()})


def fitting(seconds, pace):
    method = Regression(iter(pace))
    before = copy.deepcopy(method.student)
    plan = Plan(steps=1, batch_size=4, schedule="cosine", device="cpu", log_every=10)
    found = steps_within(seconds, method, DATA, plan, clock=lambda: method.clock[0])
    assert same_weights(before, method.student)  # a copy was timed
    return found


def test_as_many_steps_as_the_rest_of_the_time_has_room_for():
    assert fitting(100.0, (2.0 for _ in count())) == (100 - 2 * (WARM + TIMED)) / 2


def test_a_slow_first_step_and_one_hiccup_do_not_decide():
    pace = [20.0] * WARM + [1.0] * (TIMED - 1) + [30.0]
    assert fitting(100.0, pace) == 100 - sum(pace)


@pytest.mark.parametrize("seconds", [0.5, 9.0])
def test_at_least_one_step(seconds):
    assert fitting(seconds, (2.0 for _ in count())) == 1
