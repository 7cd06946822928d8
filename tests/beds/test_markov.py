"""The Markov source: its entropy, its text, and the exact model as the best teacher there is."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from redistill.beds import markov
from redistill.methods.analysis.scaling_laws.runs import cross_entropy

SOURCE = markov.random_source(0, symbols=8)


def test_the_table_is_one_of_probabilities_and_pairs_are_stationary():
    np.testing.assert_allclose(SOURCE.table.sum(-1), 1)
    assert SOURCE.pairs.sum() == pytest.approx(1)
    np.testing.assert_allclose(np.einsum("ab,abc->bc", SOURCE.pairs, SOURCE.table), SOURCE.pairs, atol=1e-12)
    assert not np.allclose(markov.random_source(1, symbols=8).table, SOURCE.table)


def test_text_has_the_frequencies_of_the_source_and_comes_from_the_seed():
    text = SOURCE.text(4000, 10, seed=0)
    assert text.shape == (4000, 10) and torch.equal(text, SOURCE.text(4000, 10, seed=0))
    assert not torch.equal(text, SOURCE.text(4000, 10, seed=1))
    for t in (1, 9):
        seen = np.bincount(8 * text[:, t - 1] + text[:, t], minlength=64).reshape(8, 8) / 4000
        assert np.abs(seen - SOURCE.pairs).max() < 0.015
    a, b = np.unravel_index(SOURCE.pairs.argmax(), (8, 8))
    rows = (text[:, 3] == int(a)) & (text[:, 4] == int(b))
    after = np.bincount(text[rows, 5], minlength=8) / int(rows.sum())
    assert np.abs(after - SOURCE.table[a, b]).max() < 0.05


def test_the_exact_model_reaches_the_entropy_and_nothing_goes_below():
    text, exact = SOURCE.text(3000, 60, seed=2), markov.ExactModel(SOURCE)
    torch.testing.assert_close(exact(text).exp().sum(-1), torch.ones(3000, 60))
    loss = cross_entropy(exact, text)  # its first prediction of a row knows one symbol only
    assert SOURCE.entropy < loss < SOURCE.entropy + 0.02
    blurred = markov.ExactModel(markov.Source(0.9 * SOURCE.table + 0.1 / 8))
    assert cross_entropy(blurred, text) > loss + 0.01


def test_the_first_position_knows_one_symbol_only():
    exact = markov.ExactModel(SOURCE)
    scores = exact(torch.tensor([[3, 5, 1]]))[0].exp().numpy()
    pairs_then = SOURCE.pairs[:, 3, None] * SOURCE.table[:, 3]
    np.testing.assert_allclose(scores[0], pairs_then.sum(0) / pairs_then.sum(), rtol=1e-5)
    np.testing.assert_allclose(scores[1:], SOURCE.table[[3, 5], [5, 1]], rtol=1e-5)


def test_students_come_from_the_seed():
    one, same, other = (markov.student(8, 16, seed) for seed in (0, 0, 1))
    ids = torch.arange(6)[None]
    torch.testing.assert_close(one(ids), same(ids))
    assert one(ids).shape == (1, 6, 8) and not torch.allclose(one(ids), other(ids))
