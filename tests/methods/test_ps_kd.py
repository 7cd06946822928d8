"""The card's exact properties of PS-KD, in the engine."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from redistill.core import Loss, Method, Plan, Progress, UserError, describe, fit
from redistill.core.build import build
from redistill.core.followers import same_weights
from redistill.methods.supervised.ps_kd import PreviousNetwork, PsKd
from redistill.models.nets import mlp
from redistill.supervised.targets import Fixed, OneHot, Progressive

ROWS, CLASSES = 30, 4
GENERATOR = torch.Generator().manual_seed(0)
DATA = {
    "image": torch.randn(ROWS, 6, generator=GENERATOR),
    "label": torch.randint(CLASSES, (ROWS,), generator=GENERATOR),
}


def net():
    torch.manual_seed(1)
    return mlp(6, CLASSES, (8,))


def ps_kd(rectifier=None):
    return PsKd(net(), rows=ROWS, classes=CLASSES, rectifier=rectifier)


def plan(epochs=3, **changes):
    return Plan(**{"epochs": epochs, "batch_size": 8, "lr": 0.1, "optimizer": "sgd", "device": "cpu", **changes})


class Plain(Method):
    """Cross-entropy with hard labels, straight from torch."""

    def __init__(self, student):
        super().__init__()
        self.student = student

    def loss(self, turn, batch, now):
        return Loss({"ce": cross_entropy(self.student(batch["image"]), batch["label"])})


@pytest.mark.parametrize(
    "method", [lambda: ps_kd(Progressive(0.0)), lambda: PreviousNetwork(net(), rectifier=OneHot())]
)
def test_without_alpha_it_is_cross_entropy_to_the_bit(method):
    plain = fit(Plain(net()), DATA, plan()).student
    assert same_weights(fit(method(), DATA, plan()).student, plain)
    assert not same_weights(fit(ps_kd(Progressive(0.8)), DATA, plan()).student, plain)


@pytest.mark.parametrize("method", [ps_kd, lambda r: PreviousNetwork(net(), rectifier=r)])
def test_first_epoch_is_cross_entropy_for_any_alpha(method):
    plain = fit(Plain(net()), DATA, plan(epochs=1)).student
    assert same_weights(fit(method(Fixed(0.9)), DATA, plan(epochs=1)).student, plain)


def test_table_row_is_what_the_student_said_of_that_row_in_this_epoch():
    said = {}

    class Spy(PsKd):
        def loss(self, turn, batch, now):
            z = self.student(batch["image"]).detach().softmax(1)
            said.update({int(i): row for i, row in zip(batch["index"], z)})
            return super().loss(turn, batch, now)

    method = Spy(net(), rows=ROWS, classes=CLASSES)
    fit(method, DATA, plan(epochs=2))
    torch.testing.assert_close(method.table, torch.stack([said[i] for i in range(ROWS)]), rtol=0, atol=0)


def test_unseen_rows_stay_empty():
    method = ps_kd()
    fit(method, DATA, plan(epochs=None, steps=2))
    seen = method.table.any(1)
    assert seen.sum() == 16
    torch.testing.assert_close(method.table.sum(1), seen.float())


def test_the_defaults_are_the_papers():
    for method in (ps_kd(), PreviousNetwork(net())):
        assert isinstance(method.rectifier, Progressive) and method.rectifier.alpha == 0.8


def test_gradient_is_softmax_minus_target():
    method, index = ps_kd(Fixed(0.6)), torch.arange(5)
    method.table[:] = torch.rand(ROWS, CLASSES, generator=GENERATOR).softmax(1)
    logits = torch.randn(5, CLASSES, requires_grad=True, generator=GENERATOR)
    method.student = torch.nn.Identity()
    label = DATA["label"][:5]
    method.loss("student", {"image": logits, "label": label, "index": index}, Progress()).total.backward()
    target = 0.4 * torch.eye(CLASSES)[label] + 0.6 * method.table[:5]
    torch.testing.assert_close(logits.grad, (logits.softmax(1) - target).detach() / 5)


@pytest.mark.parametrize("method", [ps_kd, lambda: PreviousNetwork(net())])
def test_resumed_run_equals_the_uninterrupted_one(method, tmp_path):
    whole = method()
    fit(whole, DATA, plan())
    fit(method(), DATA, plan(), folder=tmp_path, until=5)
    resumed = method()
    fit(resumed, DATA, plan(), folder=tmp_path, resume=True)
    assert same_weights(whole, resumed)


@pytest.mark.parametrize("method", [ps_kd, lambda: PreviousNetwork(net())])
def test_micro_batches_equal_one_batch(method):
    whole, cut = method().double(), method().double()
    data = {**DATA, "image": DATA["image"].double()}
    fit(whole, data, plan())
    fit(cut, data, plan(accumulate=3))
    for a, b in zip(whole.state_dict().values(), cut.state_dict().values()):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_previous_network_teaches_with_the_weights_of_the_last_epoch():
    method = PreviousNetwork(net())
    ends = {}

    def watch(now, row, method):
        ends[now.epoch] = {k: v.clone() for k, v in method.student.state_dict().items()}

    fit(method, DATA, plan(log_every=1), observers=(watch,))
    assert torch.equal(method.teacher.net.state_dict()["1.weight"], ends[1]["1.weight"])
    assert not torch.equal(ends[1]["1.weight"], ends[2]["1.weight"])


@pytest.mark.parametrize(
    ("options", "data", "part"),
    [
        ({"rows": 20}, DATA, "set rows"),
        ({"classes": 3}, DATA, "set classes"),
        ({"classes": 5}, DATA, "not 5 logits"),
        ({}, {"image": DATA["image"]}, "'label'"),
    ],
)
def test_wrong_input_is_refused(options, data, part):
    method = PsKd(net(), **{"rows": ROWS, "classes": CLASSES, **options})
    with pytest.raises(UserError, match=part):
        fit(method, data, plan(batch_size=ROWS))


@pytest.mark.parametrize("classes", [-1, 1])
def test_a_table_without_classes_is_refused(classes):
    with pytest.raises(UserError, match="a whole number from 2"):
        PsKd(net(), rows=ROWS, classes=classes)


def test_recipe_and_constructor_are_one():
    given = {"rows": ROWS, "classes": CLASSES, "rectifier": {"name": "label_smoothing", "smoothing": 0.2}}
    method = build(PsKd, given, net())
    assert describe(method) == {**given, "temperature": None} and method.rectifier.smoothing == 0.2
    with pytest.raises(UserError, match="did you mean 'progressive'"):
        build(PsKd, {**given, "rectifier": "progresive"}, net())
    with pytest.raises(UserError, match="'rows'"):
        build(PsKd, {"classes": CLASSES}, net())


def test_a_table_that_no_memory_holds_is_one_line():
    with pytest.raises(UserError, match=f"ps_kd: no room for a table of {ROWS} rows x {10**15} classes"):
        PsKd(net(), rows=ROWS, classes=10**15)
