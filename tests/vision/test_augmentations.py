"""Random crops, mirrors and colours: the same rows whatever the cut, and nothing when told to do nothing."""

from __future__ import annotations

import pytest
import torch

from redistill.core import UserError
from redistill.core.method import bare_progress
from redistill.core.progress import Rows
from redistill.vision.augmentations import CropFlipJitter, coloured, shifted

IMAGE = torch.rand(6, 3, 5, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_shift_of_the_border_is_the_image_and_other_shifts_move_it():
    assert torch.equal(shifted(IMAGE, torch.full((6, 2), 2), 2), IMAGE)
    moved = shifted(IMAGE, torch.tensor([[3, 2]] * 6), 2)  # one row further down, edge repeated
    assert torch.equal(moved[:, :, :-1], IMAGE[:, :, 1:])
    assert torch.equal(moved[:, :, -1], IMAGE[:, :, -1])


def test_every_row_has_its_own_shift():
    offset = torch.tensor([[2, 2], [2, 3], [1, 2], [0, 0], [4, 4], [2, 2]])
    moved = shifted(IMAGE, offset, 2)
    for row in range(6):
        assert torch.equal(moved[row : row + 1], shifted(IMAGE[row : row + 1], offset[row : row + 1], 2))
    assert torch.equal(moved[1, :, :, :-1], IMAGE[1, :, :, 1:]) and torch.equal(moved[0], IMAGE[0])


def test_colours_with_factor_one_are_the_image_and_zero_removes_what_it_names():
    ones = torch.ones(6, 3, dtype=torch.float64)
    torch.testing.assert_close(coloured(IMAGE, ones), IMAGE)
    dark, flat, grey = (coloured(IMAGE, ones.index_fill(1, torch.tensor([k]), 0.0)) for k in range(3))
    assert float(dark.abs().max()) == 0
    torch.testing.assert_close(flat, IMAGE.mean((1, 2, 3), keepdim=True).expand_as(IMAGE))
    torch.testing.assert_close(grey, IMAGE.mean(1, keepdim=True).expand_as(IMAGE))


def test_flip_mirrors_some_rows_and_leaves_the_others():
    changed = CropFlipJitter(0)(IMAGE, bare_progress(seed=1))
    mirrored = [torch.equal(a, b.flip(-1)) for a, b in zip(changed, IMAGE)]
    same = [torch.equal(a, b) for a, b in zip(changed, IMAGE)]
    assert any(mirrored) and any(same) and all(a != b for a, b in zip(mirrored, same))


def test_rows_of_a_cut_batch_change_as_in_the_whole_one():
    change = CropFlipJitter(1, jitter=0.3)
    whole, part = bare_progress(seed=1), bare_progress(seed=1)
    part.rows = Rows(2, 5, 6)
    torch.testing.assert_close(change(IMAGE[2:5], part), change(IMAGE, whole)[2:5], rtol=0, atol=0)


def test_nothing_asked_for_is_nothing_done():
    assert torch.equal(CropFlipJitter(0, False)(IMAGE, bare_progress()), IMAGE)
    with pytest.raises(UserError, match="jitter=1"):
        CropFlipJitter(jitter=1.0)
