"""The card's exact properties of DCS, in the engine."""

from __future__ import annotations

import pytest
import torch

from redistill.core import Plan, Progress, UserError, describe, fit
from redistill.core.build import build
from redistill.core.followers import same_weights
from redistill.methods.supervised.dcs import Dcs
from redistill.models.nets import mlp
from redistill.supervised.classifier import Classification, Distillation
from redistill.supervised.temperature import Constant
from redistill.supervised.weights import Boosting, Equal

ROWS, CLASSES = 30, 4
GENERATOR = torch.Generator().manual_seed(0)
IMAGE = torch.randn(ROWS, 6, generator=GENERATOR, dtype=torch.float64)
LABEL = torch.randint(CLASSES, (ROWS,), generator=GENERATOR)
DATA = {"image": IMAGE, "label": LABEL}


def net(seed=1, dropout=0.0):
    torch.manual_seed(seed)
    return torch.nn.Sequential(mlp(6, 8, (8,)), torch.nn.Dropout(dropout), torch.nn.Linear(8, CLASSES)).double()


def dcs(weight=None, student=None, teacher=None, **options):
    return Dcs(student or net(), teacher or net(5), rows=ROWS, weight=weight, **options).double()


def fitted(method, data=DATA, **changes):
    plan = {"epochs": 4, "batch_size": 8, "lr": 0.05, "optimizer": "sgd", "device": "cpu", "log_every": 4}
    return fit(method, data, Plan(**{**plan, **changes}))


def test_it_is_distillation_at_temperature_two_with_half_of_each_term():
    plain = Distillation(net(), net(5), temperature=Constant(2.0), hard_weight=0.5, soft_weight=0.5)
    index = torch.arange(ROWS)
    ours, theirs = dcs(), plain.double()
    batch = theirs.prepare({**DATA, "index": index}, Progress())
    torch.testing.assert_close(
        ours.loss("student", batch, Progress()).total, theirs.loss("student", batch, Progress()).total
    )
    z, t = ours.student(IMAGE), batch["teacher_logits"]
    kl = torch.nn.functional.kl_div((z / 2).log_softmax(1), (t / 2).log_softmax(1), log_target=True, reduction="none")
    ce = torch.nn.functional.cross_entropy(z, LABEL, reduction="none")
    w = torch.rand(ROWS, generator=GENERATOR)
    ours.table[:, 0] = w
    expected = (w / w.mean() * (0.5 * ce + 0.5 * 4 * kl.sum(1))).mean()
    torch.testing.assert_close(ours.loss("student", batch, Progress()).total, expected)


def test_without_contradiction_it_is_uniform_self_distillation_to_the_bit():
    twin = net()  # starts as its own teacher and, at this rate, never names another class
    uniform = fitted(dcs(Equal(), teacher=twin), lr=1e-4)
    corrected = fitted(dcs(teacher=twin), lr=1e-4)
    assert all(row["contradicts"] == 0 for row in corrected.history if "contradicts" in row)
    assert torch.equal(corrected.method.table[:, 0], torch.ones(ROWS).double())
    assert same_weights(uniform.student, corrected.student)
    assert not same_weights(fitted(dcs(Equal())).student, fitted(dcs()).student)


def test_steps_of_size_zero_are_equal_weights_to_the_bit():
    counted = fitted(dcs(Boosting(eta=0.0), student=net(dropout=0.3)))
    assert same_weights(counted.student, fitted(dcs(Equal(), student=net(dropout=0.3))).student)
    assert counted.history[-1]["contradicts"] > 0 and "contradicts" not in counted.history[0]  # the warm-up


@pytest.mark.parametrize("weight", [None, Boosting("either", soft=True), Boosting("label", every="step", warmup=0)])
def test_weights_are_positive_with_mean_one_after_every_step(weight):
    class Spy(Dcs):
        def after(self, turn, stats, now):
            super().after(turn, stats, now)
            assert self.table[:, 0].min() > 0
            torch.testing.assert_close(self.table[:, 0].mean(), torch.tensor(1.0).double())

    method = fitted(Spy(net(), net(5), rows=ROWS, weight=weight).double()).method
    assert method.table[:, 0].std() > 0.01


