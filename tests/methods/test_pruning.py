"""Scores of rows and what they keep, against their closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from redistill.core import Plan, UserError, fit
from redistill.methods.supervised.pruned_data_kd import pruning
from redistill.models.nets import mlp, staged_convnet
from redistill.supervised.classifier import Classification

RNG = np.random.default_rng(0)
LABEL = np.repeat(np.arange(4), [10, 20, 30, 7])


def test_el2n_of_a_perfect_and_of_an_ignorant_model():
    assert pruning.el2n(np.eye(4)[LABEL], LABEL).max() == 0
    np.testing.assert_allclose(pruning.el2n(np.full((len(LABEL), 4), 0.25), LABEL), np.sqrt(1 - 1 / 4))


def test_el2n_is_the_mean_over_runs():
    runs = RNG.dirichlet(np.ones(4), (3, len(LABEL)))
    np.testing.assert_allclose(
        pruning.el2n(runs, LABEL), np.mean([pruning.el2n(run, LABEL) for run in runs], 0), rtol=1e-12
    )


@pytest.mark.parametrize("net", [mlp(16, 3, [5]), staged_convnet(1, 3, [4])])
def test_grand_is_the_norm_of_a_rows_own_gradient(net):
    net, image, label = net.eval(), torch.randn(5, 1, 4, 4), torch.arange(5) % 3
    slow = []
    for x, y in zip(image, label):
        gradient = torch.autograd.grad(cross_entropy(net(x[None]), y[None]), list(net.parameters()))
        slow.append(float(torch.cat([g.flatten() for g in gradient]).norm()))
    for training in (False, True):
        np.testing.assert_allclose(pruning.grand(net.train(training), image, label, chunk=2), slow, rtol=1e-4)
        assert net.training == training


def test_forgetting_counts_losses_and_keeps_what_is_never_learnt():
    looks = np.array([[1, 0, 0, 1], [0, 0, 1, 1], [1, 0, 0, 1], [0, 0, 1, 1]], bool)  # [E, N]
    assert pruning.forgetting(looks).tolist() == [2, np.inf, 1, 0]


def test_the_watch_sees_every_epoch_and_leaves_the_run_as_it_was():
    def run(observers):
        torch.manual_seed(0)
        net = staged_convnet(1, 3, [4])
        return fit(Classification(net), data, Plan(epochs=3, batch_size=8, log_every=3), observers=observers).student

    data = {"image": torch.randn(24, 1, 4, 4), "label": torch.arange(24) % 3}
    watch = pruning.Watch(data["image"], data["label"])
    watched, alone = run((watch,)), run(())
    assert watch.correct.shape == (3, 24) and watch.correct.dtype == bool
    with torch.no_grad():
        assert np.array_equal(watch.correct[-1], (watched(data["image"]).argmax(1) == data["label"]).numpy())
    assert all(torch.equal(a, b) for a, b in zip(watched.state_dict().values(), alone.state_dict().values()))


def test_margin_and_entropy_rise_with_doubt():
    p = np.array([[0.9, 0.1, 0.0], [0.5, 0.4, 0.1], [1 / 3, 1 / 3, 1 / 3]])
    np.testing.assert_allclose(pruning.margin(p), [-0.8, -0.1, 0], atol=1e-15)
    np.testing.assert_allclose(pruning.entropy(p)[2], np.log(3))
    assert (np.diff(pruning.entropy(p)) > 0).all()


def test_herding_takes_the_best_next_row_of_each_class():
    x = RNG.standard_normal((len(LABEL), 3))
    place = pruning.herding(x, LABEL)
    for c in range(4):
        rows = np.flatnonzero(c == LABEL)
        assert sorted(place[rows]) == list(range(len(rows)))
        taken, left = [], set(rows)
        for k in range(len(rows)):  # slowly: the row that brings the mean of those taken nearest to the class mean
            best = min(left, key=lambda r: np.linalg.norm(x[[*taken, r]].mean(0) - x[rows].mean(0)))
            assert place[best] == k
            taken.append(best)
            left.remove(best)


def test_distance_to_centre_is_within_the_class():
    x = RNG.standard_normal((len(LABEL), 3)) + 100 * LABEL[:, None]
    distance = pruning.distance_to_centre(x, LABEL)
    np.testing.assert_allclose(distance[:10], np.linalg.norm(x[:10] - x[:10].mean(0), axis=1))
    assert distance.max() < 10


@pytest.mark.parametrize(
    ("sizes", "fraction", "expected"),
    [
        ([10, 20, 30, 7], 0.1, [1, 2, 3, 1]),
        ([10, 20, 30, 7], 0.33, [3, 7, 10, 2]),
        ([10, 20, 30, 7], 0.5, [5, 10, 15, 4]),
        ([10, 20, 30, 7], 1.0, [10, 20, 30, 7]),
        ([10, 200], 0.05, [1, 10]),  # half a row is a row, not none
        ([30] * 4, 0.05, [2, 2, 1, 1]),  # and four times half a row are two rows
        ([30, 2], 0.1, [3, 1]),
    ],
)
def test_class_balance_keeps_the_share_of_every_class_and_of_the_whole(sizes, fraction, expected):
    label = np.repeat(np.arange(len(sizes)), sizes)
    kept = pruning.kept_rows(pruning.chance(len(label), 0), label, fraction)
    assert np.bincount(label[kept], minlength=len(sizes)).tolist() == expected
    assert (np.diff(kept) > 0).all()


def test_without_balance_the_share_is_that_of_all_rows():
    kept = [pruning.kept_rows(pruning.chance(67, 0), LABEL, f, balanced=False) for f in (0.001, 0.1, 0.33, 1.0)]
    assert [len(rows) for rows in kept] == [1, 7, 22, 67]


def test_hard_easy_and_moderate():
    label, score = np.zeros(5, int), np.array([3.0, 1.0, np.inf, 2.0, 9.0])
    kept = {order: pruning.kept_rows(score, label, 0.4, order=order).tolist() for order in ("hard", "easy", "moderate")}
    assert kept == {"hard": [2, 4], "easy": [1, 3], "moderate": [0, 3]}  # the median of the finite scores is 2.5


def test_chance_is_the_same_for_the_same_seed():
    assert np.array_equal(pruning.chance(9, 4), pruning.chance(9, 4))
    assert not np.array_equal(pruning.chance(9, 4), pruning.chance(9, 5))


@pytest.mark.parametrize(
    ("given", "part"),
    [
        ({"fraction": 0}, "above 0"),
        ({"fraction": 1.5}, "above 0"),
        ({"fraction": 0.5, "order": "easyy"}, "did you mean 'easy'"),
    ],
)
def test_wrong_input_is_refused(given, part):
    with pytest.raises(UserError, match=part):
        pruning.kept_rows(pruning.chance(len(LABEL), 0), LABEL, **given)
