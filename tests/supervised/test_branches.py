"""Branches after named stages, and the shapes that they are built for."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from redistill.core import UserError
from redistill.models.nets import mlp, staged_convnet
from redistill.supervised.branches import Branches
from redistill.supervised.layers import feature_shapes, logits_and_features, pooled

STAGES = ["stage1", "stage2", "stage3"]


def test_a_branch_is_as_deep_as_what_remains_and_ends_at_the_width_of_the_last_stage():
    net, image = staged_convnet(1, 10, (4, 8, 16)), torch.randn(2, 1, 16, 16)
    shapes = feature_shapes(net, STAGES, (1, 16, 16))
    assert shapes == [(4, 16, 16), (8, 8, 8), (16, 4, 4)]
    branches = Branches(shapes, 40)
    assert [len(body) for body in branches.bodies] == [2, 1, 0]
    z, found = logits_and_features(net, {"image": image}, STAGES)
    scores, embeddings = branches(found)
    assert z.shape == (2, 10) and [s.shape for s in scores] == [(2, 40)] * 3
    assert [body(f).shape for body, f in zip(branches.bodies, found)] == [(2, 16, 4, 4)] * 3
    torch.testing.assert_close(embeddings[-1], found[-1].mean((2, 3)))


def test_fewer_branches_than_stages_leave_the_deepest_without():
    branches = Branches([(4, 16, 16), (8, 8, 8), (16, 4, 4)], 10, on=2)
    assert len(branches.heads) == 2
    scores, embeddings = branches([torch.randn(2, 4, 16, 16), torch.randn(2, 8, 8, 8), torch.randn(2, 16, 4, 4)])
    assert len(scores) == len(embeddings) == 2


def test_vectors_tokens_and_maps_that_become_vectors_have_branches_too():
    net = mlp(6, 3, (8, 5))
    shapes = feature_shapes(net, ["1", "3"], (6,))
    _, found = logits_and_features(net, {"image": torch.randn(4, 6)}, ["1", "3"])
    assert [s.shape for s in Branches(shapes, 3)(found)[0]] == [(4, 3)] * 2
    tokens = [torch.randn(2, 7, 6), torch.randn(2, 7, 4)]
    assert [s.shape for s in Branches([(7, 6), (7, 4)], 3)(tokens)[0]] == [(2, 3)] * 2
    torch.testing.assert_close(pooled(tokens[0]), tokens[0].mean(1))
    mixed = [torch.randn(2, 4, 8, 8), torch.randn(2, 5)]
    assert [s.shape for s in Branches([(4, 8, 8), (5,)], 3)(mixed)[0]] == [(2, 3)] * 2


def test_measuring_shapes_leaves_the_network_as_it_was():
    net = staged_convnet(1, 10).train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    feature_shapes(net, STAGES, (1, 8, 8))
    assert net.training and all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    with pytest.raises(UserError, match="stage2"):
        feature_shapes(net, ["stag2"], (1, 8, 8))


def test_maps_with_channels_last_are_refused():
    class Last(nn.Module):
        def forward(self, x):
            return x.permute(0, 2, 3, 1)

    net = nn.Sequential(nn.Conv2d(1, 24, 3, 2, 1), Last())
    assert feature_shapes(net, ["0"], (1, 16, 12)) == [(24, 8, 6)]
    with pytest.raises(UserError, match="channels last"):
        feature_shapes(net, ["1"], (1, 16, 12))
