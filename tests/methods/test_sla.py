"""The card's exact properties of SLA: joint rows and labels, a teacher without gradient, what M = 1 and equal copies
give."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import cross_entropy

from redistill.core import Plan, Progress, UserError, describe, fit
from redistill.core.build import build
from redistill.losses.divergences import forward_kl
from redistill.methods.supervised.sla import Invariant, Sla, TwoTasks
from redistill.models.nets import convnet, mlp
from redistill.vision.transformations import Product, Rotations, Same, Transformations, class_log_probabilities

GENERATOR = torch.Generator().manual_seed(0)
IMAGE = torch.randn(12, 2, 6, 6, generator=GENERATOR, dtype=torch.float64)
LABEL = torch.arange(12) % 3
BATCH = {"image": IMAGE, "label": LABEL}


def net(classes=3):
    torch.manual_seed(1)
    return convnet(2, classes, (4, 6)).double()


def sla(**options):
    return Sla(net(), **options).double()


def terms(method):
    return method.loss("student", BATCH, Progress()).terms


class Permuted(Transformations):
    """Rotations in another order, the identity still first: rows and labels change together."""

    def __init__(self, order=(0, 3, 1, 2)):
        self.order, self.count = order, 4

    def views(self, image):
        views = Rotations().views(image)
        return [views[m] for m in self.order]


def test_the_terms_follow_from_single_images():
    """Every row by itself: rotate, read both heads, and add up by hand."""
    method = sla(temperature=2.0)
    student, joint = method.student, method.joint
    joint_ce, single, distill = [], [], []
    for x, y in zip(IMAGE, LABEL):
        copies = [torch.rot90(x, m, (1, 2))[None] for m in range(4)]
        scores = [joint(student[:-1](copy))[0] for copy in copies]
        joint_ce += [-scores[m].log_softmax(0)[y * 4 + m] for m in range(4)]
        s = torch.stack([torch.stack([scores[m][i * 4 + m] for m in range(4)]).mean() for i in range(3)])
        u = student(copies[0])[0]
        single.append(-u.log_softmax(0)[y])
        distill.append(4.0 * forward_kl((u / 2).log_softmax(0), (s / 2).log_softmax(0)).sum())
    expected = {"joint": joint_ce, "single": single, "distill": distill}
    for name, value in terms(method).items():
        torch.testing.assert_close(value, torch.stack(expected[name]).mean(), rtol=1e-10, atol=0)


def test_with_one_copy_it_is_cross_entropy_of_two_heads_and_distillation_between_them():
    method = sla(transformations=Same(1))
    found, u = terms(method), method.student(IMAGE)
    w = method.joint(method.student[:-1](IMAGE))
    torch.testing.assert_close(found["joint"], cross_entropy(w, LABEL))
    torch.testing.assert_close(found["single"], cross_entropy(u, LABEL))
    torch.testing.assert_close(found["distill"], forward_kl(u.log_softmax(1), w.log_softmax(1)).sum(1).mean())
    torch.testing.assert_close(method.aggregate(IMAGE), method.single(IMAGE))


def test_self_distillation_leaves_no_gradient_in_the_joint_head():
    method = sla()
    terms(method)["distill"].backward()
    assert method.joint.weight.grad is None and method.joint.bias.grad is None
    assert all(p.grad is not None for p in method.student.parameters())


def test_the_order_of_transformations_does_not_matter():
    plain, other = sla(), sla(transformations=Permuted())
    with torch.no_grad():  # the same head, its rows renamed as the labels are
        for mine, theirs in ((other.joint.weight, plain.joint.weight), (other.joint.bias, plain.joint.bias)):
            mine.copy_(theirs.unflatten(0, (3, 4))[:, list(other.transformations.order)].flatten(0, 1))
    torch.testing.assert_close(other.aggregate(IMAGE), plain.aggregate(IMAGE))
    for name, value in terms(plain).items():
        torch.testing.assert_close(terms(other)[name], value)


def test_equal_copies_cannot_beat_the_class_loss_plus_log_m():
    method = sla(transformations=Same(4))
    joint = method.joint(method.student[:-1](IMAGE))
    floor = cross_entropy(class_log_probabilities(joint, 4), LABEL) + math.log(4)
    assert terms(method)["joint"] > floor
    torch.testing.assert_close(method.aggregate(IMAGE), joint.unflatten(1, (3, 4)).mean(2))
    with torch.no_grad():  # one score for all transformations of a class is the best there is
        method.joint.weight.copy_(method.joint.weight[::4].repeat_interleave(4, 0))
        method.joint.bias.copy_(method.joint.bias[::4].repeat_interleave(4, 0))
    best = cross_entropy(method.aggregate(IMAGE), LABEL) + math.log(4)
    torch.testing.assert_close(terms(method)["joint"], best)


def test_large_loss_sums_over_the_transformations():
    torch.testing.assert_close(terms(sla(joint_weight=4.0))["joint"], 4 * terms(sla())["joint"])


def test_without_its_weights_the_own_classifier_becomes_the_joint_head_read_once():
    method = sla(single_weight=0.0, distill_weight=0.0)
    student = fit(method, BATCH, Plan(steps=2, batch_size=6, lr=0.1, optimizer="sgd", device="cpu")).student
    assert set(terms(method)) == {"joint"} and student is method.student
    torch.testing.assert_close(student(IMAGE), method.single(IMAGE), rtol=0, atol=1e-12)
    kept = sla().export()
    assert torch.equal(kept[-1].weight, net()[-1].weight)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("method", [Sla, TwoTasks, lambda n: Sla(n, single_weight=0.0, distill_weight=0.0)])
def test_heads_have_the_type_of_the_student(method, dtype):
    rows = {"image": IMAGE.to(dtype), "label": LABEL}
    student = fit(method(net().to(dtype)), rows, Plan(steps=1, batch_size=12, device="cpu")).student
    assert {p.dtype for p in student.parameters()} == {dtype}


def test_the_student_leaves_as_it_came():
    method = sla()
    names = set(method.student.state_dict())
    student = fit(method, BATCH, Plan(steps=2, batch_size=6, device="cpu")).student
    assert student is method.student and set(student.state_dict()) == names
    assert not any(m._forward_pre_hooks for m in student.modules())


def test_rivals_by_hand():
    copies = Rotations()(IMAGE)
    label = torch.tensor([int(y) for y in LABEL for _ in range(4)])
    da, mt = Invariant(net()), TwoTasks(net()).double()
    torch.testing.assert_close(terms(da)["ce"], cross_entropy(net()(copies), label))
    torch.testing.assert_close(terms(mt)["ce"], cross_entropy(net()(copies), label))
    which = torch.tensor([0, 1, 2, 3] * 12)
    torch.testing.assert_close(terms(mt)["task"], cross_entropy(mt.task(net()[:-1](copies)), which))
    torch.testing.assert_close(da.aggregate(IMAGE)[5], net()(copies[20:24]).mean(0))


@pytest.mark.parametrize(
    ("make", "part"),
    [
        (lambda: sla(head="0"), "no linear layer"),
        (lambda: sla(head="fc"), "no linear layer"),
        (lambda: sla(temperature=0.0), "above 0"),
        (lambda: fit(Sla(net(2)).double(), BATCH, Plan(steps=1, device="cpu")), "the network has 2 classes"),
        (lambda: terms(Sla(mlp(72, 3, (4,)), head="1").double()), "'1' gives 4 of 3 scores"),
    ],
)
def test_wrong_input_is_refused(make, part):
    with pytest.raises(UserError, match=part):
        make()


def test_recipe_and_constructor_are_one():
    given = {"transformations": {"name": "product", "first": "rotations", "second": {"name": "colour_orders"}}}
    method = build(Sla, given, net())
    assert isinstance(method.transformations, Product) and method.joint.out_features == 3 * 24
    assert describe(method)["transformations"]["first"] == {"name": "rotations", "count": 4}
    with pytest.raises(UserError, match="did you mean 'rotations'"):
        build(Sla, {"transformations": "rotation"}, net())
