"""Evaluation mode for a while: whoever asks a network leaves it as it was, batch norms that somebody froze as well."""

import pytest
import torch
from torch import nn

from redistill.core.method import bare_progress
from redistill.core.modes import evaluating
from redistill.methods.analysis.random_teachers import probing
from redistill.methods.supervised.adr import attacks
from redistill.methods.supervised.pruned_data_kd import pruning
from redistill.supervised.layers import feature_shapes
from redistill.supervised.predict import predict

IMAGE, LABEL = torch.linspace(0, 1, 32).view(2, 1, 4, 4), torch.tensor([0, 1])


def half_frozen():
    """A classifier in training mode whose batch norm is frozen."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2))
    net[1].eval()
    return net


def modes(net):
    return [module.training for module in net.modules()]


def test_every_module_of_every_network_gets_its_mode_back_whatever_happens():
    one, other = half_frozen(), nn.Dropout().eval()
    before = modes(one)
    with pytest.raises(ZeroDivisionError), evaluating(one, other):
        assert not any(modes(one) + modes(other))
        raise ZeroDivisionError
    assert modes(one) == before and modes(other) == [False]


@pytest.mark.parametrize(
    "ask",
    [
        lambda net: predict(net, {"image": IMAGE, "label": LABEL}),
        lambda net: feature_shapes(net, ["0"], (1, 4, 4)),
        lambda net: probing.embed(net, IMAGE),
        lambda net: pruning.grand(net, IMAGE, LABEL),
    ],
    ids=["predict", "feature_shapes", "embed", "grand"],
)
def test_asking_leaves_frozen_batch_norms_frozen(ask):
    net = half_frozen()
    before = modes(net)
    ask(net)
    assert modes(net) == before


def test_an_attack_leaves_frozen_batch_norms_frozen():
    net = half_frozen()
    before = modes(net)
    attacks.Pgd(steps=1)(net, IMAGE, torch.eye(2), bare_progress())
    assert modes(net) == before
