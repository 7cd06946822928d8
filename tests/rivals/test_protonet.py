"""Episodes, and the network that is trained on them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from redistill.core import Plan, UserError, fit
from redistill.core.followers import same_weights
from redistill.core.method import bare_progress
from redistill.methods.supervised.rfs.heads import prototype
from redistill.models.nets import mlp
from redistill.rivals.protonet import Episodes, PrototypicalNetwork, draw_episode
from redistill.vision.augmentations import CropFlipJitter

LABEL = np.repeat([3, 7, 8, 11], 9)
GROUPS = np.tile(np.arange(3), 12) + 3 * LABEL  # three things a class, each in three pictures


def test_support_and_queries_are_disjoint_and_labels_count_from_zero():
    episode = draw_episode(LABEL, 4, ways=3, shots=2, queries=5)
    assert not set(episode.support) & set(episode.query) and len(set(episode.query)) == 15
    assert episode.support_label.tolist() == [0, 0, 1, 1, 2, 2] and set(episode.query_label) == {0, 1, 2}
    for way in range(3):
        rows = [*episode.support[episode.support_label == way], *episode.query[episode.query_label == way]]
        assert len(set(LABEL[rows])) == 1


def test_same_index_same_episode_and_another_index_another():
    first, again, other = (draw_episode(LABEL, i, ways=3, shots=2, queries=5) for i in (4, 4, 5))
    assert np.array_equal(first.support, again.support) and np.array_equal(first.query, again.query)
    assert not np.array_equal(first.query, other.query)


def test_no_query_shows_what_a_support_row_shows():
    for index in range(20):
        episode = draw_episode(LABEL, index, ways=3, shots=2, queries=3, groups=GROUPS)
        assert not set(GROUPS[episode.support]) & set(GROUPS[episode.query])
        assert len(set(GROUPS[episode.support])) == 6


@pytest.mark.parametrize(
    ("asked", "part"),
    [({"ways": 5}, "have 4 classes"), ({"shots": 5, "queries": 5}, "4 queries"), ({"shots": 10}, "gives 9 shots")],
)
def test_episodes_that_cannot_be_drawn_are_refused(asked, part):
    with pytest.raises(UserError, match=part):
        draw_episode(LABEL, 0, **{"ways": 2, "shots": 1, "queries": 1, **asked})


def episodes(**more):
    image = torch.randn(36, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    return Episodes(image, LABEL, count=6, ways=3, shots=2, queries=4, **more)


def test_prototypical_loss_is_cross_entropy_of_squared_distances():
    net, row = mlp(16, 5), episodes()[2]["image"]
    total = PrototypicalNetwork(net, shots=2).loss("student", {"image": row[None]}, bare_progress()).total
    f = net(row.flatten(0, 1)).detach().double().numpy().reshape(3, 6, 5)
    support, query = f[:, :2].reshape(-1, 5), f[:, 2:].reshape(-1, 5)
    scores = torch.from_numpy(prototype(support, np.repeat(np.arange(3), 2), query))
    expected = nn.functional.cross_entropy(scores, torch.arange(3).repeat_interleave(4))
    assert float(total.detach()) == pytest.approx(float(expected), rel=1e-5)


def test_training_episodes_are_the_same_when_read_again_and_train_the_network():
    data = episodes(augment=CropFlipJitter(1))
    assert torch.equal(data[1]["image"], data[1]["image"]) and data[1]["image"].shape == (3, 6, 1, 4, 4)
    assert not torch.equal(data[1]["image"], episodes()[1]["image"])
    method, plan = PrototypicalNetwork(mlp(16, 5), shots=2), Plan(epochs=2, batch_size=2, device="cpu", lr=0.01)
    before = mlp(16, 5)
    before.load_state_dict(method.student.state_dict())
    assert not same_weights(fit(method, data, plan).student, before)
