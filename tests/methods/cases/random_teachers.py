from __future__ import annotations

from typing import Any

import torch

from redistill.core import Method
from redistill.methods.analysis.random_teachers import RandomTeachers
from redistill.methods.analysis.random_teachers.dino import EveryStep
from redistill.models.nets import mlp
from tests.methods.cases import random_rows


def case() -> tuple[Method, Any]:
    torch.manual_seed(0)
    method = RandomTeachers(mlp(6, 3, [8]), mlp(6, 3, [8]), following=EveryStep(0.9))
    return method.double(), {"image": random_rows(22, 6)}
