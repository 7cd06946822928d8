"""SSLD reads no label; its loss is the divergence it is named after."""

from __future__ import annotations

import pytest
import torch

from redistill.core import Plan, UserError, fit
from redistill.core.method import bare_progress
from redistill.methods.supervised.ssld import Ssld
from redistill.models.nets import mlp
from redistill.supervised.matches import Dkd, Jeffreys

IMAGE = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))


def nets() -> tuple[torch.nn.Module, torch.nn.Module]:
    torch.manual_seed(0)
    return mlp(6, 3, [8]), mlp(6, 3, [8])


def trained(**columns) -> torch.Tensor:
    student, teacher = nets()
    fit(Ssld(student, teacher), {"image": IMAGE, **columns}, Plan(steps=8, batch_size=8, lr=0.01, device="cpu"))
    return student(IMAGE)


def test_corrupted_labels_change_no_bit():
    labels = torch.arange(40) % 3
    expected = trained()
    for label in (labels, labels.flip(0), torch.full_like(labels, -1)):
        torch.testing.assert_close(trained(label=label), expected, rtol=0, atol=0)


@pytest.mark.parametrize("match", [None, Jeffreys()], ids=["js", "jeffreys"])
def test_the_loss_against_the_written_formula(match):
    student, teacher = nets()
    method = Ssld(student, teacher, match=match)
    loss = method.loss("student", method.prepare({"image": IMAGE}, bare_progress()), bare_progress())
    p, q = student(IMAGE).softmax(-1), teacher(IMAGE).softmax(-1)
    m = (p + q) / 2

    def kl(a, b):
        return (a * (a / b).log()).sum(-1).mean()

    expected = (kl(p, m) + kl(q, m)) / 2 if match is None else (kl(p, q) + kl(q, p)) / 2
    assert list(loss.terms) == ["soft"]
    torch.testing.assert_close(loss.total, expected)


def test_a_student_that_equals_its_teacher_has_no_gradient():
    student, teacher = nets()
    student.load_state_dict(teacher.state_dict())
    method = Ssld(student, teacher)
    method.loss("student", method.prepare({"image": IMAGE}, bare_progress()), bare_progress()).total.backward()
    assert max(float(p.grad.abs().max()) for p in student.parameters()) < 1e-7


def test_a_match_that_reads_labels_is_refused():
    with pytest.raises(UserError, match="reads labels"):
        Ssld(*nets(), match=Dkd())
