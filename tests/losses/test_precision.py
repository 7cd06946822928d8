"""Losses of features are taken in float32, also of half-precision features and under autocast."""

from __future__ import annotations

import pytest
import torch

from redistill.losses.features import attention_transfer, hint
from redistill.losses.relations import angle_relation, centred_alignment, distance_relation, similarity_relation

LOSSES = [angle_relation, attention_transfer, centred_alignment, distance_relation, hint, similarity_relation]


@pytest.mark.parametrize("loss", LOSSES, ids=lambda f: f.__name__)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_raised(loss, dtype):
    random = torch.Generator().manual_seed(0)
    maps = (100 * torch.randn(2, 6, 8, 3, 3, generator=random)).to(dtype)  # whose squares float16 cannot hold
    student, teacher = maps if loss in (hint, attention_transfer) else maps.flatten(2)
    student.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(student, teacher)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value.double(), loss(student.double(), teacher.double()), rtol=1e-4, atol=1e-4)
    assert torch.autograd.grad(value.sum(), student)[0].isfinite().all()
