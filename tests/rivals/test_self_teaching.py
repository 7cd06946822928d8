"""Baselines that need no stronger teacher: closed forms, who learns from whom, and their limits."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch.nn.functional import cross_entropy, kl_div

from redistill.core import Plan, UserError, fit
from redistill.core.followers import same_weights
from redistill.core.method import bare_progress
from redistill.models.nets import mlp, staged_convnet
from redistill.rivals.born_again import Ensemble, born_again
from redistill.rivals.byot import BeYourOwnTeacher
from redistill.rivals.cs_kd import ClassWise, partners
from redistill.rivals.mutual import MutualLearning
from redistill.rivals.tf_kd import VirtualTeacher
from redistill.supervised.classifier import Classification

GENERATOR = torch.Generator().manual_seed(0)
IMAGE, LABEL = torch.randn(24, 6, generator=GENERATOR), torch.arange(24) % 3
DATA = {"image": IMAGE, "label": LABEL}
LAYERS = {"layers": ["1", "3"], "input_shape": [6], "classes": 3}


def net(seed=0):
    torch.manual_seed(seed)
    return mlp(6, 3, (8, 5))


def plan(**changes):
    return Plan(**{"steps": 4, "batch_size": 8, "lr": 0.05, "optimizer": "sgd", "device": "cpu", **changes})


def terms(method, turn="student"):
    now = bare_progress()
    return method.loss(turn, method.prepare(dict(DATA), now), now).terms


def kl(p, q):
    """Mean over rows of KL(softmax p || softmax q), by torch's own function."""
    return kl_div(q.log_softmax(1), p.log_softmax(1), log_target=True, reduction="batchmean")


@pytest.mark.parametrize(
    "make",
    [lambda: MutualLearning(net(), net(1)), lambda: MutualLearning(net(), net(1), net(2)),
     lambda: BeYourOwnTeacher(net(), **LAYERS), lambda: VirtualTeacher(net(), classes=3)],
    ids=["two peers", "three peers", "byot", "virtual"],
)  # fmt: skip
def test_cut_batches_and_resumed_runs_are_exact(make, tmp_path):
    def trained(**changes):
        return fit(make().double(), {**DATA, "image": IMAGE.double()}, plan(**changes)).method

    whole = trained()
    for a, b in zip(whole.state_dict().values(), trained(accumulate=3).state_dict().values()):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
    data = {**DATA, "image": IMAGE.double()}
    fit(make().double(), data, plan(), folder=tmp_path, until=2)
    assert same_weights(whole, fit(make().double(), data, plan(), folder=tmp_path, resume=True).method)


# ---- mutual learning ----


def test_peers_learn_the_mean_of_the_others_without_passing_gradient():
    peers = [net(k) for k in range(3)]
    method = MutualLearning(*peers)
    z = [peer(IMAGE) for peer in peers]
    found = terms(method, "peer1")
    torch.testing.assert_close(found["peers"], (kl(z[0], z[1]) + kl(z[2], z[1])) / 2)
    found["peers"].backward()
    assert all(p.grad is None for k in (0, 2) for p in peers[k].parameters())
    assert any(p.grad.abs().sum() > 0 for p in peers[1].parameters())


def test_equal_peers_have_nothing_to_teach():
    method = MutualLearning(net(), net())
    slopes = torch.autograd.grad(terms(method)["peers"], list(method.student.parameters()))
    assert max(float(s.abs().max()) for s in slopes) < 1e-7


def test_a_later_peer_sees_the_peer_before_it_already_updated():
    method = MutualLearning(net(), net(1))
    fit(method, DATA, plan(steps=1, batch_size=24))
    first, second = net(), net(1)
    for learner, other in ((first, second), (second, first)):
        optimizer = torch.optim.SGD(learner.parameters(), lr=0.05)
        (cross_entropy(learner(IMAGE), LABEL) + kl(other(IMAGE).detach(), learner(IMAGE))).backward()
        optimizer.step()
    for mine, theirs in ((method.student, first), (method.peer1, second)):
        for a, b in zip(mine.parameters(), theirs.parameters()):
            torch.testing.assert_close(a, b)


# ---- born again ----


def test_a_generation_learns_labels_and_the_generation_before():
    networks = born_again(net, DATA, plan(), 2)
    assert len(networks) == 3 and same_weights(networks[0], fit(Classification(net(0)), DATA, plan()).student)
    slow = net(1)
    optimizer = torch.optim.SGD(slow.parameters(), lr=0.05)
    single = born_again(net, DATA, plan(steps=1, batch_size=24), 1)
    (cross_entropy(slow(IMAGE), LABEL) + kl(single[0](IMAGE).detach(), slow(IMAGE))).backward()
    optimizer.step()
    for a, b in zip(single[1].parameters(), slow.parameters()):
        torch.testing.assert_close(a, b)


