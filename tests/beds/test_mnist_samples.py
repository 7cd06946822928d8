"""The mnist bed for generators: teacher and features that ship are what they claim to be."""

from __future__ import annotations

import json

import pytest
import torch

from redistill.beds import mnist_samples as bed
from redistill.core import UserError
from redistill.diffusion.solvers import ddim


@pytest.fixture(scope="module")
def digits() -> dict[str, torch.Tensor]:
    return {name: column[::5] for name, column in bed.digits().items()}


def test_digits_are_told_apart(digits):
    assert (bed.digit(digits["image"]) == digits["label"]).float().mean() > 0.97
    assert bed.features(digits["image"]).shape == (1000, bed.FEATURES)


def test_features_do_not_depend_on_how_rows_are_cut(digits):
    torch.testing.assert_close(bed.features(digits["image"][:40], rows=7), bed.features(digits["image"][:40]))


def test_comparison_is_perfect_with_itself_and_sees_lost_digits(digits):
    image, label = digits["image"], digits["label"]
    same = bed.compare(image, image, label)
    assert same["frechet"] == pytest.approx(0, abs=1e-4) and same["precision"] == same["recall"] == 1
    assert same["obeyed"] > 0.97 and sum(same["shares"]) == pytest.approx(1)
    lost = bed.compare(image, image[label < 3])
    assert lost["frechet"] > 1 and lost["recall"] < 0.7 and sum(lost["shares"][:3]) > 0.97


def test_the_teacher_draws_the_digit_it_is_asked_for():
    label = torch.arange(10).repeat_interleave(2)
    noise = torch.randn(20, 1, 28, 28, generator=torch.Generator().manual_seed(1))
    model = bed.teacher()
    with torch.no_grad():
        x = ddim(model, noise, model.path.grid(10), condition=label)
    assert (bed.digit(x) == label).float().mean() >= 0.8
    assert not any(p.requires_grad for p in model.parameters())


def test_provenance_lies_beside_the_weights():
    for name in ("mnist", "mnist_classifier"):
        record = json.loads((bed.WEIGHTS / name / "provenance.json").read_text("utf8"))
        assert record["recipe"].startswith("scripts/") and record["seed"] == 0


def test_a_wrong_shape_is_named():
    with pytest.raises(UserError, match=r"\[N, 1, 28, 28\]"):
        bed.features(torch.zeros(2, 3, 28, 28))
