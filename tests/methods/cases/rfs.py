from __future__ import annotations

from typing import Any

import torch

from redistill.core import Method
from redistill.methods.supervised.rfs import Rfs
from redistill.models.nets import convnet
from tests.methods.cases import random_rows


def case() -> tuple[Method, Any]:
    torch.manual_seed(0)
    data = {"image": random_rows(22, 3, 6, 6), "label": torch.arange(22) % 3}
    nets = [convnet(3, 3, (4, 6)) for _ in range(2)]
    return Rfs(*nets).double(), data
