"""The small real data sets that ship: complete, unspoilt, split without leaks."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from redistill.beds import digits, mnist, uci
from redistill.beds.images import confuse, corrupt
from redistill.core.errors import UserError


@pytest.mark.parametrize(("bed", "rows", "side"), [(digits, 1797, 8), (mnist, 5000, 28)])
def test_pictures_are_complete_and_scaled(bed, rows, side):
    data = bed.load()
    assert data.image.shape == (rows, 1, side, side) and data.image.dtype == np.float32
    assert data.image.min() == 0 and data.image.max() == 1
    assert data.label.dtype == np.int64 and (np.bincount(data.label) > 170).all() and data.classes == 10


def test_a_linear_model_reads_the_mnist_labels():
    """Images and labels belong together: a least-squares classifier is right far more often than one time in ten."""
    train, test = mnist.load().split(3000, seed=0)
    flat = train.image.reshape(len(train), -1)
    weights = np.linalg.lstsq(flat, np.eye(10)[train.label], rcond=1e-3)[0]
    assert ((test.image.reshape(len(test), -1) @ weights).argmax(1) == test.label).mean() > 0.75


def test_split_is_disjoint_complete_and_repeatable():
    data = digits.load()
    parts = data.split(300, 200, seed=5)
    assert [len(p) for p in parts] == [300, 200, 1297]
    assert sorted(x.tobytes() for p in parts for x in p.image) == sorted(x.tobytes() for x in data.image)
    assert np.array_equal(data.split(300, 200, seed=5)[1].image, parts[1].image)
    assert not np.array_equal(data.split(300, 200, seed=6)[1].image, parts[1].image)


def test_corruption_changes_exactly_the_share_and_never_to_the_true_class():
    label = np.arange(1000) % 10
    wrong = corrupt(label, 0.3, 10, seed=1)
    assert (wrong != label).sum() == 300 and set(wrong) <= set(range(10))
    assert np.array_equal(corrupt(label, 0, 10, seed=1), label)
    assert (np.bincount((wrong - label)[wrong != label] % 10, minlength=10)[1:] > 15).all()  # all nine wrong classes


def test_confusion_changes_exactly_the_share_and_always_to_the_next_class():
    label = np.arange(200) % 10
    wrong = confuse(label, 0.3, 10, seed=1)
    changed = wrong != label
    assert changed.sum() == 60 and np.array_equal(wrong[changed], (label[changed] + 1) % 10)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("diabetes", (442, 10)),
        ("longley", (16, 6)),
        ("stackloss", (21, 3)),
        ("randhie", (20190, 9)),
        ("macrodata", (203, 9)),
        ("autompg", (392, 7)),
    ],
)
def test_tables_have_their_published_shape(name, shape):
    table = uci.load(name)
    assert table.x.shape == shape and table.y.shape == shape[:1]
    assert np.isfinite(table.x).all() and table.y.std() > 0


def test_longley_has_its_certified_regression():
    """NIST's certified coefficient of the year: 1829.15146461355."""
    table = uci.load("longley")
    design = np.column_stack([np.ones(16), table.x])
    assert np.linalg.lstsq(design, table.y, rcond=None)[0][-1] == pytest.approx(1829.15146461355, rel=1e-6)


def test_split_standardises_with_training_rows_only():
    table = uci.load("diabetes")
    parts = uci.split(table, seed=3)
    assert [len(parts.y_train), len(parts.y_val), len(parts.y_test)] == [133, 132, 177]
    assert np.allclose(parts.x_train.mean(0), 0) and np.allclose(parts.x_train.std(0), 1)
    assert abs(parts.y_train.mean()) < 1e-12 and parts.y_train.std() == pytest.approx(1)
    assert abs(parts.x_test.mean(0)).max() > 1e-3
    rows = np.concatenate([parts.y_train, parts.y_val, parts.y_test]) * 1.0
    assert np.allclose(np.sort((rows - rows.mean()) / rows.std()), np.sort((table.y - table.y.mean()) / table.y.std()))


def test_wrong_requests_are_refused(monkeypatch):
    with pytest.raises(UserError, match="did you mean 'longley'"):
        uci.load("longly")
    with pytest.raises(UserError, match="sum to 1"):
        uci.split(uci.load("longley"), 0, shares=(0.5, 0.5, 0.5))
    with pytest.raises(UserError, match="more than the 1797"):
        digits.load().split(1800, seed=0)
    with pytest.raises(UserError, match="from 0 to 1"):
        corrupt(np.zeros(3, int), 30, 10, seed=0)
    monkeypatch.setitem(sys.modules, "statsmodels.datasets", None)
    with pytest.raises(UserError, match=r"pip install 'redistill\[tables\]'"):
        uci.load("star98")
