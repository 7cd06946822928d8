from __future__ import annotations

from typing import Any

import torch

from redistill.core import Method
from redistill.diffusion.denoiser import Denoiser
from redistill.diffusion.nets import DenoiserMlp
from redistill.diffusion.paths import Cosine
from redistill.methods.trajectory.progressive import Progressive
from tests.methods.cases import random_rows


def case() -> tuple[Method, Any]:
    torch.manual_seed(0)
    nets = (Denoiser(DenoiserMlp(2, 16, classes=3), path=Cosine(), kind="v", time_scale=1.0) for _ in range(2))
    method = Progressive(*nets, steps=4, start=0.995, condition="label", guidance=2.0, null=3)
    return method.double(), {"image": random_rows(22, 2), "label": torch.arange(22) % 3}