def test_after_a_full_step_the_student_is_as_wrong_as_chance_under_the_new_weights():
    said = {}

    class Spy(Dcs):
        def after(self, turn, stats, now):
            if stats:
                differs = stats["student"].argmax(1) != stats["teacher"].argmax(1)
                said.update(dict(zip(stats["index"].tolist(), differs.tolist())))
            super().after(turn, stats, now)

    free = Boosting(most=None, cap=None, warmup=5)
    method = fitted(Spy(net(), net(5), rows=ROWS, weight=free).double(), epochs=6).method
    differs = torch.tensor([said[i] for i in range(ROWS)])
    assert 0 < differs.double().mean() < 1 - 1 / CLASSES
    error = method.table[differs, 0].sum() / ROWS
    torch.testing.assert_close(error, torch.tensor(1 - 1 / CLASSES).double())


def test_the_first_epoch_and_fine_tuning_know_no_weights():
    plain = fitted(Classification(net())).student
    alone = Dcs(net(), rows=ROWS, weight=Equal(), hard_weight=1.0, soft_weight=0.0).double()
    assert same_weights(fitted(alone).student, plain)
    assert same_weights(fitted(dcs(), epochs=1).student, fitted(dcs(Equal()), epochs=1).student)


def test_the_teacher_is_frozen_and_its_stored_answers_stand_for_it():
    teacher = net(5, dropout=0.5)
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    asked = []

    class Spy(Dcs):
        def prepare(self, batch, now):
            prepared = super().prepare(batch, now)
            asked.append((batch["index"], prepared["teacher_logits"]))
            return prepared

    live = fitted(Spy(net(), teacher, rows=ROWS).double()).student
    answers = teacher.eval()(IMAGE).detach()
    assert len(asked) == 16  # four epochs of four batches, all with the same answers
    for index, told in asked:
        torch.testing.assert_close(told, answers[index])
    assert all(torch.equal(before[name], tensor) for name, tensor in teacher.state_dict().items())
    stored = Dcs(net(), rows=ROWS).double()
    fitted(stored, {**DATA, "teacher_logits": answers})
    for one, other in zip(live.parameters(), stored.student.parameters()):
        torch.testing.assert_close(one, other)


def test_a_constant_factor_on_all_weights_changes_nothing():
    method = fitted(dcs()).method
    batch = method.prepare({**DATA, "index": torch.arange(ROWS)}, Progress(epoch=3, epochs=4))
    gradients = []
    for factor in (1.0, 7.5):
        method.table[:, 0] *= factor
        total = method.loss("student", batch, Progress(epoch=3, epochs=4)).total
        gradients.append(torch.autograd.grad(total, list(method.student.parameters())))
    for one, other in zip(*gradients):
        torch.testing.assert_close(one, other)


def test_the_log_shows_the_contradictions_and_the_heaviest_row():
    result = fitted(dcs(Boosting(eta=1.0)))
    shown = [row for row in result.history if "contradicts" in row]
    assert [row["epoch"] for row in shown] == [1, 2, 3]
    assert shown[0]["heaviest"] == 1 < shown[-1]["heaviest"]
    assert 0 < shown[-1]["contradicts"] < 1


@pytest.mark.parametrize(
    ("options", "data", "part"),
    [
        ({"weight": Boosting(), "soft_weight": 0.0}, DATA, "give models.teacher"),
        ({"weight": Boosting("either"), "soft_weight": 0.0}, DATA, "give models.teacher"),
        ({"weight": Boosting("label"), "hard_weight": 0.0}, {"image": IMAGE, "teacher_logits": IMAGE[:, :4]}, "label"),
        ({}, DATA, "'teacher_logits'"),
        ({"hard_weight": 0.0, "soft_weight": 0.0}, DATA, "one above"),
        ({"rows": 20}, {**DATA, "teacher_logits": IMAGE[:, :4]}, "set rows"),
        ({}, {**DATA, "teacher_logits": IMAGE[:, :3]}, "4 classes in the student, 3 in the teacher"),
    ],
)
def test_wrong_input_is_refused(options, data, part):
    with pytest.raises(UserError, match=part):
        fitted(Dcs(net(), **{"rows": ROWS, **options}).double(), data, batch_size=ROWS, epochs=1)


def test_recipe_and_constructor_are_one():
    given = {"rows": ROWS, "weight": {"name": "boosting", "eta": 0.5, "discord": "either"}, "weighted": "hard"}
    method = build(Dcs, given, net(), net(5))
    assert dcs().weight.eta == 0.3 and dcs().temperature.tau == 2.0
    assert describe(method)["weight"]["eta"] == 0.5 and method.weight.discord == "either"
    with pytest.raises(UserError, match="did you mean 'boosting'"):
        build(Dcs, {"rows": ROWS, "weight": "bosting"}, net(), net(5))
