"""Rows, labels and aggregation of transformed copies, on toys small enough to write down."""

from __future__ import annotations

import pytest
import torch

from redistill.core import Slot, UserError, describe
from redistill.core.build import convert
from redistill.vision.transformations import (
    ColourOrders,
    Product,
    Rotations,
    Same,
    Transformations,
    aggregated_scores,
    class_log_probabilities,
    joint_labels,
    matching_scores,
)

IMAGE = torch.rand(3, 3, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
EVERY = [Rotations(), Rotations(2), ColourOrders(), ColourOrders(3), Same(2), Product(Rotations(), ColourOrders())]


@pytest.mark.parametrize("change", EVERY, ids=repr)
def test_rows_are_image_major_and_begin_with_the_image(change):
    rows = change(IMAGE)
    assert rows.shape == (3 * change.count, 3, 6, 6)
    assert torch.equal(rows[:: change.count], IMAGE)
    for b in range(3):
        assert torch.equal(rows[b * change.count : (b + 1) * change.count], change(IMAGE[b : b + 1]))


@pytest.mark.parametrize(("change", "count"), [(Rotations(), 4), (ColourOrders(), 6), (EVERY[-1], 24)])
def test_copies_differ_from_one_another(change, count):
    rows = change(IMAGE[:1])
    assert change.count == count == len({tuple(row.flatten().tolist()) for row in rows})


def test_rotations_are_quarter_turns_and_half_turns():
    quarters, halves = Rotations()(IMAGE), Rotations(2)(IMAGE)
    assert torch.equal(quarters[1::4].rot90(-1, (2, 3)), IMAGE)
    assert torch.equal(quarters[2::4], IMAGE.flip(2, 3)) and torch.equal(halves[1::2], IMAGE.flip(2, 3))


def test_three_colour_orders_are_the_cyclic_ones():
    rows = ColourOrders(3)(IMAGE)
    assert torch.equal(rows[1::3], IMAGE.roll(-1, 1)) and torch.equal(rows[2::3], IMAGE.roll(1, 1))


def test_joint_labels_follow_the_rows():
    assert joint_labels(torch.tensor([2, 0]), 3).tolist() == [6, 7, 8, 0, 1, 2]


def test_aggregation_reads_only_the_entry_of_the_applied_transformation():
    """Scores that are 1 at one (copy, class, transformation) and 0 elsewhere."""
    count, classes = 3, 2
    for copy in range(count):
        for m in range(count):
            joint = torch.zeros(2 * count, classes * count)
            joint[1 * count + copy, 1 * count + m] = 1.0  # image 1, class 1
            found = aggregated_scores(joint, count)
            expected = torch.zeros(2, classes)
            expected[1, 1] = (copy == m) / count
            torch.testing.assert_close(found, expected)
            assert matching_scores(joint, count)[1, copy, 1] == float(copy == m)


def test_class_probabilities_sum_the_joint_ones():
    joint = torch.randn(5, 12, dtype=torch.float64)
    found = class_log_probabilities(joint, 4).exp()
    torch.testing.assert_close(found.sum(1), torch.ones(5, dtype=torch.float64))
    torch.testing.assert_close(found[:, 1], joint.softmax(1)[:, 4:8].sum(1))


@pytest.mark.parametrize(
    ("make", "part"),
    [
        (lambda: Rotations(3), "valid: 2, 4"),
        (lambda: ColourOrders(4), "valid: 3, 6"),
        (lambda: Same(0), "a whole number from 1"),
        (lambda: Rotations()(IMAGE[..., :4]), "squares"),
        (lambda: ColourOrders()(IMAGE[:, :1]), "need 3"),
    ],
)
def test_what_cannot_work_is_refused(make, part):
    with pytest.raises(UserError, match=part):
        make()


def test_a_product_can_be_written_in_a_recipe():
    halves, cyclic = {"name": "rotations", "count": 2}, {"name": "colour_orders", "count": 3}
    given = {"name": "product", "first": halves, "second": cyclic}
    product = convert(given, Transformations, place="options.transformations")
    assert isinstance(product, Slot) and product.count == 6 and describe(product)["second"] == cyclic
