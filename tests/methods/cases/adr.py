from __future__ import annotations

from typing import Any

import torch

from redistill.core import Method
from redistill.methods.supervised.adr import Adr
from redistill.methods.supervised.adr.attacks import Trades
from redistill.models.nets import mlp
from tests.methods.cases import random_rows


def case() -> tuple[Method, Any]:
    torch.manual_seed(0)
    data = {"image": random_rows(22, 6).sigmoid(), "label": torch.arange(22) % 3}
    return Adr(mlp(6, 3, [8]), attack=Trades(eps=0.1, step=0.05, steps=2)).double(), data
