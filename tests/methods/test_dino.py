"""The head's lengths, and who follows whom."""

from __future__ import annotations

import pytest
import torch

from redistill.core import Progress, UserError
from redistill.methods.analysis.random_teachers.dino import DinoHead, EveryEpoch, EveryStep, Never


def test_prototypes_have_unit_length_and_scores_are_cosines():
    head = DinoHead(5, 12, hidden=8, bottleneck=4)
    with torch.no_grad():
        head.weight *= 7.0  # no length may matter
    features = torch.randn(6, 5)
    torch.testing.assert_close(head.prototypes.norm(dim=1), torch.ones(12))
    expected = torch.cosine_similarity(head.layers(features)[:, None], head.weight[None], dim=-1)
    torch.testing.assert_close(head(features), expected)
    assert head(features).shape == (6, 12)


def test_depth_counts_the_hidden_layers():
    assert [sum(isinstance(m, torch.nn.GELU) for m in DinoHead(5, 3, hidden=4, depth=d).modules()) for d in (1, 3)] == [
        1,
        3,
    ]


def test_following_says_how_much_of_the_teacher_stays():
    steps = [Progress(ends_epoch=last) for last in (False, True)]
    assert [Never()(now) for now in steps] == [1.0] * 2
    assert [EveryStep(0.9)(now) for now in steps] == [0.9] * 2
    assert [EveryEpoch()(now) for now in steps] == [1, 0]
    with pytest.raises(UserError, match="decay=1"):
        EveryStep(1.0)
