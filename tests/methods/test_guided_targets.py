"""The card's exact properties: filters against explicit refits, the limit, the best share; and rounds of networks."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.kernel_ridge import KernelRidge
from sklearn.utils.estimator_checks import parametrize_with_checks

from redistill.core import Plan, UserError, fit
from redistill.core.followers import same_weights
from redistill.core.method import bare_progress
from redistill.methods.analysis import guided_targets as gt
from redistill.methods.analysis.guided_targets import kernel as spectral
from redistill.methods.analysis.guided_targets.rounds import guided_rounds
from redistill.models.nets import mlp
from redistill.supervised.predict import predict

X = np.linspace(0, 1, 11)[:, None]  # the toy example of Mobahi et al.
Y = np.array([0.384766365, 1.233396768, 1.332322422, 0.692015949, -0.297561455, -0.241892919, -0.796448577,
              -0.961648017, -0.496725095, -0.346906600, 0.558951265])  # fmt: skip
FINE = np.linspace(0, 1, 101)[:, None]
RNG = np.random.default_rng(0)
X_VAL = RNG.random((40, 1))
Y_VAL = np.sin(2 * np.pi * X_VAL[:, 0]) + 0.3 * RNG.standard_normal(40)


def toy(**options):
    return gt.GuidedRidge(lam=0.2, gamma=80.0, **options).fit(X, Y)


def loss(model):
    return np.mean((model.predict(FINE) - np.sin(2 * np.pi * FINE[:, 0])) ** 2)


def refits(alphas, lam=0.2):
    """The rounds played with another kernel ridge: all models."""
    models, last = [], Y
    for alpha in alphas:
        models.append(KernelRidge(alpha=lam, kernel="rbf", gamma=80.0).fit(X, alpha * Y + (1 - alpha) * last))
        last = models[-1].predict(X)
    return models


@pytest.mark.parametrize(
    ("alpha", "losses", "limit"),
    [
        (0.0, [0.16477, 0.15076, 0.14915, 0.15561, 0.16735, 0.18251], 0.49505),
        (0.25, [0.16477, 0.15309, 0.14958, 0.14903, 0.14946, 0.15011], 0.15250),
        (0.35, [0.16477, 0.15424, 0.15089, 0.14983, 0.14954, 0.14948], 0.14959),
    ],
)
@pytest.mark.filterwarnings("ignore:without true targets")
def test_the_toy_example(alpha, losses, limit):
    model = toy()
    assert [loss(model.iterate(alpha, k)) for k in range(1, 7)] == pytest.approx(losses, abs=5e-6)
    assert loss(model.limit(alpha)) == pytest.approx(limit, abs=5e-6)


@pytest.mark.parametrize("alphas", [[0.35] * 5, [0.0] * 4, [1.0, 0.2, 0.9, 0.0], [0.3, -0.5, 1.7]])
def test_filters_are_the_rounds_played_with_another_kernel_ridge(alphas):
    model, played = toy(), refits(alphas)
    for k, other in enumerate(played, start=1):
        np.testing.assert_allclose(model.iterate(alphas, k).predict(FINE), other.predict(FINE), atol=1e-9)
    np.testing.assert_allclose(model.spectrum_.V @ (model.spectrum(k) * model.components_), other.predict(X), atol=1e-9)


@pytest.mark.parametrize("alpha", [0.0, 0.25, 1.0])
def test_one_weight_needs_no_iteration(alpha):
    a = spectral.shrinkage(np.array([1e-9, 0.01, 0.3, 2.0, 50.0]), 0.2)
    for k in (0, 1, 2, 9):
        filtered = spectral.rounds_filter(a, [alpha] * k)
        np.testing.assert_allclose(spectral.constant_filter(a, alpha, k), filtered, rtol=1e-12)


def test_the_first_round_is_plain_for_any_weight():
    for alpha in (0.0, 0.4, [0.7]):
        np.testing.assert_allclose(toy(alpha=alpha).predict(FINE), refits([1.0])[0].predict(FINE), atol=1e-10)


@pytest.mark.parametrize("alpha", [0.1, 0.35, 1.0])
def test_endless_rounds_are_one_fit_with_a_larger_penalty(alpha):
    direct = KernelRidge(alpha=0.2 / alpha, kernel="rbf", gamma=80.0).fit(X, Y).predict(FINE)
    np.testing.assert_allclose(toy().limit(alpha).predict(FINE), direct, atol=1e-8)
    np.testing.assert_allclose(toy().iterate(alpha, 400).predict(FINE), direct, atol=1e-8)


def test_the_rounds_contract_by_the_announced_factor():
    model, alpha = toy(), 0.25
    factor = (1 - alpha) * spectral.shrinkage(model.spectrum_.d, 0.2).max()
    limit = model.limit(alpha).predict(X)
    gaps = [np.linalg.norm(model.iterate(alpha, k).predict(X) - limit) for k in (10, 11, 30, 31)]
    assert gaps[1] / gaps[0] <= factor + 1e-9 and gaps[3] / gaps[2] == pytest.approx(factor, rel=0.02)


def test_true_targets_alone_are_a_fixed_point():
    plain = toy().predict(FINE)
    for k in (2, 5, math.inf):
        np.testing.assert_allclose(toy(alpha=1.0, rounds=k).predict(FINE), plain, atol=1e-12)


def test_without_true_targets_the_spectrum_gets_sparser_and_ends_at_nothing():
    model = toy(alpha=0.0)
    ratios = np.array([(B := model.spectrum(k))[1:] / B[:-1] for k in range(1, 6)])
    assert (np.diff(ratios, axis=0) > 0).all()
    with pytest.warns(UserWarning, match="zero function"):
        assert np.abs(model.limit(0.0).predict(FINE)).max() == 0


def test_a_later_fit_is_a_linear_map_of_the_first():
    model = toy()
    first, A = model.predict(X), model.spectrum_.V * spectral.shrinkage(model.spectrum_.d, 0.2) @ model.spectrum_.V.T
    third = A @ ((1 - 0.3) * (A @ (0.7 * first + 0.3 * Y)) + 0.3 * Y)
    np.testing.assert_allclose(model.iterate(0.3, 3).predict(X), third, atol=1e-10)


@pytest.mark.parametrize("clip", [True, False])
def test_the_best_share_minimises_the_validation_error_of_every_round(clip):
    model = toy().iterate("optimal", 4, X_VAL, Y_VAL, clip=clip)
    alphas = model.alpha
    grid = np.linspace(0, 1, 501) if clip else np.linspace(-5, 5, 1001)
    for k in range(2, 5):
        errors = [
            np.mean((m.predict(X_VAL) - Y_VAL) ** 2) for m in (model.iterate([*alphas[: k - 1], x], k) for x in grid)
        ]
        assert alphas[k - 1] == pytest.approx(grid[np.argmin(errors)], abs=grid[1] - grid[0])
    assert any(0 < x < 1 for x in alphas)


def test_the_best_share_of_a_mixture_is_its_weight_and_of_equals_one():
    a, b = RNG.standard_normal((2, 6, 3))
    assert spectral.best_share(0.3 * a + 0.7 * b, a, b) == pytest.approx(0.3)
    assert spectral.best_share(a, b, b) == 1.0


def test_landmarks_stand_for_all_rows():
    full = toy(alpha=0.3, rounds=4).predict(FINE)
    np.testing.assert_allclose(toy(alpha=0.3, rounds=4, landmarks=11).predict(FINE), full, atol=1e-8)
    some = toy(alpha=0.3, rounds=4, landmarks=9)
    assert some.spectrum_.V.shape == (11, 9) and 1e-6 < np.abs(some.predict(FINE) - full).max() < 0.5


def test_several_targets_at_once():
    two = gt.GuidedRidge(lam=0.2, gamma=80.0, alpha=0.3, rounds=3).fit(X, np.column_stack([Y, -2 * Y]))
    np.testing.assert_allclose(two.predict(FINE)[:, 1], -2 * toy(alpha=0.3, rounds=3).predict(FINE), atol=1e-12)


@parametrize_with_checks([gt.GuidedRidge(alpha=0.4, rounds=3)])
def test_is_a_scikit_learn_regressor(estimator, check):
    check(estimator)


@pytest.mark.parametrize(
    ("call", "part"),
    [
        (lambda: toy(alpha=1.2), "alpha=1.2"),
        (lambda: toy(rounds=0), "rounds=0"),
        (lambda: toy(rounds=1.5), "rounds=1.5"),
        (lambda: toy(alpha=[0.1, 0.2], rounds=3), "2 weights for 3 rounds"),
        (lambda: toy(alpha=[0.1, 0.2], rounds=math.inf), "2 weights for inf rounds"),
        (lambda: toy().iterate("optimal", 3), "X_val and y_val"),
        (lambda: toy().iterate("optimal", math.inf, X_VAL, Y_VAL), "number of rounds"),
        (lambda: toy().iterate("optimal", 0, X_VAL, Y_VAL), "rounds=0"),
        (lambda: toy().iterate("optmal", 3, X_VAL, Y_VAL), "alpha='optmal'"),
        (lambda: toy().iterate("optimal", 3, X_VAL, Y_VAL[:, None]), "give both as"),
        (lambda: gt.GuidedRidge(lam=0.0).fit(X, Y), "lam=0.0"),
        (lambda: gt.GuidedRidge(kernel=lambda a, b: -float((a * b).sum()) - 1).fit(X, Y), "negative eigenvalue"),
        (lambda: toy(landmarks=0), "landmarks=0"),
        (lambda: fit(gt.GuidedTargets(make(0), mlp(5, 4)), DATA, PLAN), "3 classes in the student, 4 in the teacher"),
        (lambda: gt.GuidedTargets(mlp(2, 2), alpha=-0.1), "alpha=-0.1"),
        (lambda: guided_rounds(make, {}, Plan(steps=1)), "held-out"),
        (lambda: guided_rounds(make, {}, Plan(steps=1), rounds=0, alpha=0.5), "rounds=0"),
        (lambda: guided_rounds(make, {}, Plan(steps=1), alpha="optmal"), "from 0 to 1 or optimal"),
        (lambda: guided_rounds(make, {}, Plan(steps=1), alpha=1.5), "alpha=1.5"),
    ],
)
def test_wrong_input_is_refused(call, part):
    with pytest.raises(UserError, match=part):
        call()


# ---- networks ----

IMAGE, LABEL = torch.from_numpy(RNG.standard_normal((60, 5))).float(), torch.arange(60) % 3
DATA, HELD_OUT = {"image": IMAGE[:40], "label": LABEL[:40]}, {"image": IMAGE[40:], "label": LABEL[40:]}
PLAN = Plan(steps=12, batch_size=20, lr=0.02, optimizer="adam", device="cpu")


def make(k):
    torch.manual_seed(k)
    return mlp(5, 3, [8])


def terms(alpha, penalty=0.0):
    method = gt.GuidedTargets(make(0), make(1), alpha=alpha, penalty=penalty)
    return method.loss("student", method.prepare(DATA, bare_progress()), bare_progress()), method


def test_the_loss_of_a_round():
    found, method = terms(0.3, penalty=0.01)
    p, said = make(0)(DATA["image"]).softmax(1), make(1)(DATA["image"]).softmax(1)
    hard = torch.eye(3)[DATA["label"]]
    mse = torch.nn.functional.mse_loss
    torch.testing.assert_close(found.terms["labels"], 0.3 * mse(p, hard))
    torch.testing.assert_close(found.terms["teacher"], 0.7 * mse(p, said))
    norms = sum(float(w.detach().square().sum()) ** 0.5 for w in method.student.parameters())
    assert found.terms["penalty"].item() == pytest.approx(0.01 * norms, rel=1e-6)


def test_mixing_losses_is_mixing_targets():
    found, method = terms(0.3)
    slope = torch.autograd.grad(found.total, list(method.student.parameters()))
    target = 0.3 * torch.eye(3)[DATA["label"]] + 0.7 * method.teacher(DATA["image"]).softmax(1).detach()
    one = (method.student(DATA["image"]).softmax(1) - target).square().mean()
    for a, b in zip(slope, torch.autograd.grad(one, list(method.student.parameters()))):
        torch.testing.assert_close(a, b)


def test_without_a_teacher_the_labels_are_all():
    alone = gt.GuidedTargets(make(0), alpha=0.3, penalty=0.0)
    found = alone.loss("student", alone.prepare(DATA, bare_progress()), bare_progress())
    assert found.terms.keys() == {"labels"}
    torch.testing.assert_close(found.total, terms(1.0)[0].total)


def test_rounds_with_one_weight_are_fits_one_after_the_other():
    rounds = guided_rounds(make, DATA, PLAN, rounds=3, alpha=0.4, penalty=1e-3)
    last = fit(gt.GuidedTargets(make(0), penalty=1e-3), DATA, PLAN).student
    for k in (1, 2):
        last = fit(gt.GuidedTargets(make(k), last, alpha=0.4, penalty=1e-3), DATA, PLAN).student
    assert [r.trainings for r in rounds] == [1, 2, 3] and [r.alpha for r in rounds] == [1.0, 0.4, 0.4]
    assert all(torch.equal(a, b) for a, b in zip(rounds[-1].student.parameters(), last.parameters()))


def test_the_best_weight_costs_one_more_training_a_round():
    rounds = guided_rounds(make, DATA, PLAN, held_out=HELD_OUT, rounds=3, penalty=0.0)
    assert [r.trainings for r in rounds] == [1, 3, 5] and all(0 <= r.alpha <= 1 for r in rounds)
    alone = fit(gt.GuidedTargets(make(4), rounds[0].student, alpha=0.0, penalty=0.0), DATA, PLAN).student
    (p_a, label), (p_b, _) = predict(rounds[0].student, HELD_OUT), predict(alone, HELD_OUT)
    hard, grid = torch.eye(3, dtype=torch.float64)[label], torch.linspace(0, 1, 4001, dtype=torch.float64)
    errors = [(x * p_a + (1 - x) * p_b - hard).square().sum() for x in grid]
    assert rounds[1].alpha == pytest.approx(float(grid[int(np.argmin(errors))]), abs=1e-3)
    paired = fit(gt.GuidedTargets(make(1), rounds[0].student, alpha=rounds[1].alpha, penalty=0.0), DATA, PLAN).student
    assert same_weights(rounds[1].student, paired)
