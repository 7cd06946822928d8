from __future__ import annotations

from typing import Any

import torch

from redistill.core import Method
from redistill.diffusion.denoiser import Denoiser
from redistill.diffusion.nets import DenoiserMlp
from redistill.methods.score.sid import Sid
from tests.methods.cases import random_rows


def case() -> tuple[Method, Any]:
    torch.manual_seed(0)
    student, teacher = (Denoiser(DenoiserMlp(2, 16), time_scale=1.0) for _ in range(2))
    return Sid(student, teacher, critic_turns=2, decay=0.9).double(), {"image": random_rows(22, 2)}
