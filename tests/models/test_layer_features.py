"""Features of named layers, and the network afterwards."""

from __future__ import annotations

import pytest
import torch

from redistill.core import UserError
from redistill.models.features import classifier_layer, features, scores_and_embedding
from redistill.models.nets import staged_convnet


def test_features_are_what_the_layers_put_out_and_no_hook_remains():
    net, image = staged_convnet(1, 10, (4, 8, 16)).eval(), torch.randn(2, 1, 16, 16)
    out, (low, pooled) = features(net, ["stage2", "pool"], image)
    torch.testing.assert_close(low, net.stage2(net.stage1(image)))
    torch.testing.assert_close(out, net.head(pooled))
    assert (low.shape, pooled.shape) == ((2, 8, 8, 8), (2, 16))
    assert not any(module._forward_hooks for module in net.modules())


def test_a_wrong_layer_is_named_with_the_nearest():
    with pytest.raises(UserError, match="stage2"):
        features(staged_convnet(1, 10), ["stag2"], torch.randn(1, 1, 8, 8))


def test_hooks_are_removed_when_the_forward_pass_fails():
    net = staged_convnet(1, 10)
    with pytest.raises(RuntimeError):
        features(net, ["stage1"], torch.randn(1, 3, 8, 8))
    assert not any(module._forward_hooks for module in net.modules())


def test_the_embedding_is_what_the_last_linear_layer_reads():
    net, image = staged_convnet(1, 10, (4, 8, 16)).eval(), torch.randn(2, 1, 16, 16)
    assert classifier_layer(net) == "head"
    scores, embedding = scores_and_embedding(net, "head", image)
    torch.testing.assert_close(scores, net.head(embedding))
    assert embedding.shape == (2, 16) and not net.head._forward_pre_hooks


def test_a_network_without_linear_layers_and_a_layer_that_reads_maps_are_refused():
    with pytest.raises(UserError, match="no linear layer"):
        classifier_layer(torch.nn.Conv2d(1, 1, 1))
    with pytest.raises(UserError, match="not one vector a row"):
        scores_and_embedding(staged_convnet(1, 10), "pool", torch.randn(2, 1, 8, 8))
