"""The card's exact properties of CTKD: who descends, who climbs, and within which bounds."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from redistill.core import Plan, Progress, UserError, describe, fit
from redistill.core.build import build
from redistill.core.followers import same_weights
from redistill.methods.supervised.ctkd import Ctkd
from redistill.methods.supervised.ps_kd import PsKd
from redistill.models.nets import mlp
from redistill.supervised.classifier import Distillation
from redistill.supervised.matches import Dkd, Kd, LogitMse
from redistill.supervised.targets import Fixed
from redistill.supervised.temperature import (
    Constant,
    GlobalCurriculum,
    InstanceCurriculum,
    Uniform,
    half_cosine,
    reverse_gradient,
    soften,
)

ROWS, CLASSES = 30, 4
GENERATOR = torch.Generator().manual_seed(0)
STUDENT, TEACHER = (3 * torch.randn(ROWS, CLASSES, generator=GENERATOR, dtype=torch.float64) for _ in range(2))
IMAGE, LABEL = torch.randn(ROWS, 6, generator=GENERATOR), torch.randint(CLASSES, (ROWS,), generator=GENERATOR)
LATE = Progress(epoch=20, epochs=30)


def nets():
    torch.manual_seed(1)
    return mlp(6, CLASSES, (8,)), mlp(6, CLASSES, (8,))


def fitted(method, **changes):
    plan = {"epochs": 3, "batch_size": 10, "lr": 0.1, "optimizer": "sgd", "device": "cpu"}
    return fit(method, {"image": IMAGE, "label": LABEL}, Plan(**{**plan, **changes})).method


def slope_of_theta(temperature, now=LATE):
    loss = Kd()(STUDENT, TEACHER, None, temperature(STUDENT, TEACHER, now)).mean()
    return torch.autograd.grad(loss, temperature.theta)[0].item()


def numeric_slope(temperature, h=1e-4):
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            temperature.theta += sign * h
            values.append(Kd()(STUDENT, TEACHER, None, temperature(STUDENT, TEACHER, LATE)).mean().item())
            temperature.theta -= sign * h
    return (values[0] - values[1]) / (2 * h)


@pytest.mark.parametrize("strength", [1.0, 0.3, 0.0, -1.0])
def test_theta_gets_minus_lambda_times_the_true_gradient(strength):
    temperature = GlobalCurriculum(least=strength, most=strength).double()
    true = numeric_slope(temperature)
    assert abs(true) > 1e-3
    assert slope_of_theta(temperature) == pytest.approx(-strength * true, rel=1e-5, abs=1e-12)


def test_the_student_gets_the_same_gradient_whatever_lambda_is():
    slopes = []
    for strength in (0.0, 1.0):
        z = STUDENT.clone().requires_grad_(True)
        tau = GlobalCurriculum(least=strength, most=strength).double()(z, TEACHER, LATE)
        slopes.append(torch.autograd.grad(Kd()(z, TEACHER, None, tau).mean(), z)[0])
    assert slopes[0].abs().max() > 1e-3
    torch.testing.assert_close(*slopes, rtol=0, atol=0)


def test_the_gradient_reaches_tau_through_the_teacher_and_the_square_too():
    tau = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    z = STUDENT.clone()
    assert torch.autograd.gradcheck(lambda t: Kd()(z, TEACHER, None, t).mean(), tau)
    cut = Kd()(z, (TEACHER / tau).detach() * tau, None, tau).mean()  # tau of the teacher's side held fixed
    assert abs(torch.autograd.grad(Kd()(z, TEACHER, None, tau).mean() - cut, tau)[0]) > 1e-3


def test_lambda_grows_along_half_a_cosine_and_stays():
    temperature = GlobalCurriculum(epochs=10)
    found = [temperature.strength(Progress(epoch=e, epochs=240)) for e in (0, 4, 9, 10, 239)]
    expected = [0.5 * (1 - math.cos(math.pi * e / 10)) for e in (1, 5, 10, 10, 10)]
    assert found == pytest.approx(expected) and found[0] == pytest.approx(0.0245, abs=1e-4) and found[-1] == 1.0
    assert half_cosine(3.0, 1.0, 7.0) == 1.0


@pytest.mark.parametrize("decay", [0.0, 0.01])
def test_without_reversal_theta_only_decays(decay):
    method = Ctkd(*nets(), temperature=GlobalCurriculum(least=0.0, most=0.0))
    theta = fitted(method, weight_decay=decay, momentum=0.0).temperature.theta.item()
    assert theta == pytest.approx((1 - 0.1 * decay) ** 9, rel=1e-6)


def test_tau_stays_within_its_bounds():
    temperature = GlobalCurriculum()
    assert temperature(STUDENT, TEACHER, LATE).item() == pytest.approx(1 + 20 / (1 + math.exp(-1)))
    with torch.no_grad():
        for theta in (-1e4, -5.0, 5.0, 1e4):
            temperature.theta.fill_(theta)  # float32 meets the bounds themselves only where sigmoid saturates
            assert 1 <= float(temperature(STUDENT, TEACHER, LATE)) <= 21


def test_the_adversary_cannot_make_the_loss_diverge():
    centred = (TEACHER - TEACHER.mean(1, keepdim=True)) - (STUDENT - STUDENT.mean(1, keepdim=True))
    limit = centred.square().sum(1) / (2 * CLASSES)
    torch.testing.assert_close(Kd()(STUDENT, TEACHER, None, 1e5), limit, rtol=1e-3, atol=0)


def test_reversal_is_descent_and_ascent_on_a_quadratic():
    x, theta = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (0.7, -0.4))
    by_hand, rate = [0.7, -0.4], 0.1
    optimizer = torch.optim.SGD([x, theta], lr=rate)
    for _ in range(20):  # f = x^2 / 2 + 2 x theta - theta^2
        t = reverse_gradient(theta, 1.0)
        optimizer.zero_grad()
        (0.5 * x**2 + 2 * x * t - t**2).backward()
        optimizer.step()
        a, b = by_hand
        by_hand = [a - rate * (a + 2 * b), b + rate * (2 * a - 2 * b)]
    assert [x.item(), theta.item()] == pytest.approx(by_hand, rel=1e-12)
    assert torch.equal(reverse_gradient(theta, 0.3), theta)


@pytest.mark.parametrize("match", [Kd(), Dkd(1.0, 2.0)], ids=["kd", "dkd"])
def test_equal_temperatures_of_all_rows_are_one_global_temperature(match):
    each, common = InstanceCurriculum(CLASSES).double(), GlobalCurriculum().double()
    taus = [t(STUDENT, TEACHER, LATE) for t in (each, common)]
    assert taus[0].shape == (ROWS, 1)
    torch.testing.assert_close(*[match(STUDENT, TEACHER, LABEL, tau) for tau in taus])


def test_temperatures_of_rows_differ_once_learned_and_pass_no_gradient_to_the_logits():
    each = InstanceCurriculum(CLASSES)
    student, _ = nets()
    method = fitted(Ctkd(student, nets()[1], temperature=each), lr=0.5)
    z = STUDENT.float().requires_grad_(True)
    tau = method.temperature(z, TEACHER.float(), LATE)
    assert tau.std() > 1e-4
    assert torch.autograd.grad(tau.sum(), z, allow_unused=True) == (None,)


@pytest.mark.parametrize(
    "method",
    [
        lambda t: Ctkd(*nets(), temperature=t),
        lambda t: Ctkd(*nets(), temperature=t, match=Dkd(1.0, 2.0), hard_weight=1.0, soft_weight=1.0),
        lambda t: Distillation(*nets(), temperature=t, rectifier=Fixed(0.5)),
        lambda t: PsKd(nets()[0], rows=ROWS, classes=CLASSES, temperature=t),
    ],
    ids=["ctkd", "ctkd with dkd", "distillation", "ps_kd"],
)
@pytest.mark.parametrize("temperature", [GlobalCurriculum, lambda: InstanceCurriculum(CLASSES)], ids=["global", "each"])
def test_any_method_trains_the_temperature_that_it_is_given(method, temperature):
    learned = temperature()
    before = [p.clone() for p in learned.parameters()]
    after = fitted(method(learned)).temperature.parameters()
    assert any(not torch.equal(a, b) for a, b in zip(before, after))
    assert all(p.requires_grad for p in learned.parameters())


def test_the_adversary_moves_against_the_loss_and_the_ally_with_it():
    moves = []
    for strength in (1.0, -1.0):
        temperature = GlobalCurriculum(low=0.1, span=0.2, least=strength, most=strength)
        method = fitted(Ctkd(*nets(), temperature=temperature), epochs=None, steps=1, lr=1.0)
        moves.append(method.temperature.theta.item() - 1)
    assert moves[0] == pytest.approx(-moves[1], rel=1e-2) and abs(moves[0]) > 1e-4


def test_a_constant_temperature_is_plain_distillation_to_the_bit():
    plain = fitted(Distillation(*nets(), temperature=Constant(3.0)))
    assert same_weights(fitted(Ctkd(*nets(), temperature=Constant(3.0))).student, plain.student)
    assert not same_weights(fitted(Ctkd(*nets())).student, plain.student)


def test_a_learned_temperature_in_ps_kd_softens_the_past_and_leaves_the_table_alone():
    probability = STUDENT.softmax(1)
    torch.testing.assert_close(soften(probability, 3.0), (STUDENT / 3.0).softmax(1))
    torch.testing.assert_close(soften(probability, 1.0), probability)
    first = fitted(PsKd(nets()[0], rows=ROWS, classes=CLASSES, temperature=GlobalCurriculum()), epochs=1)
    plain = fitted(PsKd(nets()[0], rows=ROWS, classes=CLASSES), epochs=1)
    assert same_weights(first.student, plain.student) and torch.equal(first.table, plain.table)
    hot = PsKd(nets()[0], rows=ROWS, classes=CLASSES, temperature=Constant(5.0), rectifier=Fixed(1.0))
    hot.table[:] = probability.float()
    hot.student, now = nn.Identity(), Progress()
    batch = {"image": STUDENT, "label": LABEL, "index": torch.arange(ROWS)}
    expected = -((STUDENT / 5.0).softmax(1) * STUDENT.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(hot.loss("student", batch, now).total, expected, rtol=1e-5, atol=0)


def test_a_loss_without_temperature_cannot_teach_one():
    with pytest.raises(UserError, match=r"options\.temperature: the loss does not depend on it"):
        fitted(Ctkd(*nets(), match=LogitMse()))


def test_a_random_temperature_changes_with_the_step_only():
    drawn = []
    for step in (0, 0, 1):
        now = Progress(step=step)
        now.reseed("loss")
        drawn.append(Uniform(2.0, 5.0)(STUDENT, TEACHER, now))
    assert drawn[0] == drawn[1] != drawn[2] and all(2 <= tau <= 5 for tau in drawn)


def test_recipe_and_constructor_are_one():
    numbers = {"low": 1.0, "span": 5.0, "epochs": 4, "least": 0.0, "most": 1.0}
    given = {"temperature": {"name": "global_curriculum", **numbers}}
    method = build(Ctkd, given, *nets())
    assert describe(method)["temperature"] == given["temperature"]
    with pytest.raises(UserError, match="set classes"):
        fitted(build(Ctkd, {"temperature": {"name": "instance_curriculum", "classes": 9}}, *nets()))
    with pytest.raises(UserError, match="span: give a number above 0, got 0"):
        build(Ctkd, {"temperature": {"name": "global_curriculum", "span": 0.0}}, *nets())
    with pytest.raises(UserError, match="hard_weight: give a number from 0 up"):
        build(Ctkd, {"hard_weight": -1.0}, *nets())
    with pytest.raises(UserError, match="did you mean 'global_curriculum'"):
        build(Ctkd, {"temperature": "global_curiculum"}, *nets())
