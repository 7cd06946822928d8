from __future__ import annotations

from typing import Any

import torch

from redistill.core import Method
from redistill.methods.supervised.lsskd import Lsskd
from redistill.models.nets import mlp
from tests.methods.cases import random_rows


def case() -> tuple[Method, Any]:
    torch.manual_seed(0)  # stages of vectors: their branches have no batch norm, which would mix the rows
    net, shape = mlp(72, 3, (8, 6)), [2, 6, 6]
    method = Lsskd(net, layers=["2", "4"], input_shape=shape, rows=22, classes=3, ramp=0.5)
    return method.double(), {"image": random_rows(22, 2, 6, 6), "label": torch.arange(22) % 3}
