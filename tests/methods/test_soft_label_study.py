"""The textbook loss in its limits, the parts of a soft label, and the bench that takes settings through it."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch.nn.functional import cross_entropy

from redistill.beds import metrics
from redistill.core import Plan, UserError
from redistill.core.method import bare_progress
from redistill.methods.analysis.soft_label_study import FORMS, TAUS, WEIGHTS, Bench, Setting, distillation, plane, star
from redistill.methods.analysis.soft_label_study.soft_labels import PARTS
from redistill.models.nets import mlp

GENERATOR = torch.Generator().manual_seed(0)
ROWS, CLASSES = 40, 4
LABEL = torch.arange(ROWS) % CLASSES
IMAGE = torch.randn(ROWS, 6, generator=GENERATOR) + torch.eye(6)[LABEL]
DATA = {"image": IMAGE, "label": LABEL}
Z_S, Z_T = (2 * torch.randn(ROWS, CLASSES, generator=GENERATOR).double() for _ in range(2))


def soft(setting, z_s=Z_S, z_t=Z_T):
    """Value and gradient with respect to the student's logits."""
    z = z_s.clone().requires_grad_()
    batch = {"image": z, "label": LABEL, "teacher_logits": z_t}
    loss = distillation(setting, torch.nn.Identity()).loss("student", batch, bare_progress()).total
    return loss.detach(), torch.autograd.grad(loss, z)[0]


def net(seed, *hidden):
    torch.manual_seed(seed)
    return mlp(6, CLASSES, hidden)


def bench(data=DATA, teachers=None, **plan):
    how = Plan(**{"epochs": 4, "batch_size": 8, "optimizer": "sgd", "lr": 0.05, "seed": 3, "device": "cpu", **plan})
    given = {"teacher": net(9, 16), "other": net(8, 16)} if teachers is None else teachers
    students = {"student": partial(net, 1, 5), "wide": partial(net, 1, 12)}
    return Bench(data, DATA, how, teachers=given, students=students, measure=metrics.classification)


@pytest.mark.parametrize("tau", TAUS)
def test_the_gradient_of_the_soft_part_is_tau_times_the_difference(tau):
    gradient = soft(Setting(tau=tau, soft_weight=1.0))[1]
    expected = tau * ((Z_S / tau).softmax(1) - (Z_T / tau).softmax(1)) / ROWS
    torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-12)


def test_a_hot_teacher_is_regression_on_centred_logits():
    value = soft(Setting(tau=1e4, soft_weight=1.0))[0]
    difference = (Z_S - Z_S.mean(1, keepdim=True)) - (Z_T - Z_T.mean(1, keepdim=True))
    assert float(value) == pytest.approx(float(difference.square().sum(1).mean() / (2 * CLASSES)), rel=1e-3)


def test_kl_and_soft_cross_entropy_differ_by_the_teachers_entropy_and_have_one_gradient():
    tau = 3.0
    (kl, slope), (ce, other) = (soft(Setting(tau=tau, soft_weight=1.0, form=form)) for form in ("kd", "soft_ce"))
    p = (Z_T / tau).softmax(1)
    entropy = -(p * p.log()).sum(1).mean()
    torch.testing.assert_close(ce - kl / tau**2, entropy)
    torch.testing.assert_close(slope / tau**2, other)


@pytest.mark.parametrize("tau", TAUS)
def test_without_the_teacher_it_is_cross_entropy_at_every_temperature(tau):
    z = Z_S.clone().requires_grad_()
    plain = cross_entropy(z, LABEL)
    value, slope = soft(Setting(tau=tau, soft_weight=0.0))
    torch.testing.assert_close(value, plain.detach())
    torch.testing.assert_close(slope, torch.autograd.grad(plain, z)[0])


@pytest.mark.parametrize(
    "setting", [Setting(), Setting(soft_weight=1.0), Setting(form="hard"), Setting(form="soft_ce")]
)
def test_a_constant_added_to_the_logits_of_either_network_changes_nothing(setting):
    value, slope = soft(setting)
    constants = torch.linspace(-5, 5, ROWS, dtype=torch.float64)[:, None]
    for moved in (soft(setting, Z_S + constants), soft(setting, Z_S, Z_T + constants)):
        torch.testing.assert_close(moved, (value, slope))


def test_a_cold_soft_label_is_the_first_choice():
    q = (Z_T / 1e-3).softmax(1)
    torch.testing.assert_close(q, torch.eye(CLASSES)[Z_T.argmax(1)].double())
    cold, hard = (soft(Setting(tau=t, soft_weight=1.0, form=f))[1] for t, f in ((1.0, "kd"), (1.0, "hard")))
    torch.testing.assert_close(soft(Setting(soft_weight=1.0, tau=1.0), Z_S, 1e4 * Z_T)[1], hard)
    assert not torch.allclose(cold, hard)


@pytest.mark.parametrize("name", PARTS)
def test_every_part_is_a_distribution_and_keeps_what_it_says(name):
    q = Z_T.softmax(1)
    part = PARTS[name](q, LABEL, torch.Generator().manual_seed(1))
    torch.testing.assert_close(part.sum(1), torch.ones(ROWS).double())
    target = part.gather(1, LABEL[:, None])
    if name in ("whole", "confidence", "shuffled"):
        torch.testing.assert_close(target, q.gather(1, LABEL[:, None]))
    others = part[~torch.eye(CLASSES).bool()[LABEL]].view(ROWS, -1)
    assert (float(others.std(1).max()) < 1e-12) == (name in ("confidence", "smoothed"))
    assert (len(torch.unique(part, dim=0)) == CLASSES) == (name in ("average", "smoothed"))
    assert torch.equal(part, q) == (name == "whole")


