from __future__ import annotations

from typing import Any

import torch

from redistill.core import Method
from redistill.diffusion.denoiser import Denoiser
from redistill.diffusion.discriminator import TokenHead
from redistill.diffusion.nets import DenoiserMlp
from redistill.methods.score.dmd2 import Dmd2
from tests.methods.cases import random_rows


def case() -> tuple[Method, Any]:
    torch.manual_seed(0)
    student, teacher = (Denoiser(DenoiserMlp(2, 16), time_scale=1.0) for _ in range(2))
    method = Dmd2(student, teacher, None, TokenHead(16), steps=2, critic_turns=2, gan_student=0.1, gan_critic=0.1)
    return method.double(), {"image": random_rows(22, 2)}
