"""Features of named layers, and the network afterwards."""

from __future__ import annotations

import pytest
import torch

from redistill.core import UserError
from redistill.models.features import features
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
