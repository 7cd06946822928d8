"""Matches against closed forms, and the identities between them."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import cross_entropy, one_hot

from redistill.supervised import matches


def logits(seed: int, rows: int = 7, classes: int = 5) -> torch.Tensor:
    return 2 * torch.randn(rows, classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


STUDENT, TEACHER, LABEL = logits(0), logits(1), torch.arange(7) % 5
EVERY = [m() for m in (matches.Kd, matches.Dkd, matches.Dist, matches.LogitMse, matches.ProbabilityMse,
                       matches.JensenShannon, matches.Jeffreys)]  # fmt: skip


@pytest.mark.parametrize("match", EVERY, ids=lambda m: type(m).__name__)
@pytest.mark.parametrize("tau", [1.0, 4.0])
def test_a_student_that_equals_its_teacher_has_no_loss_and_no_gradient(match, tau):
    z = TEACHER.clone().requires_grad_(True)
    loss = match(z, TEACHER, LABEL, tau)
    assert loss.shape == (7,)
    assert loss.abs().max() < 1e-12
    assert torch.autograd.grad(loss.sum(), z)[0].abs().max() < 1e-7
    assert match(STUDENT, TEACHER, LABEL, tau).sum() > 1e-3


def test_kd_has_the_gradient_that_is_written_down():
    z, tau = STUDENT.clone().requires_grad_(True), 3.0
    slope = torch.autograd.grad(matches.Kd()(z, TEACHER, None, tau).sum(), z)[0]
    torch.testing.assert_close(slope, tau * ((STUDENT / tau).softmax(-1) - (TEACHER / tau).softmax(-1)))


def test_a_hot_kd_compares_centred_logits():
    centred = (STUDENT - STUDENT.mean(-1, keepdim=True)) - (TEACHER - TEACHER.mean(-1, keepdim=True))
    found = matches.Kd()(STUDENT, TEACHER, None, 1e4)
    torch.testing.assert_close(found, centred.square().sum(-1) / (2 * 5), rtol=1e-3, atol=0)


def test_a_temperature_a_row_equals_one_for_all_when_they_agree():
    torch.testing.assert_close(
        matches.Kd()(STUDENT, TEACHER, None, torch.full((7, 1), 3.0)), matches.Kd()(STUDENT, TEACHER, None, 3.0)
    )


def test_dkd_with_the_right_weights_is_kd():
    tau = 2.0
    target, rest = matches.decoupled(STUDENT, TEACHER, LABEL, tau)
    weight = 1 - (TEACHER / tau).softmax(-1).gather(1, LABEL[:, None])[:, 0]
    torch.testing.assert_close(tau**2 * (target + weight * rest), matches.Kd()(STUDENT, TEACHER, None, tau))


def test_dist_sees_no_positive_affine_map_of_a_row():
    q, p = STUDENT.softmax(-1), TEACHER.softmax(-1)
    torch.testing.assert_close(matches.pearson(3 * q + 1, p), matches.pearson(q, p))
    assert matches.pearson(torch.ones(2, 4), p[:2, :4].float()).abs().max() == 0


@pytest.mark.parametrize("tau", [torch.tensor(3.0), torch.full((7, 1), 3.0)])
def test_weights_and_squared_temperature_stand_where_the_formulas_have_them(tau):
    q, p = (STUDENT / 3).softmax(-1), (TEACHER / 3).softmax(-1)
    target, rest = matches.decoupled(STUDENT, TEACHER, LABEL, 3.0)
    torch.testing.assert_close(matches.Dkd(2.0, 5.0)(STUDENT, TEACHER, LABEL, tau), 9 * (2 * target + 5 * rest))
    inter = [1 - torch.corrcoef(torch.stack(pair))[0, 1] for pair in zip(q, p)]
    intra = [1 - torch.corrcoef(torch.stack(pair))[0, 1] for pair in zip(q.T, p.T)]
    slow = 9 * (2 * torch.stack(inter) + 5 * torch.stack(intra).mean())
    torch.testing.assert_close(matches.Dist(2.0, 5.0)(STUDENT, TEACHER, None, tau), slow)
    torch.testing.assert_close(matches.ProbabilityMse()(STUDENT, TEACHER, None, tau), ((q - p) ** 2).sum(-1) / 5)
    torch.testing.assert_close(matches.LogitMse()(STUDENT, TEACHER, None, tau), ((STUDENT - TEACHER) ** 2).sum(-1) / 5)


@pytest.mark.parametrize("rows", [2, 64, 50])
@pytest.mark.parametrize("classes", [10, 1000])
def test_a_student_that_tells_nothing_apart_is_not_pulled_by_dist(rows, classes):
    z, teacher = torch.zeros(rows, classes, requires_grad=True), 3 * logits(2, rows, classes).float()
    loss = matches.Dist()(z, teacher, None, 1.0)
    torch.testing.assert_close(loss, torch.full((rows,), 2.0))
    assert torch.autograd.grad(loss.mean(), z)[0].abs().max() == 0


def test_jensen_shannon_is_symmetric_and_bounded_and_near_a_quarter_of_jeffreys():
    js, jeffreys = matches.JensenShannon(), matches.Jeffreys()
    far = 50.0 * one_hot(LABEL, 5).double()
    torch.testing.assert_close(js(far, far.roll(1, 1), None, 1.0), torch.full((7,), math.log(2), dtype=torch.float64))
    torch.testing.assert_close(js(STUDENT, TEACHER, None, 1.0), js(TEACHER, STUDENT, None, 1.0))
    near = TEACHER + 1e-3 * STUDENT
    torch.testing.assert_close(js(near, TEACHER, None, 1.0), jeffreys(near, TEACHER, None, 1.0) / 4, rtol=1e-2, atol=0)


def test_the_other_gradients():
    z = STUDENT.clone().requires_grad_(True)
    soft, kd = matches.SoftCrossEntropy()(z, TEACHER, None, 1.0), matches.Kd()(z, TEACHER, None, 1.0)
    slopes = [torch.autograd.grad(loss.sum(), z)[0] for loss in (soft, kd)]
    torch.testing.assert_close(*slopes)
    hard = matches.TeacherLabel()(STUDENT, TEACHER, None, 1.0)
    torch.testing.assert_close(hard, cross_entropy(STUDENT, TEACHER.argmax(-1), reduction="none"))
