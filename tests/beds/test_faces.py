"""The faces bed: the teacher and the features that ship are what they claim to be, and samples are judged fairly."""

from __future__ import annotations

import json

import pytest
import torch

from redistill.beds import emoji, faces
from redistill.core import UserError
from redistill.diffusion.solvers import ddim


@pytest.fixture(scope="module")
def bed() -> emoji.Emoji:
    return emoji.load("faces")


def test_features_are_standardised_and_frozen(bed):
    x = faces.features(bed.image)
    assert x.shape == (390, faces.FEATURES) and not x.requires_grad
    torch.testing.assert_close(x.mean(1), torch.zeros(390), atol=1e-4, rtol=0)
    torch.testing.assert_close(x.var(1, correction=0), torch.ones(390), atol=1e-2, rtol=0)


def test_features_do_not_depend_on_how_rows_are_cut(bed):
    torch.testing.assert_close(faces.features(bed.image[:40], rows=7), faces.features(bed.image[:40]))


def test_artists_are_told_apart(bed):
    assert (faces.artist(bed.image) == bed.label).float().mean() > 0.98
    one = faces.shares(bed.image[bed.label == 2])
    assert one[2] > 0.98 and one.sum() == 1


def test_provenance_lists_the_subgroups_that_the_weights_know():
    record = json.loads((faces.WEIGHTS / "emoji_classifier/provenance.json").read_text("utf8"))
    assert len(record["subgroups"]) == faces.SUBGROUPS
    index = json.loads(emoji.FOLDER.joinpath("index.json").read_text("utf8"))
    assert set(record["subgroups"]) == {entry["subgroup"] for entry in index["emoji"]}


def test_comparison_is_perfect_with_itself_and_sees_lost_artists(bed):
    same = faces.compare(bed.image, bed.image, bed.label)
    assert same["frechet"] == pytest.approx(0, abs=1e-6) and same["precision"] == same["recall"] == 1
    lost = faces.compare(bed.image, bed.image[bed.label == 0])
    assert lost["frechet"] > 1 and lost["precision"] == 1 and lost["recall"] < 0.7


def test_the_teacher_obeys_its_condition():
    label = torch.arange(3).repeat_interleave(2)
    noise = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    model = faces.teacher()
    with torch.no_grad():
        x = ddim(model, noise, model.path.grid(8), condition=label)
    assert (faces.artist(x) == label).float().mean() >= 5 / 6
    assert not any(p.requires_grad for p in model.parameters())


def test_the_teacher_knows_faces_from_noise(bed):
    """Its error at t = 0.5 is far below that of the best constant answer, the mean face."""
    x0, label = bed.image[::13], bed.label[::13]
    eps = torch.randn(x0.shape, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        found = faces.teacher()((x0 + eps) / 2, torch.tensor(0.5), label)
    assert (found - x0).square().mean() < 0.3 * (x0 - bed.image.mean(0)).square().mean()


def test_a_wrong_shape_is_named():
    with pytest.raises(UserError, match=r"\[N, 3, 32, 32\]"):
        faces.features(torch.zeros(2, 3, 64, 64))
