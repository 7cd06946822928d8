from __future__ import annotations

from typing import Any

import torch

from redistill.core import Method
from redistill.methods.analysis.guided_targets import GuidedTargets
from redistill.models.nets import mlp
from tests.methods.cases import random_rows


def case() -> tuple[Method, Any]:
    torch.manual_seed(0)
    method = GuidedTargets(mlp(6, 3, [8]), mlp(6, 3, [8]), alpha=0.35, penalty=0.0)  # norms refuse shards
    return method.double(), {"image": random_rows(22, 6), "label": torch.arange(22) % 3}
