"""Probes against cases whose answer is known; the encoder is left alone."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from redistill.core.followers import same_weights
from redistill.methods.analysis.random_teachers import probing
from redistill.models.nets import staged_convnet

RNG = np.random.default_rng(0)
LABEL = np.arange(120) % 3
X = RNG.standard_normal((120, 5))


@pytest.mark.parametrize("probe", [probing.linear_probe, probing.knn_probe])
def test_separable_classes_are_found_and_noise_is_not(probe):
    apart = X + 20 * np.eye(3)[LABEL] @ RNG.standard_normal((3, 5))
    assert probe(apart[:80], LABEL[:80], apart[80:], LABEL[80:]) == 1.0
    assert probe(X[:80], LABEL[:80], X[80:], LABEL[80:]) < 0.6


@pytest.mark.parametrize("probe", [probing.linear_probe, probing.knn_probe])
def test_scale_and_shift_of_features_do_not_matter(probe):
    noisy = X + np.eye(3)[LABEL] @ RNG.standard_normal((3, 5))
    moved = noisy * [1, 10, 100, 0.1, 0.01] + 5
    parts = [probe(x[:80], LABEL[:80], x[80:], LABEL[80:]) for x in (noisy, moved)]
    assert parts[0] == parts[1]


def test_nearest_neighbours_vote():
    train, label = np.array([[0.0], [1.0], [2.0], [9.0]]), np.array([0, 0, 0, 1])
    assert probing.knn_probe(train, label, np.array([[9.1]]), np.array([1]), k=1) == 1.0
    assert probing.knn_probe(train, label, np.array([[9.1]]), np.array([1]), k=3) == 0.0


def test_probing_leaves_the_encoder_as_it_is():
    encoder, image = staged_convnet(1, 3, [4]).train(), torch.randn(9, 1, 6, 6)
    before = copy.deepcopy(encoder)
    found = probing.embed(encoder, image, batch=4)
    assert found.shape == (9, 3) and encoder.training and same_weights(encoder, before)
    np.testing.assert_allclose(found, before.eval()(image).detach(), rtol=1e-5, atol=1e-6)


def test_statistics_are_those_of_the_images_and_the_network_keeps_its_own():
    net, image = staged_convnet(1, 3, [4]), 3 + 2 * torch.randn(64, 1, 6, 6)
    before = copy.deepcopy(net)
    filled = probing.with_statistics(net, image)
    pre = net.stage1[0][0](image)
    torch.testing.assert_close(filled.stage1[0][1].running_mean, pre.mean((0, 2, 3)))
    torch.testing.assert_close(filled.stage1[0][1].running_var, pre.var((0, 2, 3)))
    assert same_weights(net, before) and not filled.training


def test_effective_rank_counts_directions():
    equal = np.linalg.qr(X - X.mean(0))[0]
    assert probing.effective_rank(equal) == pytest.approx(5)
    assert probing.effective_rank(np.outer(RNG.standard_normal(40), [1, 2, 3])) == pytest.approx(1)