def test_shuffling_keeps_the_values_of_each_row():
    q = Z_T.softmax(1)
    part = PARTS["shuffled"](q, LABEL, torch.Generator().manual_seed(1))
    torch.testing.assert_close(part.sort(1).values, q.sort(1).values)
    assert not torch.equal(part, PARTS["shuffled"](q, LABEL, torch.Generator().manual_seed(2)))


def test_the_average_is_the_mean_of_the_class():
    q = Z_T.softmax(1)
    torch.testing.assert_close(PARTS["average"](q, LABEL, GENERATOR)[2], q[LABEL[2] == LABEL].mean(0))


@pytest.mark.parametrize("part", PARTS)
def test_stored_logits_give_the_part_back_at_their_temperature(part):
    made, setting = bench(), Setting(tau=2.0, part=part, share=0.5)
    rows = made.order[:20]
    z = made.teachers["teacher"](IMAGE[rows]).detach().double()
    expected = PARTS[part]((z / 2).softmax(1), LABEL[rows], torch.Generator().manual_seed(0))
    found = (made.soft_logits(setting) / 2).softmax(1).double()
    if part == "shuffled":  # the order is the bench's own
        expected, found = expected.sort(1).values, found.sort(1).values
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_the_design_is_a_plane_and_a_star_through_one_centre():
    centre = Setting(student="wide")
    cells = plane(centre)
    assert len(cells) == len(TAUS) * len(WEIGHTS) and centre in cells
    assert all(replace(cell, tau=4.0, soft_weight=0.7) == centre for cell in cells)
    arms = star(centre, share=(0.1, 1.0), part=("whole", "average"))
    assert arms == [centre, replace(centre, share=0.1), replace(centre, part="average")]


def test_the_table_scores_against_labels_and_teacher():
    made = bench()
    row, alone, hot = made.table([Setting(), Setting(soft_weight=0.0), Setting(soft_weight=0.0, tau=16.0, form="mse")])
    gap = row["teacher_accuracy"] - alone["accuracy"]
    assert row["gained"] == pytest.approx(row["accuracy"] - alone["accuracy"]) and alone["gained"] == 0
    assert math.isnan(row["recovery"]) if gap <= 0 else row["recovery"] == pytest.approx(row["gained"] / gap)
    assert {k: v for k, v in alone.items() if k not in ("tau", "form", "seconds")} == pytest.approx(
        {k: v for k, v in hot.items() if k not in ("tau", "form", "seconds")}, nan_ok=True
    )
    assert row["size"] == pytest.approx((6 * 5 + 5 + 5 * 4 + 4) / (6 * 16 + 16 + 16 * 4 + 4))
    assert 0 <= row["p_equal"] <= 1 and row["kl"] > 0


def test_a_student_that_becomes_its_teacher_cannot_be_told_from_it():
    made = bench(teachers={"teacher": net(1, 5)}, lr=1e-9)
    (row,) = made.table([Setting(soft_weight=1.0)])
    assert (row["p_equal"], row["agreement"], row["size"]) == (1, 1, 1)
    assert row["kl"] == pytest.approx(0, abs=1e-9)


def test_settings_are_paired_and_every_factor_reaches_the_student():
    said = {s: bench().run(s)[0] for s in [
        Setting(), Setting(tau=1.0), Setting(soft_weight=0.3), Setting(form="mse"), Setting(part="average"),
        Setting(teacher="other"), Setting(student="wide"), Setting(share=0.5),
    ]}  # fmt: skip
    assert torch.equal(said[Setting()], bench().run(Setting())[0])
    assert len({round(float(p.std()), 12) for p in said.values()}) == len(said)


def test_few_rows_train_for_as_many_steps_and_are_part_of_many():
    made = bench()
    assert (made.plan.steps, made.plan.epochs) == (20, None)
    seen = []

    class Watched(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net(1, 5)

        def forward(self, image):
            seen.append(image) if self.training else None
            return self.net(image)

    made.students = {"student": Watched}
    made.run(Setting(share=0.25))
    assert len(seen) == 20
    assert len(torch.unique(torch.cat(seen), dim=0)) == 10


def test_a_data_set_of_items_gives_the_same_as_columns():
    class Items:
        def __len__(self):
            return ROWS

        def __getitem__(self, i):
            return {"image": IMAGE[i], "label": LABEL[i]}

    torch.testing.assert_close(bench(Items()).run(Setting(share=0.5))[0], bench().run(Setting(share=0.5))[0])


@pytest.mark.parametrize(
    ("make", "part"),
    [
        (lambda: Setting(form="kl"), "form"),
        (lambda: Setting(part="averge"), "did you mean 'average'"),
        (lambda: Setting(tau=0.0), "above 0"),
        (lambda: Setting(soft_weight=1.5), "from 0 to 1"),
        (lambda: Setting(share=0.0), "share"),
        (lambda: bench().table([Setting(teacher="othr")]), "did you mean 'other'"),
        (lambda: bench().table([Setting(student="wid")]), "did you mean 'wide'"),
        (lambda: bench(teachers={"teacher": mlp(6, 5)}).table([Setting(soft_weight=0.0)]), "5 in the teacher"),
    ],
)
def test_wrong_words_and_numbers_are_refused(make, part):
    with pytest.raises(UserError, match=part):
        make()


def test_all_forms_are_among_the_losses():
    assert {soft(Setting(form=form, soft_weight=1.0))[0].item() for form in FORMS}.__len__() == len(FORMS)
