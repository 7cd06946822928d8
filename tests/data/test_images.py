"""A folder of images as rows: decoded once, within a bound of memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from redistill.core.errors import UserError
from redistill.data import ImageFolder, images

SIDE = 8
BYTES = 3 * SIDE**2


@pytest.fixture
def folder(tmp_path):
    draw = np.random.default_rng(0)
    for row in range(6):
        (tmp_path / f"{row % 2}").mkdir(exist_ok=True)
        Image.fromarray(draw.integers(256, size=(10, 12, 3), dtype=np.uint8)).save(tmp_path / f"{row % 2}/{row}.png")
    return tmp_path


@pytest.fixture
def decodings(monkeypatch):
    found, decode = [], images._on_white
    monkeypatch.setattr(images, "_on_white", lambda image: [found.append(image), decode(image)][1])
    return found


@pytest.mark.parametrize(("kept", "decoded"), [(6, 6), (4, 6 + 2 + 2), (0, 18)])
def test_what_fits_is_decoded_once_and_the_rest_in_every_epoch(folder, decodings, kept, decoded):
    rows = ImageFolder(folder, size=SIDE, cache_bytes=kept * BYTES)
    for _ in range(3):
        for row in range(len(rows)):
            rows[row]
    assert len(decodings) == decoded


def test_the_bound_is_shared_out_among_loading_processes(folder, decodings, monkeypatch):
    monkeypatch.setattr(images, "get_worker_info", lambda: type("Info", (), {"num_workers": 3}))
    rows = ImageFolder(folder, size=SIDE, cache_bytes=6 * BYTES)
    for _ in range(2):
        for row in range(len(rows)):
            rows[row]
    assert len(decodings) == 6 + 4


@pytest.mark.parametrize("scale", ["signed", "unit", "imagenet"])
def test_a_kept_image_has_the_same_bits_and_belongs_to_nobody(folder, scale):
    rows, fresh = (ImageFolder(folder, size=SIDE, scale=scale, cache_bytes=b) for b in (2**31, 0))
    rows[3]["image"].zero_()
    assert torch.equal(rows[3]["image"], fresh[3]["image"]) and rows[3]["label"] == fresh[3]["label"] == 1


@pytest.mark.parametrize("wrong", [-1, True, 0.5])
def test_a_bound_that_is_no_number_of_bytes_is_refused(folder, wrong):
    with pytest.raises(UserError, match=r"cache_bytes=.*; give a whole number from 0"):
        ImageFolder(folder, size=SIDE, cache_bytes=wrong)
