"""Plain distillation: what its weights mean, what it refuses."""

from __future__ import annotations

import pytest
import torch

from redistill.core import Plan, UserError, fit
from redistill.core.method import bare_progress
from redistill.models.nets import mlp
from redistill.supervised.classifier import Classification, Distillation, soft_cross_entropy
from redistill.supervised.targets import LabelSmoothing

IMAGE, LABEL = torch.randn(40, 6, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 3


def nets(*outputs: int) -> list[torch.nn.Module]:
    torch.manual_seed(0)
    return [mlp(6, k, [8]) for k in outputs]


def trained(**options) -> torch.Tensor:
    label = options.pop("label", LABEL)
    student, teacher = nets(3, 3)
    data = {"image": IMAGE} | ({} if label is None else {"label": label})
    fit(Distillation(student, teacher, **options), data, Plan(steps=5, batch_size=8, lr=0.01, device="cpu"))
    return student(IMAGE)


def test_soft_cross_entropy_takes_targets_of_any_sign():
    z, t = torch.randn(4, 3, dtype=torch.float64).requires_grad_(True), torch.tensor([[1.7, -0.4, -0.3]] * 4).double()
    torch.testing.assert_close(torch.autograd.grad(soft_cross_entropy(z, t).sum(), z)[0], z.softmax(-1) - t)


def test_without_a_hard_weight_labels_are_not_needed_and_not_read():
    torch.testing.assert_close(trained(hard_weight=0.0), trained(hard_weight=0.0, label=None), rtol=0, atol=0)
    with pytest.raises(UserError, match="label"):
        trained(label=None)


def test_without_a_soft_weight_the_teacher_is_not_read():
    alone, _ = nets(3, 3)
    plan = Plan(steps=5, batch_size=8, lr=0.01, device="cpu")
    fit(Classification(alone), {"image": IMAGE, "label": LABEL}, plan)
    torch.testing.assert_close(trained(hard_weight=1.0, soft_weight=0.0), alone(IMAGE), rtol=0, atol=0)


def test_stored_logits_stand_for_the_teacher():
    student, teacher = nets(3, 3)
    stored = teacher(IMAGE).detach()
    plan = Plan(steps=5, batch_size=8, lr=0.01, device="cpu")
    data = {"image": IMAGE, "label": LABEL, "teacher_logits": stored}
    fit(Distillation(student, None), data, plan)
    torch.testing.assert_close(student(IMAGE), trained(), rtol=0, atol=1e-6)


def test_another_number_of_classes_is_refused():
    method = Distillation(*nets(3, 4))
    batch = method.prepare({"image": IMAGE, "label": LABEL}, bare_progress())
    with pytest.raises(UserError, match="3 classes in the student, 4 in the teacher"):
        method.loss("student", batch, bare_progress())


def test_smoothed_labels_are_the_target():
    (net,), now = nets(3), bare_progress()
    loss = Classification(net, rectifier=LabelSmoothing(0.3)).loss("student", {"image": IMAGE, "label": LABEL}, now)
    expected = torch.nn.functional.cross_entropy(net(IMAGE), LABEL, label_smoothing=0.3)
    torch.testing.assert_close(loss.total, expected)
