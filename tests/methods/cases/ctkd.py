from __future__ import annotations

from typing import Any

import torch

from redistill.core import Method
from redistill.methods.supervised.ctkd import Ctkd
from redistill.models.nets import mlp
from redistill.supervised.temperature import InstanceCurriculum
from tests.methods.cases import random_rows


def case() -> tuple[Method, Any]:
    torch.manual_seed(0)
    data = {"image": random_rows(22, 6), "label": torch.arange(22) % 3}
    each = InstanceCurriculum(3, hidden=4, low=0.5, span=2.0)
    return Ctkd(mlp(6, 3, [8]), mlp(6, 3, [12]), temperature=each).double(), data
