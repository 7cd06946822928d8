"""The card's exact properties of LSSKD: who gets a gradient from which term, and which methods it contains."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch.nn.functional import cross_entropy

from redistill.core import Plan, Progress, UserError, describe, fit
from redistill.core.build import build
from redistill.losses.divergences import forward_kl
from redistill.methods.supervised.lsskd import Hsakd, Lsskd
from redistill.methods.supervised.sla import Sla
from redistill.models.nets import staged_convnet
from redistill.rivals.byot import BeYourOwnTeacher
from redistill.supervised.targets import Fixed
from redistill.vision.transformations import ColourOrders, Rotations, Same

GENERATOR = torch.Generator().manual_seed(0)
BATCH = {"image": torch.randn(12, 2, 8, 8, generator=GENERATOR, dtype=torch.float64), "label": torch.arange(12) % 3}
STAGES = {"layers": ["stage1", "stage2", "stage3"], "input_shape": [2, 8, 8]}
LATE = Progress(step=9, steps=10)  # the lambdas have grown


def net(widths=(4, 6, 8), classes=3):
    torch.manual_seed(1)
    return staged_convnet(2, classes, widths).double()


def lsskd(**options):
    torch.manual_seed(2)
    return Lsskd(net(), **{**STAGES, "rows": 0, "classes": 3, **options}).double()


def terms(method, now=LATE):
    return method.loss("student", BATCH, now).terms


def reached(module):
    return any(p.grad is not None and bool(p.grad.any()) for p in module.parameters())


def kl(teacher, student, tau=3.0):
    return tau**2 * forward_kl((student / tau).log_softmax(1), (teacher / tau).log_softmax(1)).sum(1).mean()


def test_the_terms_follow_from_the_heads():
    method = lsskd(feature_weight=0.1, layered_weight=0.5, main_weight=2.0)
    f, A, phi = method.heads(Rotations()(BATCH["image"]))
    k = torch.tensor([int(y) * 4 + m for y in BATCH["label"] for m in range(4)])
    own = torch.stack([A[2][torch.arange(m, 48, 4)][:, m::4] for m in range(4)]).mean(0)  # copy m, entries (i, m)
    expected = {
        "class": cross_entropy(f[::4], BATCH["label"]),
        "joint": (cross_entropy(A[0], k) + cross_entropy(A[1], k) + cross_entropy(A[2], k)) / 3,
        "layered": 0.5 * (kl(A[2], A[0]) + kl(A[2], A[1])),
        "main": 2.0 * kl(own, f[::4]),
        "features": 0.1 * sum((phi[l] - phi[2]).square().sum(1).mean() for l in range(2)),
    }
    found = terms(method)
    assert found.keys() == expected.keys()
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name])


def test_in_a_chain_the_next_deeper_branch_teaches():
    method = lsskd(chain=True)
    A = method.heads(Rotations()(BATCH["image"]))[1]
    torch.testing.assert_close(terms(method)["layered"], kl(A[1], A[0]) + kl(A[2], A[1]))


def test_layered_transfer_leaves_no_gradient_in_the_teacher_or_its_own_layers():
    method = lsskd(feature_weight=0.0)
    terms(method)["layered"].backward()
    heads, bodies = method.branches.heads, method.branches.bodies
    assert [reached(head) for head in heads] == [True, True, False]
    assert all(reached(body) for body in bodies[:2])
    assert reached(method.student.stage2) and not reached(method.student.stage3) and not reached(method.student.head)


def test_the_end_lends_its_features_without_gradient():
    method = lsskd()
    terms(method)["features"].backward()
    assert all(reached(body) for body in method.branches.bodies[:2]) and not reached(method.branches.heads)
    assert reached(method.student.stage2) and not reached(method.student.stage3)


def test_labels_meet_what_each_head_said_one_epoch_ago():
    method, index = lsskd(rows=20, rectifier=Fixed(0.6)), torch.arange(12).flip(0)
    method.table.copy_(torch.rand(20, 3, generator=GENERATOR).softmax(1))
    method.joint_table.copy_(torch.rand(20, 3, 4, 12, generator=GENERATOR).softmax(3))
    method.joint_table[11] = 0  # image 0 was not seen yet: its copies count as their labels
    f, A, _ = method.heads(Rotations()(BATCH["image"]))
    found = method.loss("student", {**BATCH, "index": index}, LATE).terms
    y = 0.4 * torch.eye(3)[BATCH["label"]] + 0.6 * method.table[index]
    torch.testing.assert_close(found["class"], -(y * f[::4].log_softmax(1)).sum(1).mean())
    joint = []
    for l, (b, i) in product(range(3), enumerate(index)):
        for m in range(4):
            own = torch.eye(12, dtype=torch.float64)[BATCH["label"][b] * 4 + m]
            k = own if b == 0 else 0.4 * own + 0.6 * method.joint_table[i, l, m]
            joint.append(-(k * A[l][b * 4 + m].log_softmax(0)).sum())
    torch.testing.assert_close(found["joint"], torch.stack(joint).mean())


def test_the_tables_hold_what_the_heads_said_of_each_row_in_this_epoch():
    said = {}

    class Spy(Lsskd):
        def loss(self, turn, batch, now):
            f, A, _ = self.heads(self.transformations(batch["image"]))
            for b, i in enumerate(batch["index"].tolist()):
                said[i] = f[b * 4].softmax(0), torch.stack([s[b * 4 : b * 4 + 4].softmax(1) for s in A])
            return super().loss(turn, batch, now)

    method = Spy(net(), **STAGES, rows=12, classes=3).double()
    fit(method, BATCH, Plan(epochs=2, batch_size=5, lr=0.1, optimizer="sgd", device="cpu"))
    for table, column in ((method.table, 0), (method.joint_table, 1)):
        torch.testing.assert_close(table, torch.stack([said[i][column] for i in range(12)]), rtol=0, atol=1e-12)


@pytest.mark.parametrize("rectifier", [Fixed(0.9), None], ids=["fixed", "progressive"])
def test_the_first_epoch_and_no_memory_are_training_with_labels(rectifier):
    plan = Plan(epochs=1, batch_size=5, lr=0.1, optimizer="sgd", device="cpu")
    one, other = (fit(lsskd(rows=r, rectifier=rectifier), BATCH, plan).student for r in (12, 0))
    for a, b in zip(one.parameters(), other.parameters()):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
    twice = Plan(**{**plan.model_dump(), "epochs": 2})
    one, other = (fit(lsskd(rows=r, rectifier=rectifier), BATCH, twice).student for r in (12, 0))
    assert not torch.allclose(one.head.weight, other.head.weight, rtol=1e-4)


def test_the_aggregate_teaches_the_classifier_and_not_the_branch():
    method = lsskd()
    terms(method)["main"].backward()
    assert reached(method.student.head) and not reached(method.branches)


def test_turned_rows_reach_the_classifier_in_no_term():
    """Copies that are no image at all change the branches' terms, not the classifier's own."""

    class Noise(Same):
        def views(self, image):
            return [image, *(torch.full_like(image, 3.0) for _ in range(self.count - 1))]

    evaluated, other = lsskd().eval(), lsskd(transformations=Noise(4)).eval()  # batch norm would mix the rows
    torch.testing.assert_close(terms(evaluated)["class"], terms(other)["class"])
    assert not torch.isclose(terms(evaluated)["joint"], terms(other)["joint"])


def test_with_one_copy_and_no_lambdas_it_is_deep_supervision():
    method = lsskd(transformations=Same(1), layered_weight=0.0, main_weight=0.0, feature_weight=0.0)
    f, A, _ = method.heads(BATCH["image"])
    y = BATCH["label"]
    total = cross_entropy(f, y) + sum(cross_entropy(scores, y) for scores in A) / 3
    torch.testing.assert_close(method.loss("student", BATCH, LATE).total, total)


def test_with_one_copy_and_a_shared_end_it_is_be_your_own_teacher():
    method = lsskd(transformations=Same(1), main_weight=0.0)
    byot = BeYourOwnTeacher(method.student, **STAGES, classes=3, a=0.5, beta=0.0).double()
    shallow = {k: v for k, v in method.branches.state_dict().items() if not k.startswith(("bodies.2", "heads.2"))}
    byot.branches.load_state_dict(shallow)
    method.branches.heads[2].load_state_dict(method.student.head.state_dict())  # the deepest branch is the classifier
    mine, theirs = terms(method), terms(byot)
    torch.testing.assert_close(mine["layered"], theirs["depth"] / 0.5)
    torch.testing.assert_close(3 * mine["joint"], theirs["ce"] / 0.5)


def test_the_lambdas_grow_from_nothing_over_the_ramp():
    method, default = lsskd(ramp=0.2), lsskd()
    for name in ("layered", "main"):
        sizes = [terms(method, Progress(step=s, steps=20))[name].item() for s in (0, 1, 2, 4, 12)]
        full = sizes[-1]
        assert sizes[0] == 0 and sizes[1:] == pytest.approx([full / 4, full / 2, full, full])
        assert terms(default, Progress(step=1, steps=20))[name].item() == pytest.approx(full / 2)


def test_labels_are_numbered_as_in_label_augmentation():
    """The same joint head on the same embedding gives the same joint loss."""
    sla = Sla(net(), single_weight=0.0, distill_weight=0.0).double()
    method = lsskd()
    method.branches.heads[2].load_state_dict(sla.joint.state_dict())
    _, A, _ = method.heads(Rotations()(BATCH["image"]))
    k = torch.tensor([int(y) * 4 + m for y in BATCH["label"] for m in range(4)])
    torch.testing.assert_close(cross_entropy(A[2], k), terms(sla)["joint"])


def test_branches_leave_and_the_student_is_as_it_was():
    method = lsskd()
    names = set(net().state_dict())
    student = fit(method, BATCH, Plan(steps=3, batch_size=6, device="cpu")).student
    f = method.heads(BATCH["image"])[0]
    assert student is method.student and set(student.state_dict()) == names
    torch.testing.assert_close(student(BATCH["image"]), f, rtol=0, atol=0)
    assert not any(m._forward_hooks for m in student.modules())


def test_branches_answer_with_probabilities_of_classes():
    found = lsskd().eval().branch_scores(BATCH["image"])
    assert len(found) == 3
    for scores in found:
        torch.testing.assert_close(scores.exp().sum(1), torch.ones(12, dtype=torch.float64))


def test_any_network_with_named_stages_will_do():
    """Stages without batch norm, a width that does not double, a classifier that reads all pixels."""
    student = torch.nn.Sequential(torch.nn.Conv2d(2, 4, 3, padding=1), torch.nn.Conv2d(4, 8, 3, 2), torch.nn.Flatten())
    student.append(torch.nn.Linear(8 * 9, 3))
    method = Lsskd(student.double(), layers=["0", "1"], input_shape=[2, 8, 8], rows=12, classes=3)
    assert [b.shape for b in method.heads(BATCH["image"])[2]] == [(12, 8), (12, 8)]
    fit(method, BATCH, Plan(steps=1, batch_size=6, device="cpu"))


def test_hsakd_matches_every_head_of_a_frozen_teacher():
    torch.manual_seed(4)
    teacher = Lsskd(net((6, 8, 10)), **STAGES, rows=0, classes=3).double().eval()
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    method = Hsakd(net(), teacher, **STAGES).double()
    batch = method.prepare(BATCH, LATE)
    found = method.loss("student", batch, LATE).terms
    rows = Rotations()(BATCH["image"])
    ft, At, _ = teacher.heads(rows)
    fs = method.student(rows)
    As = method.branches(_stages(method.student, rows))[0]
    expected = kl(ft, fs) + sum(kl(t, s) for t, s in zip(At, As))
    torch.testing.assert_close(found["distill"], expected)
    torch.testing.assert_close(found["class"], cross_entropy(fs[::4], BATCH["label"]))
    fit(method, BATCH, Plan(steps=2, batch_size=6, device="cpu"))
    assert all(torch.equal(v, before[k]) for k, v in teacher.state_dict().items())


def _stages(student, rows):
    one = student.stage1(rows)
    two = student.stage2(one)
    return one, two, student.stage3(two)


@pytest.mark.parametrize(
    ("make", "part"),
    [
        (lambda: lsskd(layers=["stage3"]), "two or more"),
        (lambda: lsskd(layers=["stage1", "stag2"]), "stage2"),
        (lambda: lsskd(layers=["stage3", "stage1"]), r"as \['stage1', 'stage3'\]; name them from shallow"),
        (
            lambda: fit(lsskd(rows=5), BATCH, Plan(steps=1, batch_size=12, device="cpu")),
            "rows: 0 to 11 in the data, not 0 to 4",
        ),
        (lambda: lsskd(tau=0.0), "tau=0.0; give a number above 0"),
        (lambda: lsskd(ramp=2.0), "ramp=2.0; give a number from 0 to 1"),
        (lambda: terms(lsskd(classes=4)), "knows 3 classes, not 4"),
        (lambda: terms(lsskd(transformations=ColourOrders())), "need 3"),
        (lambda: fit(lsskd(classes=2), BATCH, Plan(steps=1, device="cpu")), "set classes"),
        (lambda: Hsakd(net(), lsskd(), layers=["stage1", "stage2"], input_shape=[2, 8, 8]), "the teacher has 3"),
    ],
)
def test_wrong_input_is_refused(make, part):
    with pytest.raises(UserError, match=part):
        make()


def test_recipe_and_constructor_are_one():
    given = {**STAGES, "rows": 9, "classes": 3, "transformations": {"name": "rotations", "count": 2}, "tau": 2.0}
    method = build(Lsskd, given, net())
    assert describe(method).items() >= given.items() and method.branches.heads[0].out_features == 6
