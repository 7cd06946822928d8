"""The budget of the demo: what fits into wall time, told by a clock that the test moves; and its pairs."""

from __future__ import annotations

import copy
from itertools import repeat

import pytest
import torch
from torch import nn

from redistill.beds import faces
from redistill.core import Loss, Method, Plan
from redistill.core.followers import same_weights
from redistill.diffusion.denoiser import Denoiser
from redistill.diffusion.solvers import ddim
from redistill.studies import faces_demo
from redistill.studies.faces_demo import TIMED, WARM, seconds_a_step, updates_within

DATA = {"x": torch.ones(8, 2)}


class Slow(Method):
    """Pulls a linear map to 0; every step takes the seconds that ``pace`` gives next on ``clock``."""

    needs = ("x",)

    def __init__(self, pace, clock):
        super().__init__()
        self.student, self.trains = nn.Linear(2, 1), {"student": ["student"]}
        self.pace, self.clock = pace, clock

    def __deepcopy__(self, memo):
        other = Slow(self.pace, self.clock)
        other.student = copy.deepcopy(self.student)
        return other

    def loss(self, turn, batch, now):
        self.clock[0] += next(self.pace)
        return Loss({"square": self.student(batch["x"]).square().mean()})


PLAN = Plan(steps=1, batch_size=4, schedule="cosine", device="cpu", log_every=10)


def test_a_slow_first_step_and_one_hiccup_do_not_decide_and_a_copy_is_timed():
    clock = [0.0]
    method = Slow(iter([20.0] * WARM + [1.0] * (TIMED - 1) + [30.0]), clock)
    before = copy.deepcopy(method.student)
    assert seconds_a_step(method, DATA, PLAN, clock=lambda: clock[0]) == 1.0
    assert same_weights(before, method.student)


@pytest.fixture
def paced(monkeypatch):
    """A clock on which a chunk of pairs takes 3 s, a step of regression 2 s and an update 5 s."""
    clock = [0.0]

    def pairs(chunks, seed):
        clock[0] += 3.0 * chunks
        return DATA

    methods = [(Slow(repeat(seconds), clock), PLAN) for seconds in (2.0, 5.0)]
    monkeypatch.setattr(faces_demo, "pairs", pairs)
    monkeypatch.setattr(faces_demo, "stages", lambda student, updates, seed: methods)
    return lambda: clock[0]


def test_as_many_updates_as_the_rest_of_the_time_has_room_for(paced):
    spent = 4 * 3.0 + (WARM + TIMED) * (2.0 + 5.0)
    one = faces_demo.CHUNKS * 3.0 + faces_demo.REGRESSIONS * 2.0 + 5.0
    assert updates_within(spent + 7.5 * one, nn.Identity(), 0, clock=paced) == 7


@pytest.mark.parametrize("seconds", [0.5, 60.0])
def test_at_least_one_update(paced, seconds):
    assert updates_within(seconds, nn.Identity(), 0, clock=paced) == 1


def test_pairs_are_noise_and_where_the_teacher_takes_it_for_the_artist_of_the_row(monkeypatch):
    pytest.importorskip("diffusers")
    monkeypatch.setattr(faces_demo, "BATCH", 2)
    told = []
    found = faces_demo.pairs(2, 3, lambda what, done, total, seconds: told.append((done, total)))
    teacher = faces.teacher()
    with torch.no_grad():
        end = ddim(teacher, found["pair_noise"], teacher.path.grid(50), condition=found["label"])
        other = ddim(teacher, found["pair_noise"], teacher.path.grid(50), condition=(found["label"] + 1) % 3)
    off, off_other = ((found["pair_image"] - x).abs().mean() for x in (end, other))
    assert off < 0.5 * off_other
    assert told == [(1, 2), (2, 2)]
    assert torch.equal(found["pair_noise"], faces_demo.pairs(2, 3)["pair_noise"])


def test_regression_leaves_a_student_alone_that_makes_the_pair():
    made = torch.full((2, 3, 4, 4), 0.25)
    student = Denoiser(nn.Conv2d(3, 3, 1), kind="x0")
    student.forward = lambda x_t, t, condition=None: made
    batch = {"pair_noise": torch.randn(2, 3, 4, 4), "pair_image": made - 0.5, "label": torch.zeros(2).long()}
    loss = faces_demo.Regression(student).loss("student", batch, None).total
    assert loss == 0.5
