"""Norms are not squared, and shards are refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from redistill.core.errors import UserError
from redistill.methods.analysis.guided_targets import penalties
from redistill.methods.analysis.guided_targets.penalties import sum_of_norms


def test_every_parameter_is_pulled_with_force_one():
    net = nn.Linear(3, 2)
    penalty = sum_of_norms(net)
    assert penalty.item() == pytest.approx(float(net.weight.norm() + net.bias.norm()))
    penalty.backward()
    assert float(net.weight.grad.norm()) == pytest.approx(1.0)
    assert torch.allclose(net.weight.grad, net.weight / net.weight.norm())


def test_shards_are_refused(monkeypatch):
    monkeypatch.setattr(penalties, "DTensor", nn.Parameter)  # as if every weight were sharded
    with pytest.raises(UserError, match="replicate"):
        sum_of_norms(nn.Linear(3, 2))
