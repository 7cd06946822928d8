"""Episodes, heads on frozen embeddings, and the rival that trains on episodes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from redistill.core import Plan, UserError, fit
from redistill.core.followers import same_weights
from redistill.core.method import bare_progress
from redistill.methods.supervised.rfs import episodes as fs
from redistill.models.nets import mlp, staged_convnet
from redistill.vision.augmentations import CropFlipJitter

RNG = np.random.default_rng(0)
LABEL = np.repeat([3, 7, 8, 11], 9)
GROUPS = np.tile(np.arange(3), 12) + 3 * LABEL  # three things a class, each in three pictures
SUPPORT, TARGET, QUERY = RNG.standard_normal((15, 6)), np.repeat(np.arange(3), 5), RNG.standard_normal((20, 6))


def test_support_and_queries_are_disjoint_and_labels_count_from_zero():
    episode = fs.draw_episode(LABEL, 4, ways=3, shots=2, queries=5)
    assert not set(episode.support) & set(episode.query) and len(set(episode.query)) == 15
    assert episode.support_label.tolist() == [0, 0, 1, 1, 2, 2] and set(episode.query_label) == {0, 1, 2}
    for way in range(3):
        rows = [*episode.support[episode.support_label == way], *episode.query[episode.query_label == way]]
        assert len(set(LABEL[rows])) == 1


def test_same_index_same_episode_and_another_index_another():
    first, again, other = (fs.draw_episode(LABEL, i, ways=3, shots=2, queries=5) for i in (4, 4, 5))
    assert np.array_equal(first.support, again.support) and np.array_equal(first.query, again.query)
    assert not np.array_equal(first.query, other.query)


def test_no_query_shows_what_a_support_row_shows():
    for index in range(20):
        episode = fs.draw_episode(LABEL, index, ways=3, shots=2, queries=3, groups=GROUPS)
        assert not set(GROUPS[episode.support]) & set(GROUPS[episode.query])
        assert len(set(GROUPS[episode.support])) == 6


@pytest.mark.parametrize(
    ("asked", "part"),
    [({"ways": 5}, "have 4 classes"), ({"shots": 5, "queries": 5}, "4 queries"), ({"shots": 10}, "gives 9 shots")],
)
def test_episodes_that_cannot_be_drawn_are_refused(asked, part):
    with pytest.raises(UserError, match=part):
        fs.draw_episode(LABEL, 0, **{"ways": 2, "shots": 1, "queries": 1, **asked})


def test_logistic_head_is_sklearns():
    theirs = LogisticRegression(C=0.7, tol=1e-10, max_iter=5000).fit(SUPPORT, TARGET).predict_proba(QUERY)
    ours = torch.from_numpy(fs.logistic(SUPPORT, TARGET, QUERY, C=0.7)).softmax(1).numpy()
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_normalised_logistic_ignores_the_length_of_any_embedding():
    scale_s, scale_q = RNG.uniform(0.1, 9, (15, 1)), RNG.uniform(0.1, 9, (20, 1))
    plain = fs.logistic(fs.unit(SUPPORT), TARGET, fs.unit(QUERY))
    np.testing.assert_allclose(fs.logistic(fs.unit(scale_s * SUPPORT), TARGET, fs.unit(scale_q * QUERY)), plain)
    raw = [fs.logistic(s, TARGET, QUERY) for s in (SUPPORT, scale_s * SUPPORT)]
    assert np.abs(raw[0] - raw[1]).max() > 0.01


def test_one_shot_neighbours_of_unit_rows_are_cosine_neighbours():
    one, label = SUPPORT[:4], np.arange(4)
    nearest = fs.nearest(fs.unit(one), label, fs.unit(QUERY)).argmax(1)
    assert np.array_equal(nearest, fs.cosine(one, label, QUERY).argmax(1))
    assert np.array_equal(nearest, fs.prototype(fs.unit(one), label, fs.unit(QUERY)).argmax(1))
    assert not np.array_equal(fs.nearest(5 ** label[:, None] * one, label, QUERY).argmax(1), nearest)


def test_nearest_looks_at_rows_and_prototype_at_means():
    support, label = np.array([[0.0], [4.0], [1.5], [1.5]]), np.array([0, 0, 1, 1])
    query = np.array([[0.1]])
    assert fs.nearest(support, label, query).argmax() == 0 and fs.prototype(support, label, query).argmax() == 1
    np.testing.assert_allclose(fs.prototype(support, label, query), [[-(1.9**2), -(1.4**2)]])


def test_unit_rows_have_length_one_and_zeros_stay():
    np.testing.assert_allclose(np.linalg.norm(fs.unit(QUERY), axis=1), 1)
    assert np.array_equal(fs.unit(np.zeros((1, 3))), np.zeros((1, 3)))


def test_embedding_is_what_the_head_reads_in_evaluation_mode_and_the_mode_comes_back():
    net = staged_convnet(1, 3, (4, 5)).train()
    image = torch.randn(7, 1, 6, 6)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    found = fs.embed(net, image, batch_size=2)
    assert net.training and all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    net.head = nn.Identity()
    np.testing.assert_allclose(found, net.eval()(image).detach().double().numpy(), atol=1e-6)
    assert found.shape == (7, 5) and found.dtype == np.float64


def test_interval_is_the_t_interval():
    mean, half = fs.interval(np.array([0.2, 0.4, 0.6]))
    assert mean == pytest.approx(0.4) and half == pytest.approx(4.302653 * 0.2 / np.sqrt(3), rel=1e-5)


def episodes(**more):
    image = torch.randn(36, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    return fs.Episodes(image, LABEL, count=6, ways=3, shots=2, queries=4, **more)


def test_prototypical_loss_is_cross_entropy_of_squared_distances():
    net, row = mlp(16, 5), episodes()[2]["image"]
    total = fs.PrototypicalNetwork(net, shots=2).loss("student", {"image": row[None]}, bare_progress()).total
    f = net(row.flatten(0, 1)).detach().double().numpy().reshape(3, 6, 5)
    support, query = f[:, :2].reshape(-1, 5), f[:, 2:].reshape(-1, 5)
    scores = torch.from_numpy(fs.prototype(support, np.repeat(np.arange(3), 2), query))
    expected = nn.functional.cross_entropy(scores, torch.arange(3).repeat_interleave(4))
    assert float(total.detach()) == pytest.approx(float(expected), rel=1e-5)


def test_training_episodes_are_the_same_when_read_again_and_train_the_network():
    data = episodes(augment=CropFlipJitter(1))
    assert torch.equal(data[1]["image"], data[1]["image"]) and data[1]["image"].shape == (3, 6, 1, 4, 4)
    assert not torch.equal(data[1]["image"], episodes()[1]["image"])
    method, plan = fs.PrototypicalNetwork(mlp(16, 5), shots=2), Plan(epochs=2, batch_size=2, device="cpu", lr=0.01)
    before = mlp(16, 5)
    before.load_state_dict(method.student.state_dict())
    assert not same_weights(fit(method, data, plan).student, before)
