"""Index files: written once, read by any data set of the same length."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from redistill.core.errors import UserError
from redistill.data import Picked, pick, read_picked, write_picked


@pytest.fixture
def file(tmp_path):
    write_picked(tmp_path / "kept.npz", np.array([1, 4, 5]), 6, score=np.arange(6.0))
    return tmp_path / "kept.npz"


def test_an_index_file_gives_back_rows_and_scores(file):
    assert read_picked(file, 6).tolist() == [1, 4, 5]
    with np.load(file, allow_pickle=False) as arrays:
        assert arrays["score"].tolist() == [0, 1, 2, 3, 4, 5]


def test_columns_lists_and_data_sets_are_picked_alike(file):
    columns = pick({"label": np.arange(6), "image": np.arange(12).reshape(6, 2)}, file)
    assert columns["label"].tolist() == [1, 4, 5] and columns["image"].tolist() == [[2, 3], [8, 9], [10, 11]]
    assert list(pick(list("abcdef"), file)) == list("bef")


def test_a_picked_data_set_answers_like_the_whole_one():
    class Data(list):
        classes = ("x", "y")

    picked = copy.deepcopy(Picked(Data("abc"), np.array([2, 0])))
    assert len(picked) == 2 and picked[0] == "c" and picked.classes == ("x", "y")
    assert not hasattr(picked, "nothing")


@pytest.mark.parametrize(
    ("rows", "total", "part"),
    [([1], 5, "of 5, this one has 6"), ([6], 6, "outside 0..5"), ([-1], 6, "outside"), ([], 6, "no rows")],
)
def test_a_file_that_does_not_fit_is_refused(tmp_path, rows, total, part):
    write_picked(tmp_path / "kept.npz", np.array(rows, int), total)
    with pytest.raises(UserError, match=part):
        read_picked(tmp_path / "kept.npz", 6)


def test_what_is_no_index_file_is_refused(tmp_path):
    np.savez(tmp_path / "other.npz", x=np.arange(3))
    for name, part in (("other.npz", "is no index file"), ("missing.npz", "no such file")):
        with pytest.raises(UserError, match=part):
            read_picked(tmp_path / name, 3)
