"""Heads on frozen embeddings of a few examples."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from redistill.methods.supervised.rfs import heads
from redistill.models.nets import staged_convnet

RNG = np.random.default_rng(0)
SUPPORT, TARGET, QUERY = RNG.standard_normal((15, 6)), np.repeat(np.arange(3), 5), RNG.standard_normal((20, 6))


def test_logistic_head_is_sklearns():
    theirs = LogisticRegression(C=0.7, tol=1e-10, max_iter=5000).fit(SUPPORT, TARGET).predict_proba(QUERY)
    ours = torch.from_numpy(heads.logistic(SUPPORT, TARGET, QUERY, C=0.7)).softmax(1).numpy()
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_normalised_logistic_ignores_the_length_of_any_embedding():
    scale_s, scale_q = RNG.uniform(0.1, 9, (15, 1)), RNG.uniform(0.1, 9, (20, 1))
    plain = heads.logistic(heads.unit(SUPPORT), TARGET, heads.unit(QUERY))
    np.testing.assert_allclose(
        heads.logistic(heads.unit(scale_s * SUPPORT), TARGET, heads.unit(scale_q * QUERY)), plain
    )
    raw = [heads.logistic(s, TARGET, QUERY) for s in (SUPPORT, scale_s * SUPPORT)]
    assert np.abs(raw[0] - raw[1]).max() > 0.01


def test_one_shot_neighbours_of_unit_rows_are_cosine_neighbours():
    one, label = SUPPORT[:4], np.arange(4)
    nearest = heads.nearest(heads.unit(one), label, heads.unit(QUERY)).argmax(1)
    assert np.array_equal(nearest, heads.cosine(one, label, QUERY).argmax(1))
    assert np.array_equal(nearest, heads.prototype(heads.unit(one), label, heads.unit(QUERY)).argmax(1))
    assert not np.array_equal(heads.nearest(5 ** label[:, None] * one, label, QUERY).argmax(1), nearest)


def test_nearest_looks_at_rows_and_prototype_at_means():
    support, label = np.array([[0.0], [4.0], [1.5], [1.5]]), np.array([0, 0, 1, 1])
    query = np.array([[0.1]])
    assert heads.nearest(support, label, query).argmax() == 0 and heads.prototype(support, label, query).argmax() == 1
    np.testing.assert_allclose(heads.prototype(support, label, query), [[-(1.9**2), -(1.4**2)]])


def test_unit_rows_have_length_one_and_zeros_stay():
    np.testing.assert_allclose(np.linalg.norm(heads.unit(QUERY), axis=1), 1)
    assert np.array_equal(heads.unit(np.zeros((1, 3))), np.zeros((1, 3)))


def test_embedding_is_what_the_head_reads_in_evaluation_mode_and_the_mode_comes_back():
    net = staged_convnet(1, 3, (4, 5)).train()
    image = torch.randn(7, 1, 6, 6)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    found = heads.embed(net, image, batch_size=2)
    assert net.training and all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    net.head = nn.Identity()
    np.testing.assert_allclose(found, net.eval()(image).detach().double().numpy(), atol=1e-6)
    assert found.shape == (7, 5) and found.dtype == np.float64


def test_interval_is_the_t_interval():
    mean, half = heads.interval(np.array([0.2, 0.4, 0.6]))
    assert mean == pytest.approx(0.4) and half == pytest.approx(4.302653 * 0.2 / np.sqrt(3), rel=1e-5)
