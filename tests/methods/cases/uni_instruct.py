from __future__ import annotations

from typing import Any

import torch

from redistill.core import Method
from redistill.diffusion.denoiser import Denoiser
from redistill.diffusion.discriminator import TokenHead
from redistill.diffusion.nets import DenoiserMlp
from redistill.diffusion.paths import Edm
from redistill.methods.score.uni_instruct import UniInstruct
from tests.methods.cases import random_rows


def case() -> tuple[Method, Any]:
    torch.manual_seed(0)
    edm = {"path": Edm(0.3, 10.0), "kind": "edm", "scale_input": True}  # less noise would magnify rounding
    student, teacher = (Denoiser(DenoiserMlp(2, 16), time_scale=1.0, **edm) for _ in range(2))
    method = UniInstruct(student, teacher, TokenHead(16), gan_student=0.1, decay=0.9)
    return method.double(), {"image": random_rows(22, 2)}
