from __future__ import annotations

from typing import Any

import torch

from redistill.core import Method
from redistill.methods.supervised.sla import Sla
from redistill.models.nets import convnet
from tests.methods.cases import random_rows


def case(**options: float) -> tuple[Method, Any]:
    torch.manual_seed(0)
    data = {"image": random_rows(22, 2, 6, 6), "label": torch.arange(22) % 3}
    return Sla(convnet(2, 3, (4, 6)), joint_weight=4.0, **options).double(), data
