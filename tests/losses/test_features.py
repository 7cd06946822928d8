"""Hints and attention transfer against slow references, and what they do not see."""

from __future__ import annotations

import pytest
import torch

from redistill.core import UserError
from redistill.losses.features import attention, attention_transfer, hint


def maps(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


STUDENT, TEACHER = maps(0, 3, 4, 6, 6), maps(1, 3, 4, 6, 6)


@pytest.mark.parametrize("loss", [hint, attention_transfer])
def test_a_student_that_equals_its_teacher_has_no_loss_and_no_gradient(loss):
    student = TEACHER.clone().requires_grad_(True)
    value = loss(student, TEACHER)
    assert value.shape == (3,) and value.abs().max() == 0
    assert torch.autograd.grad(value.sum(), student)[0].abs().max() < 1e-12
    assert loss(STUDENT, TEACHER).min() > 1e-6


def test_a_hint_is_the_mean_square_of_every_row():
    slow = [((s - t) ** 2).mean() for s, t in zip(STUDENT, TEACHER)]
    torch.testing.assert_close(hint(STUDENT, TEACHER), torch.stack(slow))
    torch.testing.assert_close(hint(STUDENT[:, :, 0, 0], TEACHER[:, :, 0, 0]).shape, torch.Size([3]))


def test_attention_is_written_down():
    row = torch.stack([torch.stack([(STUDENT[0, :, i, j] ** 2).mean() for j in range(6)]) for i in range(6)]).flatten()
    torch.testing.assert_close(attention(STUDENT)[0], row / row.norm())
    other = attention(TEACHER)[0]
    torch.testing.assert_close(attention_transfer(STUDENT, TEACHER)[0], ((row / row.norm() - other) ** 2).mean())


def test_attention_sees_no_order_of_channels_and_no_positive_scale():
    changed = 3.0 * STUDENT[:, [2, 0, 3, 1]]
    torch.testing.assert_close(attention_transfer(changed, TEACHER), attention_transfer(STUDENT, TEACHER))
    assert not torch.allclose(hint(changed, TEACHER), hint(STUDENT, TEACHER))
    assert not torch.allclose(attention_transfer(STUDENT + 1, TEACHER), attention_transfer(STUDENT, TEACHER))


def test_the_larger_map_is_averaged_whichever_it_is():
    fine = TEACHER.repeat_interleave(2, 2).repeat_interleave(2, 3)
    for loss in (hint, attention_transfer):
        torch.testing.assert_close(loss(STUDENT, fine), loss(STUDENT, TEACHER))
        torch.testing.assert_close(loss(fine, STUDENT), loss(TEACHER, STUDENT))


def test_attention_takes_more_channels_and_tokens_but_no_vectors():
    assert attention_transfer(maps(2, 3, 9, 6, 6), TEACHER).shape == (3,)
    tokens = maps(3, 2, 5, 8)
    torch.testing.assert_close(attention(tokens), attention(tokens.transpose(1, 2)[..., None]))
    with pytest.raises(UserError, match="layers"):
        attention(maps(0, 2, 5))
