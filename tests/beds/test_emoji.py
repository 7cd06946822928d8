"""The emoji bed: what it holds, that both sizes are the same drawings, that mistakes are named."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from redistill.beds import emoji, emoji_subgroups
from redistill.core import UserError


@pytest.fixture(scope="module")
def faces() -> emoji.Emoji:
    return emoji.load("faces")


def test_the_faces_are_the_same_emoji_by_three_artists(faces):
    assert len(faces) == 390 and faces.artists == emoji.FACE_ARTISTS
    codes = np.array(faces.column("code")).reshape(3, 130)
    assert (codes == codes[0]).all()
    assert faces.label.bincount().tolist() == [130, 130, 130]


def test_images_are_signed_floats_with_white_corners(faces):
    assert faces.image.shape == (390, 3, 32, 32) and faces.image.dtype == torch.float32
    assert faces.image.min() >= -1 and faces.image.max() == 1
    assert (faces.image[:, :, 0, 0] > 0.9).float().mean() > 0.9


def test_the_small_size_is_the_mean_of_the_large_one(faces):
    large = emoji.load("faces", 64, ["google"]).pixels.astype(float)
    mean = large.reshape(130, 32, 2, 32, 2, 3).mean((2, 4))
    assert np.abs(mean - faces.take(range(130)).pixels).max() <= 0.5


def test_skin_tones_come_on_request():
    with_tones = emoji.load("all", artists=["google"], tones=True)
    assert set(with_tones.column("tone")) == {"", "light", "medium-light", "medium", "medium-dark", "dark"}
    assert len(with_tones) > len(emoji.load("all", artists=["google"]))


def test_caption_words_become_ids(faces):
    vocabulary = emoji.vocabulary(faces.column("name"))
    ids = vocabulary.ids(["grinning face", "zebra"], length=3)
    assert ids.shape == (2, 3) and ids[1].tolist() == [vocabulary.unknown, 0, 0]
    assert vocabulary.words[int(ids[0, 1]) - 1] == "face"


def test_no_picture_is_in_two_parts():
    train, test = emoji_subgroups.split(1)
    pictures = [picture.tobytes() for part in (train, test) for picture in part.image]
    assert len(set(pictures)) == len(pictures) > 3900 and len(train) == pytest.approx(0.6 * len(pictures), rel=0.02)


@pytest.mark.parametrize(
    ("wrong", "said"), [({"part": "face"}, "faces"), ({"size": 48}, "32, 64"), ({"artists": ["gogle"]}, "google")]
)
def test_mistakes_are_named(wrong, said):
    with pytest.raises(UserError, match=said):
        emoji.load(**wrong)
