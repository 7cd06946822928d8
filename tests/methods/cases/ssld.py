from __future__ import annotations

from typing import Any

import torch

from redistill.core import Method
from redistill.methods.supervised.ssld import Ssld
from redistill.models.nets import mlp
from tests.methods.cases import random_rows


def case() -> tuple[Method, Any]:
    torch.manual_seed(0)
    return Ssld(mlp(6, 3, [8]), mlp(6, 3, [12])).double(), {"image": random_rows(22, 6)}
