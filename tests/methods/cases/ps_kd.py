from __future__ import annotations

from typing import Any

import torch

from redistill.core import Method
from redistill.methods.supervised.ps_kd import PsKd
from redistill.models.nets import mlp
from tests.methods.cases import random_rows


def case() -> tuple[Method, Any]:
    torch.manual_seed(0)
    data = {"image": random_rows(22, 6), "label": torch.arange(22) % 3}
    return PsKd(mlp(6, 3, [8]), rows=22, classes=3).double(), data
