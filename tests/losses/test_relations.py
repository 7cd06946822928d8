"""Relations between rows against loops over pairs and triples, and what they do not see."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import normalize, smooth_l1_loss

from redistill.core import UserError
from redistill.losses import relations
from redistill.losses.relations import angle_relation, angles, distance_relation, distances, similarity_relation


def vectors(seed: int, rows: int = 5, size: int = 4) -> torch.Tensor:
    return torch.randn(rows, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


STUDENT, TEACHER = vectors(0), vectors(1, size=7)
LOSSES = [distance_relation, angle_relation, similarity_relation]


@pytest.mark.parametrize("loss", LOSSES)
def test_a_student_that_equals_its_teacher_has_no_loss_and_no_gradient(loss):
    student = TEACHER.clone().requires_grad_(True)
    value = loss(student, TEACHER)
    assert value.shape == () and value.detach().abs() < 1e-14
    assert torch.autograd.grad(value, student)[0].abs().max() < 1e-12
    assert loss(STUDENT, TEACHER) > 1e-4


@pytest.mark.parametrize("loss", [distance_relation, angle_relation])
def test_rkd_sees_no_rotation_shift_or_scale_of_the_embedding(loss):
    rotation = torch.linalg.qr(vectors(2, 4, 4))[0]
    moved = 3.0 * STUDENT @ rotation + vectors(3, 1, 4)
    torch.testing.assert_close(loss(moved, TEACHER), loss(STUDENT, TEACHER))
    stretched = STUDENT * torch.tensor([3.0, 1, 1, 1], dtype=torch.float64)
    assert abs(float(loss(stretched, TEACHER) - loss(STUDENT, TEACHER))) > 1e-5


def test_distances_and_angles_equal_loops():
    pairs = torch.stack([torch.stack([(a - b).norm() for b in STUDENT]) for a in STUDENT])
    slow = pairs / pairs[pairs > 0].mean()
    torch.testing.assert_close(distances(STUDENT), slow)
    triples = torch.zeros(5, 5, 5, dtype=torch.float64)
    for i in range(5):
        for j in range(5):
            for k in range(5):
                if i not in (j, k):
                    to_j, to_k = STUDENT[j] - STUDENT[i], STUDENT[k] - STUDENT[i]
                    triples[i, j, k] = to_j @ to_k / (to_j.norm() * to_k.norm())
    torch.testing.assert_close(angles(STUDENT), triples)
    torch.testing.assert_close(distance_relation(STUDENT, TEACHER), smooth_l1_loss(slow, distances(TEACHER)))


def test_rows_that_coincide_have_finite_gradients():
    student = STUDENT[[0, 0, 1, 2]].clone().requires_grad_(True)
    value = distance_relation(student, TEACHER[:4]) + angle_relation(student, TEACHER[:4])
    assert torch.autograd.grad(value, student)[0].isfinite().all()
    assert float(distances(torch.ones(3, 2)).abs().max()) == 0


def test_similarity_is_a_mean_over_pairs():
    s, t = (normalize(f @ f.T, dim=1) for f in (STUDENT, TEACHER))
    torch.testing.assert_close(similarity_relation(STUDENT, TEACHER), ((s - t) ** 2).sum() / 25)


def test_too_few_rows_are_refused():
    with pytest.raises(UserError, match="batches of 3 or more"):
        angle_relation(STUDENT[:2], TEACHER[:2])


def test_similarities_see_no_rotation_and_alignment_is_one_for_it():
    rotation = torch.linalg.qr(vectors(2, 4, 4))[0]
    torch.testing.assert_close(
        similarity_relation(2 * STUDENT @ rotation, TEACHER), similarity_relation(STUDENT, TEACHER)
    )
    one = torch.ones((), dtype=torch.float64)
    torch.testing.assert_close(relations.centred_alignment(2 * STUDENT @ rotation + 1, STUDENT), one)
    s, t = STUDENT - STUDENT.mean(0), TEACHER - TEACHER.mean(0)
    slow = ((s @ s.T) * (t @ t.T)).sum() / ((s @ s.T).norm() * (t @ t.T).norm())
    torch.testing.assert_close(relations.centred_alignment(STUDENT, TEACHER), slow)
