"""What is given to :func:`fit` in Python and cannot work: one line that names the remedy."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from redistill.core import Plan, fit
from redistill.core.errors import UserError
from redistill.losses.fused import Head, fused_divergence
from redistill.supervised.classifier import Classification

PLAN = Plan(steps=1, batch_size=4, device="cpu")
ROWS = {"image": torch.zeros(4, 3), "label": torch.zeros(4, dtype=torch.int64)}


def test_a_plain_network_is_no_method():
    with pytest.raises(UserError, match="method: a Linear is no Method; wrap it, as Classification"):
        fit(nn.Linear(3, 2), ROWS, PLAN)


@pytest.mark.parametrize(("column", "remedy"), [("imgae", "did you mean 'imgae'"), ("x", "valid: x")])
def test_a_mistyped_column_is_named_and_not_what_a_text_would_have(column, remedy):
    rows = {column: ROWS["image"], "label": ROWS["label"]}
    with pytest.raises(UserError, match=f"data: a classifier reads the column 'image'.*{remedy}"):
        fit(Classification(nn.Linear(3, 2)), rows, PLAN)


def test_a_plain_layer_is_no_head():
    hidden, layer = torch.randn(5, 4), nn.Linear(4, 7)
    with pytest.raises(UserError, match=r"teacher_head: expected a Head, got a Linear; give Head.of\(layer\)"):
        fused_divergence(hidden, Head.of(layer), hidden, layer)
