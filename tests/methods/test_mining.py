"""Mining: at most k rows a class, the surest ones, and no copy of a held-out row."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from redistill.core import UserError
from redistill.methods.supervised.ssld.mining import duplicates, top_k_per_class


def test_the_surest_rows_of_each_class_and_no_more():
    p = np.array([[0.9, 0.1, 0.0], [0.6, 0.4, 0.0], [0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.3, 0.3, 0.4]])
    assert top_k_per_class(p, 2).tolist() == [0, 2, 3, 4]
    assert top_k_per_class(p, 1).tolist() == [0, 3, 4]
    assert top_k_per_class(p[:3], 2).tolist() == [0, 2]  # two classes that nobody belongs to


def test_no_class_gives_more_than_k():
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(7), 500)
    kept = top_k_per_class(p, 20)
    assert len(set(kept)) == len(kept)
    assert np.bincount(p[kept].argmax(1), minlength=7).max() == 20
    for c in range(7):
        mine = p[kept][p[kept].argmax(1) == c].max(1)
        others = np.setdiff1d(np.flatnonzero(p.argmax(1) == c), kept)
        assert mine.min() >= p[others].max(1).max()


def test_copies_are_found_whatever_their_brightness():
    rng = np.random.default_rng(1)
    held, pool = rng.random((30, 1, 6, 6)), rng.random((50, 1, 6, 6))
    pool[7], pool[11], pool[13] = held[3], 0.5 * held[4] + 0.2, held[5] + 0.01 * rng.random((1, 6, 6))
    assert np.flatnonzero(duplicates(pool, held, block=16)).tolist() == [7, 11, 13]
    assert not duplicates(np.ones((2, 4)), np.ones((2, 4))).any()


def test_nothing_is_a_copy_where_nothing_is_held_and_tensors_will_do():
    some, none = np.random.default_rng(2).random((5, 4)), np.zeros((0, 4))
    assert (
        not duplicates(some, none).any() and duplicates(none, some).shape == (0,) and len(duplicates(some, none)) == 5
    )
    p = torch.from_numpy(some).softmax(1)
    assert top_k_per_class(p, 2).tolist() == top_k_per_class(p.numpy(), 2).tolist()
    assert duplicates(p, p).all() and len(top_k_per_class(none, 2)) == 0


def test_senseless_sizes_are_refused():
    with pytest.raises(UserError, match="k=0"):
        top_k_per_class(np.ones((2, 2)) / 2, 0)
    with pytest.raises(UserError, match="threshold=2"):
        duplicates(np.ones((2, 2)), np.ones((2, 2)), 2)
