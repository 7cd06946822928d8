"""Weights of rows: what boosting does to them, exactly, and that any method can carry them."""

from __future__ import annotations

import math

import pytest
import torch

from redistill.core import Loss, Plan, Progress, UserError, describe, fit
from redistill.core.followers import same_weights
from redistill.models.nets import mlp
from redistill.supervised.classifier import Distillation, Weighted, logits, soft_cross_entropy
from redistill.supervised.targets import mix
from redistill.supervised.weights import Answers, Boosting, Equal, discordance

NOW, ROWS = Progress(epoch=1, epochs=2), 12
FREE = {"most": None, "cap": None}


def answers(classes: int, wrong: list[int], rows: int = ROWS, seed: int = 0) -> Answers:
    """Teacher and student of equal classes but in the rows ``wrong``; the labels are the teacher's classes."""
    label = torch.arange(rows) % classes
    said = label.clone()
    said[wrong] = (said[wrong] + 1) % classes
    noise = torch.rand(2, rows, classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    student, teacher = (noise[k] + 3 * torch.eye(classes)[c] for k, c in enumerate((said, label)))
    return Answers(student, teacher, label, torch.arange(rows))


def updated(weight: Boosting, said: Answers, table=None) -> torch.Tensor:
    table = weight.start(len(said.student)).double() if table is None else table
    weight.update(table, said, NOW)
    return table


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_after_an_uncapped_update_the_student_is_as_wrong_as_chance(classes):
    weight, wrong = Boosting(**FREE), [1, 5, 6]
    table = updated(weight, answers(classes, wrong))
    for other in ([0, 1], [7]):  # also from unequal weights
        table = updated(weight, answers(classes, other), table)
        wrong = other
    share = table[wrong, 0].sum() / table[:, 0].sum()
    torch.testing.assert_close(share, torch.tensor(1 - 1 / classes, dtype=torch.float64))


def test_without_contradiction_nothing_changes_to_the_bit():
    table = updated(Boosting(), answers(3, []))
    assert torch.equal(table[:, :2], Boosting().start(ROWS).double()[:, :2])


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("discord", ["teacher", "label", "either"])
@pytest.mark.parametrize("every", ["pass", "step"])
def test_weights_stay_positive_with_mean_one(discord, soft, every):
    weight = Boosting(discord, soft, every)
    table = weight.start(ROWS).double()
    for seed in range(20):
        updated(weight, answers(3, [seed % ROWS, 3], seed=seed), table)
        assert table[:, 0].min() > 0
        torch.testing.assert_close(table[:, 0].mean(), torch.tensor(1.0, dtype=torch.float64))
    assert table[:, 0].std() > 0.1


def test_the_step_is_the_formula_and_most_bounds_it():
    said = answers(4, [2, 3, 4])
    beta = math.log(0.75 / 0.25) + math.log(3)
    for most, step in ((None, beta), (0.7, 0.7)):
        table = updated(Boosting(most=most, cap=None), said)
        torch.testing.assert_close(table[2, 0] / table[0, 0], torch.tensor(math.exp(step), dtype=torch.float64))


def test_a_cap_bounds_the_weight_of_a_row():
    free, capped = (updated(Boosting(most=None, cap=cap), answers(2, [0])) for cap in (None, 2.0))
    assert free[0, 0] == pytest.approx(6.0)  # half of 12; the other rows keep 6 together
    assert capped[0, 0] == pytest.approx(2 / ((2 + 6) / 12))  # clamped, then normalised once


def test_a_pass_boosts_once_and_only_when_every_row_was_seen():
    said, weight = answers(3, [1, 8]), Boosting()
    table = weight.start(ROWS).double()
    first, second = ([part[rows] for part in said] for rows in (slice(0, 5), slice(5, ROWS)))
    weight.update(table, Answers(*first), NOW)
    assert torch.equal(table[:, 0], torch.ones(ROWS).double())
    weight.update(table, Answers(*second), NOW)
    assert torch.equal(table, updated(weight, said))


def test_a_pass_that_left_rows_out_boosts_those_it_saw_when_the_next_epoch_begins():
    said, weight = answers(3, [1]), Boosting()
    table = weight.start(ROWS + 1).double()  # a row that never comes
    weight.update(table, said, NOW)
    assert torch.equal(table[:, 0], torch.ones(ROWS + 1).double())
    weight.update(table, said, Progress(epoch=2, epochs=3))
    whole = updated(weight, said)
    torch.testing.assert_close(table[1, 0] / table[0, 0], whole[1, 0] / whole[0, 0])
    assert table[0, 0] == table[ROWS, 0]


def test_each_step_boosts_the_rows_of_its_batch():
    said, weight = answers(3, [1]), Boosting(every="step")
    table = weight.start(ROWS).double()
    weight.update(table, Answers(*[part[:4] for part in said]), NOW)
    assert table[1, 0] > table[0, 0] == table[11, 0]


def test_what_is_contradicted():
    label = torch.tensor([0, 0, 1])
    student, teacher = torch.eye(2)[[0, 1, 1]] * 9, torch.eye(2)[[1, 1, 1]] * 9
    said = Answers(student, teacher, label, torch.arange(3))
    for against, expected in (("teacher", [1, 0, 0]), ("label", [0, 1, 0]), ("either", [1, 1, 0])):
        assert discordance(said, against).tolist() == expected
    q = student.softmax(1)
    torch.testing.assert_close(discordance(said, "label", soft=True), 1 - q[torch.arange(3), label])
    torch.testing.assert_close(discordance(said, soft=True), 0.5 * (q - teacher.softmax(1)).abs().sum(1))


@pytest.mark.parametrize(
    ("said", "against", "part"),
    [
        (Answers(torch.ones(2, 3), None, torch.zeros(2).long(), torch.arange(2)), "teacher", "needs one"),
        (Answers(torch.ones(2, 3), torch.ones(2, 3), None, torch.arange(2)), "either", "'label'"),
        (Answers(torch.ones(2, 1), torch.ones(2, 1), None, torch.arange(2)), "teacher", "two classes"),
    ],
)
def test_what_cannot_be_contradicted_is_refused(said, against, part):
    with pytest.raises(UserError, match=part):
        discordance(said, against)


def test_defaults_are_the_cards():
    shown = {"discord": "teacher", "every": "pass", "most": 2.0, "cap": 10.0, "warmup": 1, "measure": "eval"}
    assert {name: describe(Boosting())[name] for name in shown} == shown


@pytest.mark.parametrize(
    "options",
    [{"cap": 0.5}, {"cap": math.nan}, {"eta": -1.0}, {"eta": math.nan}, {"most": -1.0}, {"discord": "techer"},
     {"every": "epoch"}],
)  # fmt: skip
def test_senseless_options_are_refused(options):
    with pytest.raises(UserError, match=next(iter(options))):
        Boosting(**options)


# ---- carried by a method ----


IMAGE, LABEL = torch.randn(40, 6, generator=torch.Generator().manual_seed(0)).double(), torch.arange(40) % 3
PLAN = {"epochs": 4, "batch_size": 8, "lr": 0.02, "device": "cpu"}


def net(dropout: float = 0.0) -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(mlp(6, 16, [8]), torch.nn.Dropout(dropout), torch.nn.Linear(16, 3)).double()


def teacher() -> torch.nn.Module:
    torch.manual_seed(5)
    return mlp(6, 3, [8]).double()


def distilled(weight=None, net=net, rows=40, **options):
    method = Distillation(net(), teacher(), weight=weight, rows=rows, **options).double()
    fit(method, {"image": IMAGE, "label": LABEL}, Plan(**PLAN))
    return method


class Past(Weighted):
    """The shape of PS-KD: a student, a rectified target, no teacher network."""

    needs = ("label",)

    def __init__(self, student, *, weight=None, rows=0):
        super().__init__()
        self.student = student
        self.weigh_by(weight, rows)

    def prepare(self, batch, now):
        return self.measured(batch, now)

    def loss(self, turn, batch, now):
        z = logits(self.student, batch)
        past = z.detach().softmax(1)
        ce = soft_cross_entropy(z, mix(batch["label"], past, 0.3))
        terms = {"ce": (self.weights(batch, z, past.log(), now) * ce).mean()}
        return Loss(terms, gather=self.noticed(batch, z, past.log(), now))


def test_equal_weights_are_no_weights_to_the_bit():
    plain, equal = distilled(), distilled(Equal())
    assert same_weights(plain.student, equal.student) and "table" not in equal.state_dict()
    assert not same_weights(plain.student, distilled(Boosting()).student)


def test_multiplying_all_weights_by_a_constant_leaves_the_step_unchanged():
    method = distilled(Boosting())
    batch = method.prepare({"image": IMAGE[:8], "label": LABEL[:8], "index": torch.arange(8)}, NOW)
    before = method.loss("student", batch, NOW).total
    method.table[:, 0] *= 7.5
    torch.testing.assert_close(method.loss("student", batch, NOW).total, before)


def test_weights_on_one_term_only():
    method = distilled(Boosting())
    assert method.table[:, 0].std() > 0.1
    batch = method.prepare({"image": IMAGE[:8], "label": LABEL[:8], "index": torch.arange(8)}, NOW)
    terms = {}
    for method.weighted in ("both", "hard", "soft"):
        terms[method.weighted] = method.loss("student", batch, NOW).terms
    method.weight = Equal()
    equal = method.loss("student", batch, NOW).terms
    for name, other in (("hard", "soft"), ("soft", "hard")):
        assert terms[name][name] == terms["both"][name] != equal[name]
        assert terms[other][name] == equal[name]


def test_the_student_answers_in_evaluation_mode():
    method = Distillation(net(0.5), teacher(), weight=Boosting(), rows=40).double().train()
    batch = {"image": IMAGE, "label": LABEL, "index": torch.arange(40)}
    prepared = method.prepare(batch, NOW)
    assert method.student.training
    told = method.loss("student", prepared, NOW).gather["student"]
    torch.testing.assert_close(told, method.student.eval()(IMAGE), rtol=0, atol=0)
    method.weight.measure = "train"
    assert "student_logits" not in method.prepare(batch, NOW)


@pytest.mark.parametrize("weight", [Boosting("label"), Boosting("label", every="step"), Boosting("either", soft=True)])
def test_a_method_without_a_teacher_network_can_carry_weights(weight, tmp_path):
    data = {"image": IMAGE, "label": LABEL}

    def trained(until=None, folder=None, **changes):
        method = Past(net(0.3), weight=weight, rows=40).double()
        fit(method, data, Plan(**{**PLAN, **changes}), folder=folder, until=until, resume=bool(folder) and not until)
        return method

    whole = trained()
    assert whole.table[:, 0].std() > 0.02
    trained(until=7, folder=tmp_path)  # in the middle of a pass
    assert same_weights(whole, trained(folder=tmp_path))


def test_nothing_is_learnt_from_the_warm_up():
    for warmup, boosted in ((4, False), (3, True), (0, True)):
        method = distilled(Boosting(warmup=warmup))
        assert (method.table[:, 0].std() > 0.01) == boosted
        if not boosted:
            assert torch.equal(method.table, Boosting().start(40).double())


@pytest.mark.parametrize("every", ["pass", "step"])
def test_micro_batches_give_the_same_weights(every):
    whole, cut = (Distillation(net(), teacher(), weight=Boosting(every=every), rows=40).double() for _ in range(2))
    fit(whole, {"image": IMAGE, "label": LABEL}, Plan(**PLAN))
    fit(cut, {"image": IMAGE, "label": LABEL}, Plan(**PLAN, accumulate=3))
    torch.testing.assert_close(whole.table, cut.table, rtol=0, atol=1e-9)


@pytest.mark.parametrize("rows", [0, 39])
def test_a_table_that_does_not_fit_the_data_is_refused(rows):
    with pytest.raises(UserError, match="rows"):
        distilled(Boosting(), rows=rows)


def test_without_a_soft_weight_nobody_need_teach():
    taught = Distillation(net(), teacher(), hard_weight=1.0, soft_weight=0.0)
    alone = Distillation(net(), None, hard_weight=1.0, soft_weight=0.0)
    for method in (taught, alone):
        fit(method, {"image": IMAGE, "label": LABEL}, Plan(**PLAN))
    assert same_weights(taught.student, alone.student)
