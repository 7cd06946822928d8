from __future__ import annotations

from typing import Any

import torch

from redistill.core import Method
from redistill.methods.supervised.mekd import Mekd
from redistill.models.gan import mlp_discriminator, mlp_generator
from redistill.models.nets import mlp
from tests.methods.cases import random_rows


def case() -> tuple[Method, Any]:
    torch.manual_seed(0)
    gan = mlp_generator(3, (6,), (8,), norm=False), mlp_discriminator(6, (8,), dropout=0.0)
    method = Mekd(mlp(6, 3, [8]), mlp(6, 3, [12]), *gan, classes=3, gan_steps=2, pool=8, image_weight=5.0)
    return method.double(), {"image": random_rows(22, 6)}