def test_an_ensemble_says_the_mean_probability():
    members = [net(0), net(1)]
    mean = (members[0](IMAGE).softmax(1) + members[1](IMAGE).softmax(1)) / 2
    torch.testing.assert_close(Ensemble(members)(IMAGE).softmax(1), mean)


# ---- be your own teacher ----


def test_byot_is_the_formula_at_every_head():
    method = BeYourOwnTeacher(net(), **LAYERS, a=0.3, tau=2.0, beta=0.7)
    low = method.student[:2](IMAGE)
    high = method.student[:4](IMAGE)
    (score,), (phi,) = method.branches([low])
    z, found = method.student(IMAGE), terms(method)
    torch.testing.assert_close(found["ce"], 0.7 * (cross_entropy(z, LABEL) + cross_entropy(score, LABEL)))
    torch.testing.assert_close(found["depth"], 0.3 * 4 * kl(z / 2, score / 2))
    torch.testing.assert_close(found["features"], 0.7 * ((phi - high) ** 2).sum() / 24)


def test_the_end_of_the_network_teaches_without_learning_from_it():
    method = BeYourOwnTeacher(net(), **LAYERS, beta=1.0)
    found = terms(method)
    (found["depth"] + found["features"]).backward()
    assert method.student[5].weight.grad is None and method.student[3].weight.grad is None
    assert method.student[1].weight.grad.abs().sum() > 0


def test_branches_stay_behind_and_without_a_weight_the_rest_is_deep_supervision():
    method = BeYourOwnTeacher(
        staged_convnet(1, 3, (2, 4)), layers=["stage1", "stage2"], input_shape=[1, 8, 8], classes=3
    )
    student = fit(method, {"image": torch.randn(24, 1, 8, 8), "label": LABEL}, plan()).student
    assert student.state_dict().keys() == staged_convnet(1, 3, (2, 4)).state_dict().keys()
    plain = terms(BeYourOwnTeacher(net(), **LAYERS, a=0.0, beta=0.0))
    assert plain["depth"] == 0 and plain["features"] == 0


# ---- class-wise, virtual teacher ----


def test_partners_are_the_next_of_the_class():
    label = torch.tensor([2, 0, 2, 1, 2, 0])
    assert partners(label).tolist() == [2, 5, 4, 3, 0, 1]


def test_class_wise_is_the_formula_and_nothing_for_equal_rows():
    method = ClassWise(net(), tau=3.0, weight=0.5)
    z = method.student(IMAGE)
    found = terms(method)["class"]
    torch.testing.assert_close(found, 0.5 * 9 * kl(z.roll(-3, 0) / 3, z / 3))
    same = copy.deepcopy(DATA)
    same["image"] = IMAGE[:3].repeat(8, 1)
    value = method.loss("student", same, bare_progress()).terms["class"]
    slopes = torch.autograd.grad(value, list(method.student.parameters()))
    assert max(float(s.abs().max()) for s in slopes) < 1e-7


def test_the_partner_of_a_row_learns_nothing_from_it():
    method = ClassWise(net(), tau=3.0)
    found = terms(method)["class"]
    z = method.student(IMAGE)
    expected = 9 * kl(z.detach().roll(-3, 0) / 3, z / 3)
    for a, b in zip(*(torch.autograd.grad(loss, list(method.student.parameters())) for loss in (found, expected))):
        torch.testing.assert_close(a, b)


def test_a_virtual_teacher_softens_the_probabilities_of_its_rule():
    method = VirtualTeacher(net(), classes=3, correct=0.9, tau=5.0, share=0.3)
    p = torch.where(torch.nn.functional.one_hot(LABEL, 3) == 1, 0.9, 0.05)
    z, found = method.student(IMAGE), terms(method)
    torch.testing.assert_close(found["soft"], 0.3 * kl(p / 5, z))
    torch.testing.assert_close(found["hard"], 0.7 * cross_entropy(z, LABEL))


def test_a_very_soft_virtual_teacher_is_label_smoothing_but_for_a_constant():
    method = VirtualTeacher(net(), classes=3, tau=1e6, share=0.1)
    smooth = torch.nn.functional.cross_entropy(method.student(IMAGE), LABEL, label_smoothing=0.1)
    torch.testing.assert_close(sum(terms(method).values()), smooth - 0.1 * math.log(3))


@pytest.mark.parametrize(
    ("make", "part"),
    [(lambda: MutualLearning(net()), "two peers"),
     (lambda: BeYourOwnTeacher(net(), **{**LAYERS, "layers": ["1"]}), "two or more"),
     (lambda: BeYourOwnTeacher(net(), **{**LAYERS, "layers": LAYERS["layers"][::-1]}), "from shallow to deep"),
     (lambda: VirtualTeacher(net(), classes=3, correct=0.2), "above 1/3")],
)  # fmt: skip
def test_what_cannot_work_is_refused(make, part):
    with pytest.raises(UserError, match=part):
        make()
