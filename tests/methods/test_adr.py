"""The card's exact properties of ADR: what the label becomes, what an attack may do, whose statistics stay."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from redistill.core import Loss, Method, Plan, Progress, UserError, fit
from redistill.core.build import build
from redistill.core.followers import same_weights
from redistill.core.method import bare_progress
from redistill.methods.supervised.adr import Adr
from redistill.methods.supervised.adr.attacks import Pgd, Trades, sharpened, square_search, survivors
from redistill.models.nets import mlp
from redistill.supervised.classifier import soft_cross_entropy
from redistill.supervised.targets import Annealed, OneHot, one_hot

GENERATOR = torch.Generator().manual_seed(0)
IMAGE, LABEL = torch.rand(24, 1, 4, 4, generator=GENERATOR), torch.arange(24) % 3
DATA = {"image": IMAGE, "label": LABEL}
Q = (3 * torch.randn(500, 6, generator=GENERATOR, dtype=torch.float64)).softmax(1)
Y = torch.randint(6, (500,), generator=GENERATOR)
PGD = Pgd(eps=0.1, step=0.03, steps=4)
ATTACKS = [PGD, Trades(eps=0.1, step=0.03, steps=4)]


def at(step, steps=100):
    return Progress(step=step, steps=steps)


def net(norm=False):
    torch.manual_seed(1)
    parts = [nn.Flatten(), nn.Linear(16, 12), *([nn.BatchNorm1d(12)] if norm else []), nn.ReLU(), nn.Linear(12, 3)]
    return nn.Sequential(*parts)


def fitted(method, **changes):
    plan = {"epochs": 3, "batch_size": 8, "lr": 0.1, "optimizer": "sgd", "device": "cpu", **changes}
    return fit(method, DATA, Plan(**plan)).method


def test_temperature_falls_and_trust_rises_from_end_to_end():
    rectifier, agreed = Annealed(2.5, 2.0, 0.7, 0.95), torch.eye(6, dtype=torch.float64)
    everyone = torch.arange(6)
    for step, trust, tau in ((0, 0.7, 2.5), (50, 0.825, 2.25), (100, 0.95, 2.0)):
        assert rectifier.trust(everyone, agreed, at(step)).flatten().tolist() == pytest.approx([trust] * 6)
        target = Annealed(2.5, 2.0, 1.0, 1.0)(Q.argmax(1), Q, at(step))
        torch.testing.assert_close(target, (Q.log() / tau).softmax(1))


def test_trust_is_cut_by_the_teachers_preference_for_another_class():
    rectifier, now = Annealed(1.0, 1.0, 0.4, 0.4), at(3)
    gap = Q.amax(1) - Q[torch.arange(500), Y]
    trust = rectifier.trust(Y, Q, now)[:, 0]
    torch.testing.assert_close(trust, (0.4 - gap).clamp(0, 1))
    agreed, opposed = gap == 0, gap > 0.4
    assert agreed.any() and opposed.any() and (trust[agreed] == 0.4).all()
    assert torch.equal(rectifier(Y, Q, now)[opposed], one_hot(Y, Q)[opposed])


@pytest.mark.parametrize("share", [0.2, 0.7, 1.0])
def test_the_label_stays_on_top_and_the_target_sums_to_one(share):
    rectifier = Annealed(1.0, 1.0, share, share)
    target = rectifier(Y, Q, at(10))
    torch.testing.assert_close(target.sum(1), torch.ones(500, dtype=torch.float64))
    lead = target[torch.arange(500), Y] - target.amax(1)
    assert lead.min() > -1e-12
    gap = Q.amax(1) - Q[torch.arange(500), Y]
    others = target.scatter(1, Y[:, None], -1.0).amax(1)
    if share == 1.0:  # the margin that the card gives: at least the square of the gap
        assert (target[torch.arange(500), Y] - others - gap**2 > -1e-12).all()
    assert not torch.allclose(target, one_hot(Y, Q))


class PlainTraining(Method):
    """Adversarial training with hard labels, written down once more."""

    def __init__(self, student):
        super().__init__()
        self.student = student

    def loss(self, turn, batch, now):
        image, onehot = batch["image"], nn.functional.one_hot(batch["label"], 3).float()
        x = image + 0.1 * (2 * now.rand(*image.shape) - 1)
        x = x.clamp((image - 0.1).clamp(0, 1), (image + 0.1).clamp(0, 1))
        for _ in range(4):
            x.requires_grad_(True)
            loss = nn.functional.cross_entropy(self.student(x), onehot, reduction="sum")
            slope = torch.autograd.grad(loss, x)[0]
            x = (x.detach() + 0.03 * slope.sign()).clamp((image - 0.1).clamp(0, 1), (image + 0.1).clamp(0, 1))
        return Loss({"ce": nn.functional.cross_entropy(self.student(x), batch["label"])})


@pytest.mark.parametrize("rectifier", [OneHot(), Annealed(2.0, 1.0, 0.0, 0.0)], ids=["one hot", "no trust"])
def test_without_trust_it_is_plain_adversarial_training(rectifier):
    ours, plain = fitted(Adr(net(), attack=PGD, rectifier=rectifier)).student, fitted(PlainTraining(net())).student
    for a, b in zip(ours.parameters(), plain.parameters()):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    other = fitted(Adr(net(), attack=PGD)).student
    assert not torch.allclose(other[1].weight, plain[1].weight, atol=1e-4)


@pytest.mark.parametrize("attack", ATTACKS, ids=["pgd", "trades"])
def test_attacked_pictures_stay_in_the_ball_and_in_the_unit_cube_and_are_worse(attack):
    student, now, target = net(), bare_progress(), nn.functional.one_hot(LABEL, 3).float()
    hard = attack(student, IMAGE, target, now)
    assert (hard - IMAGE).abs().max() <= 0.1 + 1e-6 and hard.min() >= 0 and hard.max() <= 1
    assert not hard.requires_grad and all(p.grad is None for p in student.parameters())
    if isinstance(attack, Pgd):
        before, after = (soft_cross_entropy(student(x), target).mean() for x in (IMAGE, hard))
    else:
        terms = [attack.terms(student, IMAGE, x, target)["robust"] for x in (IMAGE, hard)]
        before, after = terms
        assert before < 1e-6
    assert after > before + 0.01


@pytest.mark.parametrize("attack", [Pgd(0.3, 0.1, 4), Trades(0.3, 0.1, 4)], ids=["pgd", "trades"])
def test_the_loss_by_hand(attack):
    """The average sees the clean picture; the attack climbs, and the student descends, what the equations say."""
    method, other = Adr(net(norm=True).eval(), attack=attack), net(norm=True).eval()
    with torch.no_grad():  # both are sure, each of something else: soft labels and hard ones point elsewhere
        method.student[4].weight.mul_(12.0)
        other[4].weight.mul_(-12.0)
        method.teacher.net.load_state_dict(other.state_dict())
    image, f, now, dice = IMAGE, method.student, at(30), at(30)
    q = (other(image) / (2.0 + 0.25 * (1 + math.cos(0.3 * math.pi)))).softmax(1)
    trust = 0.95 - 0.125 * (1 + math.cos(0.3 * math.pi)) - (q.amax(1) - q[range(24), LABEL])
    trust = trust.clamp(0, 1)[:, None]
    P = (trust * q + (1 - trust) * torch.eye(3)[LABEL]).detach()

    def ce(x, target):
        return -(target * f(x).log_softmax(1)).sum(1)

    def contradiction(x):  # KL(f(x) || f(x')), the clean picture first
        return (f(image).softmax(1) * (f(image).log_softmax(1) - f(x).log_softmax(1))).sum(1)

    pgd = isinstance(attack, Pgd)
    x = image + 0.3 * (2 * dice.rand(*image.shape) - 1) if pgd else image + 1e-3 * dice.randn(*image.shape)
    low, high = (image - 0.3).clamp(0, 1), (image + 0.3).clamp(0, 1)
    x = x.clamp(low, high)
    for _ in range(4):
        x.requires_grad_(True)
        slope = torch.autograd.grad((ce(x, P) if pgd else contradiction(x)).sum(), x)[0]
        x = (x.detach() + 0.1 * slope.sign()).clamp(low, high)
    expected = {"adversarial": ce(x, P)} if pgd else {"clean": ce(image, P), "robust": 6 * contradiction(x)}
    found = method.loss("student", method.prepare({**DATA}, now), now).terms
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value.mean(), rtol=1e-4, atol=1e-5)


def test_the_label_plays_no_part_in_the_trades_attack():
    student, target = net(), nn.functional.one_hot(LABEL, 3).float()
    found = [ATTACKS[1](student, IMAGE, t, bare_progress()) for t in (target, target.roll(1, 1))]
    assert torch.equal(*found)
    found = [PGD(student, IMAGE, t, bare_progress()) for t in (target, target.roll(1, 1))]
    assert not torch.equal(*found)


@pytest.mark.parametrize("attack", ATTACKS, ids=["pgd", "trades"])
def test_attacks_touch_no_batch_statistics(attack):
    method = Adr(net(norm=True), attack=attack)
    before = copy.deepcopy(method.state_dict())
    method.train()
    target = nn.functional.one_hot(LABEL, 3).float()
    attack(method.student, IMAGE, target, bare_progress())
    assert all(torch.equal(a, before[k]) for k, a in method.state_dict().items()) and method.student.training
    method.loss("student", method.prepare({**DATA}, bare_progress()), bare_progress())
    now = method.state_dict()
    changed = {k for k in before if not torch.equal(now[k], before[k])}
    assert changed == {f"student.2.{k}" for k in ("running_mean", "running_var", "num_batches_tracked")}
    assert now["student.2.num_batches_tracked"] == 1  # one forward pass of the loss


def test_the_average_follows_weights_and_buffers():
    method = Adr(net(norm=True), attack=PGD, decay=0.9)
    expected = {k: v.clone() for k, v in method.student.state_dict().items() if v.is_floating_point()}

    def follow(now, row, method):
        for k, v in method.student.state_dict().items():
            if k in expected:
                expected[k] = 0.9 * expected[k] + 0.1 * v

    fit(method, DATA, Plan(steps=4, batch_size=8, device="cpu", log_every=1), observers=(follow,))
    for k, v in expected.items():
        torch.testing.assert_close(method.teacher.net.state_dict()[k], v, rtol=1e-4, atol=1e-6)
    assert method.export() is method.student and Adr(net(), averaged=True).export().training is False


def test_perturbed_weights_are_steeper_and_the_gradient_is_taken_there():
    student, rho = net().double(), 0.05
    image = IMAGE.double()

    def loss(network):
        return nn.functional.cross_entropy(network(image), LABEL)

    moved = sharpened(student, loss(student), rho)
    assert loss(moved) > loss(student) + 1e-3
    by_hand = copy.deepcopy(student)
    for p, slope in zip(by_hand.parameters(), torch.autograd.grad(loss(student), student.parameters())):
        p.data += rho * p.norm() / slope.norm() * slope
    expected = torch.autograd.grad(loss(by_hand), by_hand.parameters())
    torch.testing.assert_close(torch.autograd.grad(loss(moved), student.parameters()), expected)
    again = sharpened(student, loss(student), 0.0)
    torch.testing.assert_close(loss(again), loss(student), rtol=0, atol=0)


@pytest.mark.parametrize("attack", ATTACKS, ids=["pgd", "trades"])
def test_the_weight_perturbation_writes_batch_statistics_once(attack):
    flat, sharp = (fitted(Adr(net(norm=True), attack=attack, rho=r), epochs=None, steps=1) for r in (0.0, 0.05))
    for k, v in flat.student.state_dict().items():
        if "running" in k or "tracked" in k:
            torch.testing.assert_close(v, sharp.student.state_dict()[k], rtol=0, atol=0)
    assert not same_weights(flat.student, sharp.student)


def test_a_row_that_one_restart_breaks_stays_broken():
    student, calls = fitted(Adr(net(), attack=Pgd(0.0, 0.0, 0)), epochs=40).student, []
    right = student(IMAGE).argmax(1) == LABEL

    def breaks_only_the_first_time(network, image, target, now):
        calls.append(now.step)
        return 1 - image if len(calls) == 1 else image

    left = survivors(student, IMAGE, LABEL, breaks_only_the_first_time, restarts=3)
    assert calls == [0, 1, 2] and right.sum() > left.sum()
    assert torch.equal(left, right & (student(1 - IMAGE).argmax(1) == LABEL))


def test_defaults_are_the_papers():
    method = Adr(net())
    assert method.teacher.decay == 0.995
    for attack in (Pgd(), Trades()):
        assert (attack.eps, attack.step, attack.steps) == (8 / 255, 2 / 255, 10)
    assert (Trades().beta, Trades().noise) == (6.0, 1e-3)


def test_survivors_fall_with_the_attack_and_the_search_stays_in_the_ball():
    student = fitted(Adr(net(), attack=Pgd(0.0, 0.0, 0)), epochs=40).student
    shares = [float(survivors(student, IMAGE, LABEL, Pgd(e, e / 3, 8)).float().mean()) for e in (0.0, 0.1, 0.5)]
    assert shares[0] > shares[2] and shares[0] >= shares[1] >= shares[2]
    found = square_search(student, IMAGE, LABEL, 0.2, queries=30)
    assert (found - IMAGE).abs().max() <= 0.2 + 1e-6 and found.min() >= 0 and found.max() <= 1
    assert (student(found).argmax(1) == LABEL).sum() <= (student(IMAGE).argmax(1) == LABEL).sum()


@pytest.mark.parametrize(
    ("options", "data", "part"),
    [
        ({}, {**DATA, "image": IMAGE * 2 - 1}, "normalise in the network"),
        ({}, {"image": IMAGE}, "'label'"),
        ({"rho": -1.0}, DATA, "rho: give a number from 0 up, got -1.0"),
        ({"decay": 1.5}, DATA, "decay: give a number from 0 to 1, got 1.5"),
        ({"attack": {"name": "pgd", "eps": -0.1}}, DATA, "eps: give a number from 0 up, got -0.1"),
        ({"attack": "pgt"}, DATA, "did you mean 'pgd'"),
        ({"rectifier": {"name": "annealed", "high": 1.2}}, DATA, "high: give a number from 0 to 1, got 1.2"),
        ({"rectifier": {"name": "annealed", "cool": 0.0}}, DATA, "above 0"),
    ],
)
def test_wrong_input_is_refused(options, data, part):
    with pytest.raises(UserError, match=part):
        fit(build(Adr, options, mlp(16, 3, [4])), data, Plan(steps=1, device="cpu", batch_size=24))
