from __future__ import annotations

from typing import Any

import torch

from redistill.core import Method
from redistill.methods.supervised.sd_darts import SdDarts
from redistill.models.cells import CellNet
from redistill.rivals.darts import halves
from tests.methods.cases import random_rows


def case() -> tuple[Method, Any]:
    torch.manual_seed(0)
    data = halves({"image": random_rows(28, 2, 6, 6), "label": torch.arange(28) % 3})
    supernet = CellNet(2, 3, widths=(4, 6), nodes=3, norm="group").double()
    return SdDarts(supernet, snapshots=2, warmup=0.3, distil_alpha=True).double(), data
