"""Targets, temperatures and tiny nets: limits, sums, ends of schedules."""

from __future__ import annotations

import pytest
import torch

from redistill.core import Progress, UserError, describe
from redistill.models.nets import convnet, mlp
from redistill.supervised.targets import (
    Fixed,
    LabelSmoothing,
    OneHot,
    Progressive,
    TargetRectifier,
    check_fits,
    cross_entropy,
)
from redistill.supervised.temperature import Constant, Cosine

LABEL = torch.tensor([0, 2, 1])
TEACHER = torch.tensor([[0.2, 0.3, 0.5], [0.1, 0.1, 0.8], [1.0, 0.0, 0.0]])
HARD = torch.eye(3)[LABEL]


def at(epoch, epochs=4):
    return Progress(epoch=epoch, epochs=epochs, step=epoch, steps=epochs)


@pytest.mark.parametrize("rectifier", [OneHot(), LabelSmoothing(0.3), Fixed(0.7), Progressive(0.8)])
def test_targets_are_distributions(rectifier):
    target = rectifier(LABEL, TEACHER, at(1))
    torch.testing.assert_close(target.sum(1), torch.ones(3))
    assert (target >= 0).all() and not target.requires_grad


def test_progressive_reaches_alpha_in_the_last_epoch_only():
    weights = [(Progressive(0.8)(LABEL, TEACHER, at(e))[2, 0] / TEACHER[2, 0]).item() for e in range(4)]
    assert weights == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert torch.equal(Progressive(0.8)(LABEL, TEACHER, at(3)), Fixed(0.8)(LABEL, TEACHER, at(0)))


def test_limits_are_the_label_and_the_teacher():
    for none in (OneHot(), Fixed(0.0), Progressive(0.0), LabelSmoothing(0.0)):
        assert torch.equal(none(LABEL, TEACHER, at(2)), HARD)
    assert torch.equal(Fixed(1.0)(LABEL, TEACHER, at(0)), TEACHER)
    torch.testing.assert_close(LabelSmoothing(1.0)(LABEL, TEACHER, at(0)), torch.full((3, 3), 1 / 3))


@pytest.mark.parametrize(("numbers", "part"), [([0, 3], "rows: 0 to 3 in the data, not 0 to 2"), ([-1, 2], "-1 to 2")])
def test_numbers_without_a_place_are_refused(numbers, part):
    check_fits(torch.tensor([0, 2]), 3, "rows")
    with pytest.raises(UserError, match=part):
        check_fits(torch.tensor(numbers), 3, "rows")


def test_rectifiers_have_words_and_options():
    assert {"one_hot", "label_smoothing", "fixed", "progressive"} <= TargetRectifier.choices().keys()
    assert describe(LabelSmoothing()) == {"smoothing": 0.1}
    with pytest.raises(UserError, match=r"alpha=1\.2"):
        Progressive(1.2)


def test_temperature_schedules():
    cosine = Cosine(3.0, 1.0)
    assert [cosine(TEACHER, TEACHER, at(e)) for e in (0, 2, 4)] == pytest.approx([3.0, 2.0, 1.0])
    assert Constant(2.0)(TEACHER, TEACHER, at(3)) == 2.0
    assert isinstance(Constant(4).tau, float)  # a whole number would have no mean to log
    with pytest.raises(UserError, match="above 0"):
        Constant(0.0)


def test_tiny_nets_give_logits_and_use_every_parameter():
    for net, image in ((mlp(12, 5), torch.randn(2, 3, 2, 2)), (convnet(3, 5), torch.randn(2, 3, 16, 16))):
        logits = net(image)
        assert logits.shape == (2, 5)
        logits.square().sum().backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


@pytest.mark.parametrize(("label", "said"), [
    (LABEL[:, None], "one whole number a row"), (LABEL.float(), "one whole number a row"),
    (LABEL + 1, "labels 1 to 3 where the network has 3"), (LABEL - 1, "labels -1 to 1"),
])  # fmt: skip
def test_labels_that_are_no_classes_are_refused(label, said):
    for use in (lambda: OneHot()(label, TEACHER, at(0)), lambda: cross_entropy(TEACHER, label)):
        with pytest.raises(UserError, match=said):
            use()
